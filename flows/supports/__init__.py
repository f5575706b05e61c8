"""Where columns of data may lie, and the maps between there and the real line.

A flow with a support has no mass outside: `log_prob` is -inf there, and draws lie inside.

    flows.supports.real               all numbers
    flows.supports.positive           numbers above 0, such as incomes
    flows.supports.interval(a, b)     numbers from a to b, ends included, such as percentages
    flows.supports.circle(period)     a, a + period, a + 2 period .. are one point (flows.ncsf)
    flows.supports.integers(a, b)     a, a + 1 .. b; integers(0) are counts, integers() all of them
    flows.supports.categories(k)      0, 1 .. k - 1

Parameters of a model (`flows.targets`) may also be vectors that lie on the

    flows.supports.simplex                numbers above 0 that add up to 1
    flows.supports.ordered                numbers that rise
    flows.supports.correlation_cholesky   Cholesky factors of correlation matrices
"""

from flows.supports.columns import Columns, above_base, dequantized, of_columns, of_kind, space
from flows.supports.kinds import (
    ANGLES,
    Support,
    categories,
    circle,
    integers,
    interval,
    positive,
    real,
)
from flows.supports.maps import NUM_CELL_POINTS, cell_points, from_real, outside, rounded, to_real
from flows.supports.tables import require_inside, unbounded, unconstrained
from flows.supports.vectors import VectorSupport, correlation_cholesky, ordered, simplex

__all__ = [
    "ANGLES",
    "NUM_CELL_POINTS",
    "Columns",
    "Support",
    "VectorSupport",
    "above_base",
    "categories",
    "cell_points",
    "circle",
    "correlation_cholesky",
    "dequantized",
    "from_real",
    "integers",
    "interval",
    "of_columns",
    "of_kind",
    "ordered",
    "outside",
    "positive",
    "real",
    "require_inside",
    "rounded",
    "simplex",
    "space",
    "to_real",
    "unbounded",
    "unconstrained",
]

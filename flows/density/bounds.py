"""Data at a bound: a warning where the flow does not know it, and noise that would cross it."""

import warnings
from typing import Any

import numpy as np
from scipy import special

from flows import _disk
from flows._columns import sample_of
from flows.supports import Columns, of_kind

MIN_ROWS = 1000
MAX_NEAREST = 200  # rows next to an end that are looked at, at most


def warn_of_bounds(x: Any, columns: Columns | None, widths: Any) -> None:
    """Warns if x [N, D] ends abruptly where the support does not.

    Args:
        x: Rows, in memory or on disk.
        columns: The supports that the flow knows.
        widths: Of the noise in each column, or of the steps between its values [D].
    """
    if len(x) < MIN_ROWS:
        return
    sample = sample_of(x).astype(np.float64)
    sample = sample + np.asarray(widths) * np.random.default_rng(0).random(sample.shape)
    touched = np.array([touched_ends(column, 2 * sample.shape[1]) for column in sample.T])
    if columns is not None:
        ends = np.array([support.ends for support in columns])
        touched &= ~np.isfinite(ends)
    where = np.flatnonzero(touched.any(axis=1))
    if where.size:
        column = where[0]
        name, value = "least", sample[:, column].min()
        if not touched[column, 0]:
            name, value = "largest", sample[:, column].max()
        warnings.warn(
            f"x touches a bound in {where.size} of {len(touched)} columns: column {column} has as "
            f"many values next to its {name}, about {value:.4g}, as elsewhere, and the flow will "
            "put mass beyond. Build it with support=, such as flows.supports.positive or "
            "flows.supports.interval(a, b), one for each column.",
            stacklevel=4,
        )


def touched_ends(values: np.ndarray, num_tests: int = 2) -> tuple[bool, bool]:
    r"""Whether a density does not fall off towards its least and its largest value.

    The more ends are tested the surer it has to be.

    Of the k values next to an end, the distances d_i from it, in units of that of the k-th, are
    looked at: the mean of -log d_i is 1 +- 1 / sqrt(k) where the density is flat at the end, 1 / 2
    where it rises linearly from zero, and less where it has a tail, of 0.2 to 0.4 for a normal
    one (the estimate of the extreme value index by Falk 1995, Ann. Inst. Statist. Math. 47). It
    does not depend on units.
    """
    num_nearest = min(len(values) // 20, MAX_NEAREST)
    limit = 0.6 + special.ndtri(1 - 0.01 / num_tests) / 1.5 / num_nearest**0.5
    low = np.sort(np.partition(values, num_nearest)[: num_nearest + 1])
    high = np.sort(np.partition(-values, num_nearest)[: num_nearest + 1])
    return _flatness(low) > limit, _flatness(high) > limit


def _flatness(nearest: np.ndarray) -> float:
    distances = nearest[1:] - nearest[0]
    if not distances[-1] > 0:
        return np.inf
    return float(-np.log(np.maximum(distances[:-1] / distances[-1], 1e-3)).mean())


def require_room(x: Any, columns: Columns | None, noise: Any) -> None:
    """Raises if noise above the values of x would leave their support."""
    if columns is None or noise is None:
        return
    high = np.where(of_kind(columns, "continuous"), [support.high for support in columns], np.inf)
    width = np.asarray(noise)
    for _, block in _disk.blocks(x):
        beyond = ((block + width > high) & (width > 0)).any(axis=0)
        if beyond.any():
            column = int(beyond.argmax())
            raise ValueError(
                f"dequantize adds noise of up to {width[column]:g} to column {column}, and leaves "
                f"its support {columns[column]}: give it a width of 0, or a support that leaves "
                "room for it, such as flows.supports.integers."
            )

"""Whether held-out rows lie where a fit says."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from flows import _checks, _levels
from flows.plotting.canvas import grid, panels, require
from flows.plotting.levels import draw_coverage, draw_gaps
from flows.plotting.points import names_for

SHARED_DRAWS, OWN_DRAWS = 10_000, 200  # of a flow without context; at each context
BLOCK = 10_000  # draws at once


def coverage(
    flow: Any,
    x: Any,
    context: Any = None,
    *,
    key: jax.Array,
    names: Sequence[str] | None = None,
    axes: Any = None,
) -> Figure:
    """Whether held-out rows lie where the flow says: their places among its draws.

    By each column, the share of draws below the row: the probability integral transform (PIT). By
    the density, the share of draws where it is larger: the credibility of the smallest
    highest-density region that has the row in it. Both are uniform on [0, 1] where the flow is
    right, ties broken at random. A flow without context is compared by 10,000 draws, the same for
    all rows; a conditional one by 200 draws at the context of each row.

    The first sees single columns alone, over all rows; the second what they have to do with one
    another. `flows.check_calibration` says in numbers, and with one more check, what this shows of
    a conditional flow.

    Args:
        flow: A `flows.Flow` or `flows.Ensemble`; or any distribution [D] with `sample` and
            `log_prob`.
        x: Rows [n, D] that the flow was not fitted to, an array or a frame.
        context: Their contexts [n, C], for a conditional flow.
        key: Random key.
        names: Names of the D columns; by default those of the frame.
        axes: Two axes to draw on.

    Returns:
        The figure: for each column the share of rows up to a level, less that level; and the
        coverage of highest-density regions against their credibility. The grey band holds all of a
        curve with a probability of 95 % where the flow is right; a thick or orange one has a
        p-value below 0.01 over their number.

    Raises:
        TypeError: x or the context does not hold numbers.
        ValueError: Wrong shapes, non-finite values (the error names the row), or a context that is
            missing or unwanted.

    Cost: of a flow without context n + 10,000 log densities and 10,000 draws, and with one 201 n
        and 200 n of them, 10,000 at once.

    Examples:
        >>> import flows, jax
        >>> x = jax.random.normal(jax.random.key(0), (500, 2))
        >>> figure = flows.plotting.coverage(flows.StandardNormal(2), x, key=jax.random.key(1))
        >>> figure.axes[1].get_ylabel()
        'coverage'
    """
    size, context_size = _sizes(flow)
    key = _checks.prng_key("key", key)
    _checks.context_wanted("context", context is not None, context_size)
    own = x.columns if _checks.is_frame(x) else None
    names = names_for(size, own if names is None else names)
    x = _checks.table("x", x, size, integers=True)
    number = float(len(x))
    if context is None:
        levels = _among_shared(flow, x, key)
        number /= 1 + len(x) / SHARED_DRAWS  # draws err too, for all rows alike
    else:
        context = _checks.table("context", context, context_size, integers=True)
        _checks.same_length("context", context, "x", x)
        levels = np.concatenate(list(_among_own(flow, x, context, key)))
    shown = panels(axes, grid(2, 2))
    p_values = np.array([_levels.p_value(column, number) for column in levels.T])
    failed = p_values < _levels.FALSE_ALARMS / len(p_values)
    band = _levels.largest_gap(0.05, number)
    draw_gaps(shown[0], levels[:, :-1], names, failed[:-1], band)
    shown[0].set_xlabel("share of draws below (PIT)")
    shown[0].set_title("columns, among draws", fontsize=10)
    draw_coverage(shown[1], levels[:, -1], p_values[-1], bool(failed[-1]), band)
    shown[1].set_title("highest-density regions", fontsize=10)
    return shown[0].figure


def _sizes(flow: Any) -> tuple[int, int | None]:
    """Its number of columns, and of those of its context."""
    for method in ("sample", "log_prob"):
        require("flow", flow, method, "a distribution with sample and log_prob, of a fit its .flow")
    shapes = tuple(flow.batch_shape), tuple(flow.event_shape)
    if shapes[0] or len(shapes[1]) != 1:
        raise ValueError(
            "flow must be one distribution of rows [D], got batch shape {} and event shape {}: "
            "pass a conditional flow itself, and context=...".format(*shapes)
        )
    return shapes[1][0], getattr(flow, "context_size", None)


def _among_shared(flow: Any, x: jax.Array, key: jax.Array) -> np.ndarray:
    """Levels of rows [n, D] among the same draws, by columns and by -log density [n, D + 1]."""
    draw_key, tie_key = jax.random.split(key)
    draws = _with_density(flow, flow.sample(seed=draw_key, sample_shape=(SHARED_DRAWS,)))
    rows = _with_density(flow, x)
    below, up_to = (
        np.stack(
            [
                np.searchsorted(np.sort(of_draws), of_rows, side=side)
                for of_draws, of_rows in zip(draws.T, rows.T, strict=True)
            ],
            axis=1,
        )
        for side in ("left", "right")
    )
    return _levels_of(below, up_to, SHARED_DRAWS, tie_key)


def _among_own(flow: Any, x: jax.Array, context: jax.Array, key: jax.Array) -> Iterator[np.ndarray]:
    """Levels of rows [n, D] among draws at the context of each, a block of rows at a time."""
    size = min(len(x), BLOCK // OWN_DRAWS)
    for first in range(0, len(x), size):
        block = np.arange(first, first + size) % len(x)  # the last is as long, for one program
        draw_key, tie_key = jax.random.split(jax.random.fold_in(key, first))
        bound = flow.condition(context[block])
        draws = _with_density(bound, bound.sample(seed=draw_key, sample_shape=(OWN_DRAWS,)))
        rows = _with_density(bound, x[block])
        below, up_to = (draws < rows).sum(axis=0), (draws <= rows).sum(axis=0)
        yield _levels_of(below, up_to, OWN_DRAWS, tie_key)[: len(x) - first]


def _with_density(flow: Any, x: jax.Array) -> np.ndarray:
    """Points [..., D] and their -log density [..., D + 1]."""
    return np.concatenate([np.asarray(x), -np.asarray(flow.log_prob(x))[..., None]], axis=-1)


def _levels_of(below: np.ndarray, up_to: np.ndarray, num_draws: int, key: jax.Array) -> np.ndarray:
    """Levels of rows with so many draws below them, and up to them: anywhere among equals."""
    tie = np.asarray(jax.random.uniform(key, below.shape), np.float64)
    return (below + tie * (up_to - below + 1)) / (num_draws + 1)

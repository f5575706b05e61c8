"""Sets of points with the names of their columns, and the bins they are counted in."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from flows import _checks
from flows._structures import names_of
from flows.plotting.canvas import COLOURS

CUT = 0.001  # of the points, on either side, that bins need not hold


class Points(NamedTuple):
    """Sets of points.

    Attributes:
        sets: Finite points [n, D] by label, of which there may be none (""); the label says how
            many rows were left out, if any.
        names: Names of the D columns.
    """

    sets: dict[str, np.ndarray]
    names: list[str]


def read(
    name: str, samples: Any, names: Sequence[str] | None, num_columns: int | None = None
) -> Points:
    """Reads what users give for sets of points.

    Args:
        name: What the caller calls the argument.
        samples: Points, or a mapping from labels to points: arrays [n, D], frames, or parameters
            by their names, a pytree of arrays [n, ..].
        names: Names of the columns; by default those of the first set that has names.
        num_columns: D, if it is known.

    Raises:
        TypeError: A column does not hold numbers; the error names it.
        ValueError: No set or more than there are colours, other columns than those of the first,
            or no row that is finite.
    """
    given = samples if isinstance(samples, Mapping) else {"": samples}
    if not 1 <= len(given) <= len(COLOURS):
        raise ValueError(f"{name} must hold 1 to {len(COLOURS)} sets, got {len(given)}.")
    sets: dict[str, np.ndarray] = {}
    known: list[str] | None = None
    for label, points in given.items():
        called = f"{name}[{label!r}]" if isinstance(samples, Mapping) else name
        values, own = _table(called, points)
        num_columns = num_columns or values.shape[1]
        if values.shape[1] != num_columns:
            raise ValueError(f"{called} must have {num_columns} columns, got {values.shape[1]}.")
        if known and own and known != own:
            raise ValueError(f"{called} must have the columns {known}, got {own}.")
        known = known or own
        finite = np.isfinite(values).all(axis=1)
        if not finite.any():
            raise ValueError(f"{called} has no finite rows, its shape is {values.shape}.")
        sets[_label(label, len(finite) - finite.sum())] = values[finite]
    return Points(sets, names_for(num_columns or 0, known if names is None else names))


def names_for(num_columns: int, names: Sequence[Any] | None) -> list[str]:
    """The names of so many columns; "x0", "x1", .. where they have none.

    Raises:
        ValueError: They are not as many.
    """
    names = [f"x{i}" for i in range(num_columns)] if names is None else list(names)
    if len(names) != num_columns:
        raise ValueError(f"names must be {num_columns}, one for each column, got {len(names)}.")
    return [str(name) for name in names]


def _label(label: Any, num_left_out: int) -> str:
    """The label, and how many rows are not shown."""
    left_out = f"{num_left_out:,} rows not finite" if num_left_out else ""
    return f"{label} ({left_out})" if label and left_out else str(label) or left_out


def _table(name: str, points: Any) -> tuple[np.ndarray, list[str] | None]:
    """The numbers [n, D] of one set, and the names of its columns if it has any."""
    columns = None
    if _checks.is_frame(points):
        values, columns = _checks.frame_values(name, points), [str(c) for c in points.columns]
    elif isinstance(points, Mapping) or hasattr(points, "_fields"):
        num_rows = _checks.num_rows(name, points)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(points)]
        values = np.concatenate([leaf.reshape(num_rows, -1) for leaf in leaves], axis=1)
        columns = list(names_of(jax.tree.map(lambda leaf: np.asarray(leaf)[0], points)))
    else:
        values = np.asarray(points)
    _checks.numbers(name, values)
    if values.ndim != 2 or not values.shape[1]:
        advice = {
            1: f": for one column pass {name}[:, None], and parameters by their names as one set, "
            '{"posterior": draws}',
            3: ": several sets go into a mapping from their labels",
        }.get(values.ndim, "")
        raise ValueError(f"{name} must have shape [rows, columns], got {values.shape}{advice}.")
    return values.astype(np.float64), columns


def edges(values: np.ndarray, num_bins: int, cut: float = CUT) -> np.ndarray:
    """Edges of bins for values [n]; those of whole numbers lie between these.

    Args:
        values: Finite values.
        num_bins: Number of bins; of whole numbers about so many at most.
        cut: Share of the values on either side that may lie outside.

    Examples:
        >>> import numpy as np
        >>> from flows.plotting.points import edges
        >>> edges(np.array([0.0, 0.5, 1.0]), 2, cut=0.0).tolist()
        [0.0, 0.5, 1.0]
        >>> edges(np.array([1, 3, 2]), 40).tolist()
        [0.5, 1.5, 2.5, 3.5]
    """
    low, high = np.quantile(values, [cut, 1 - cut])
    if (values == np.round(values)).all():
        low, high = np.floor(low), np.ceil(high)
        step = max(1.0, np.ceil((high - low) / num_bins))
        return np.arange(low - 0.5, high + step, step)
    size = max(abs(low), abs(high))
    if high - low < num_bins * np.spacing(size):  # all but constant
        low, high = low - max(size, 1e-3) / 2, high + max(size, 1e-3) / 2
    return np.linspace(low, high, num_bins + 1)


def heights(values: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Histogram of values [n], as a density of all of them: also of those outside of the bins."""
    return np.histogram(values, bins)[0] / (len(values) * np.diff(bins))


def level_holding(share: float, heights: np.ndarray) -> float:
    """The height above which so much of the total lies, of heights on equal cells.

    Examples:
        >>> import numpy as np
        >>> from flows.plotting.points import level_holding
        >>> level_holding(0.7, np.array([1.0, 6.0, 3.0]))
        3.0
    """
    ordered = np.sort(heights, axis=None)[::-1]
    held = np.cumsum(ordered)
    return float(ordered[min(np.searchsorted(held, share * held[-1]), held.size - 1)])

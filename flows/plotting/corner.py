"""Corner plots: every column against every other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flows import _checks
from flows.plotting.canvas import COLOURS, new_figure, panels, wrapped
from flows.plotting.points import edges, heights, level_holding, read

MOST_COLUMNS = 20
SIDE = 1.5  # inches of a panel
SHARES = (0.865, 0.393)  # held by contours: two and one sigma of a plane normal


def corner(
    samples: Any, names: Sequence[str] | None = None, *, num_bins: int = 40, axes: Any = None
) -> Figure:
    """Corner plot that lays several sets of points over one another.

    Args:
        samples: Points [n, D], an array or a frame; or up to six sets of them by label. Under a
            label, parameters by their names do too: `{"posterior": posterior.sample(...)}`. Rows
            that are not finite are left out, which the legend says.
        names: Names of the D columns; by default those of the first frame.
        num_bins: Histogram bins along each axis, over 99.8 % of the points of the first set.
        axes: Axes to draw on, D x D; those above the diagonal are hidden.

    Returns:
        The figure: histograms on the diagonal, contours holding 39 % and 86 % (one and two
        sigma of a plane normal) of the points below it.

    Raises:
        TypeError: A column does not hold numbers.
        ValueError: Wrong shapes or numbers of sets, columns that differ, more than 20 of them, or
            a set without finite rows; the error names it.

    Examples:
        >>> import flows, numpy as np
        >>> draws = {"a": np.eye(3), "b": np.ones((5, 3))}
        >>> figure = flows.plotting.corner(draws, ["x", "y", "z"])
        >>> [axis.get_xlabel() for axis in figure.axes[-3:]]
        ['x', 'y', 'z']
    """
    num_bins = _checks.positive_int("num_bins", num_bins)
    sets, names = read("samples", samples, names)
    size = len(names)
    if size > MOST_COLUMNS:
        raise ValueError(
            f"samples has {size} columns, and a corner plot has room for {MOST_COLUMNS}: choose "
            "some, such as samples[:, :5], or see flows.plotting.marginals."
        )
    bins = [edges(column, num_bins) for column in next(iter(sets.values())).T]
    square = np.array(_square(size) if axes is None else panels(axes, np.arange(size**2)[None]))
    square = square.reshape(size, size)
    for (row, column), axis in np.ndenumerate(square):
        if column > row:
            axis.set_axis_off()
            continue
        for (label, points), colour in zip(sets.items(), COLOURS, strict=False):
            if row == column:
                height = heights(points[:, row], bins[row])
                axis.stairs(height, bins[row], color=colour, label=label, linewidth=1.2)
            else:
                _contours(axis, points[:, [column, row]], bins[column], bins[row], colour)
        _label(axis, row, column, names, bins)
    handles = square[0, 0].get_legend_handles_labels()
    if handles[0]:
        legend = square[0, -1].legend(*handles, loc="upper right", fontsize=11, frameon=size == 1)
        legend.set_in_layout(False)  # it may be wider than its panel
    return square[0, 0].figure


def _square(size: int) -> list[Axes]:
    """The axes of a new figure; its margins are set, as a search for them takes seconds."""
    left, bottom, edge = 0.9, 0.85, 0.12  # inches
    side = max(SIDE, 3.2 / size)
    width, height = left + size * side + edge, bottom + size * side + edge
    figure = new_figure(width, height)
    room = {"left": left / width, "bottom": bottom / height}
    room |= {"right": 1 - edge / width, "top": 1 - edge / height}
    square = figure.subplots(
        size, size, squeeze=False, gridspec_kw={"wspace": 0.08, "hspace": 0.08} | room
    )
    figure.align_labels(square)
    return list(square.flat)


def _label(axis: Axes, row: int, column: int, names: list[str], bins: list[np.ndarray]) -> None:
    axis.tick_params(labelsize=8)
    axis.set_xlim(*bins[column][[0, -1]])
    axis.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
    axis.tick_params(axis="x", labelrotation=45, labelbottom=row == len(names) - 1)
    if row == column:
        axis.set_ylim(bottom=0)
        axis.set_yticks([])
    else:
        axis.set_ylim(*bins[row][[0, -1]])
        axis.yaxis.set_major_locator(MaxNLocator(3, prune="both"))
        axis.tick_params(axis="y", labelleft=column == 0)
    if row == len(names) - 1:
        axis.set_xlabel(wrapped(names[column]))
    if column == 0 < row:
        axis.set_ylabel(wrapped(names[row]))


def _contours(
    axis: Axes, points: np.ndarray, x_bins: np.ndarray, y_bins: np.ndarray, colour: str
) -> None:
    """Contours of the smoothed counts of points [n, 2], closed at the borders of the picture."""
    counts = np.histogram2d(points[:, 0], points[:, 1], [x_bins, y_bins])[0].T
    if not counts.any():
        return  # nothing of this set lies in the picture
    padded = np.pad(counts, 1, mode="edge")
    smooth = np.zeros_like(counts)
    for j, i in np.ndindex(3, 3):  # 3 x 3 binomial filter
        window = padded[j : j + counts.shape[0], i : i + counts.shape[1]]
        smooth += (0.25, 0.5, 0.25)[j] * (0.25, 0.5, 0.25)[i] * window
    # Of one cell that holds all, a contour of its height would be a point.
    levels = np.unique([0.999 * level_holding(share, smooth) for share in SHARES])
    centres = [_outwards(bins) for bins in (x_bins, y_bins)]
    axis.contour(*centres, np.pad(smooth, 1), levels=levels, colors=colour, linewidths=1.1)


def _outwards(bins: np.ndarray) -> np.ndarray:
    """Centres of bins, and of one more on either side."""
    step = bins[1] - bins[0]
    return np.concatenate([[bins[0] - step / 2], (bins[1:] + bins[:-1]) / 2, [bins[-1] + step / 2]])

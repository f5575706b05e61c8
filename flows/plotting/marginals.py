"""Histograms of single columns."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flows import _checks
from flows.plotting.canvas import COLOURS, SMALL, grid, panels, wrapped
from flows.plotting.points import edges, heights, read

MOST_PANELS = 100


def marginals(
    samples: Any, names: Sequence[str] | None = None, *, num_bins: int = 40, axes: Any = None
) -> Figure:
    """Histograms of each column, several sets of points laid over one another.

    Args:
        samples: As in `corner`.
        names: Names of the D columns; by default those of the first frame.
        num_bins: Bins of each column, over 99.8 % of the points of the first set.
        axes: D axes to draw on.

    Returns:
        The figure: densities, of all points of a set, also of those outside of the bins.

    Raises:
        TypeError: A column does not hold numbers.
        ValueError: As of `corner`, with 100 columns at most.

    Examples:
        >>> import flows, numpy as np
        >>> draws = {"a": np.eye(3), "b": np.ones((5, 3))}
        >>> figure = flows.plotting.marginals(draws, ["x", "y", "z"])
        >>> [axis.get_xlabel() for axis in figure.axes]
        ['x', 'y', 'z']
    """
    num_bins = _checks.positive_int("num_bins", num_bins)
    sets, names = read("samples", samples, names)
    if len(names) > MOST_PANELS:
        raise ValueError(
            f"samples has {len(names)} columns, and there is room for {MOST_PANELS}: choose some, "
            "such as samples[:, :50]."
        )
    shown = panels(axes, grid(len(names), 3), size=(2.2, 2.0))
    first = next(iter(sets.values()))
    for i, (axis, name) in enumerate(zip(shown, names, strict=True)):
        bins = edges(first[:, i], num_bins)
        for (label, points), colour in zip(sets.items(), COLOURS, strict=False):
            axis.stairs(heights(points[:, i], bins), bins, color=colour, label=label, linewidth=1.2)
        axis.set(xlim=bins[[0, -1]], xlabel=wrapped(name), yticks=[])
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    handles = shown[0].get_legend_handles_labels()
    if handles[0] and axes is None:
        shown[0].figure.legend(*handles, loc="outside upper left", ncols=2, **SMALL)
    elif handles[0]:
        shown[0].legend(**SMALL)
    return shown[0].figure

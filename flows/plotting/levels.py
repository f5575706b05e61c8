"""Panels of levels, which are uniform on [0, 1] where a distribution is right."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from flows import _levels
from flows.plotting.canvas import BAND, COLOURS, SMALL

AT = np.linspace(0, 1, 201)


def draw_gaps(
    axis: Axes, levels: np.ndarray, names: Sequence[str], failed: np.ndarray, band: float
) -> None:
    """Draws by how much the coverage of levels is off, for each column.

    Args:
        axis: Axis to draw on.
        levels: Levels [n, D].
        names: Names of the D columns. If they are more than there are colours, those that failed
            and are furthest off are named.
        failed: Which columns failed their test [D]; their curves are thick.
        band: What gaps stay within by chance.
    """
    gaps = np.stack([_levels.share_below(column, AT) - AT for column in levels.T])
    worst = np.argsort(-np.abs(gaps).max(axis=1) - failed, kind="stable")[: len(COLOURS)]
    shown = [i for i in sorted(worst) if failed[i] or len(names) <= len(COLOURS)]
    named = dict(zip(shown, COLOURS, strict=False))
    for i, gap in enumerate(gaps):
        style = {"color": named[i], "label": names[i]} if i in named else {"color": "0.6"}
        axis.plot(AT, gap, linewidth=2.0 if failed[i] else 1.1, zorder=2 + (i in named), **style)
    axis.fill_between(AT, -band, band, color=BAND, linewidth=0)
    axis.axhline(0, color="0.4", linewidth=0.8, linestyle="--")
    most = max(2 * band, 1.15 * np.abs(gaps).max())
    axis.set(xlim=(0, 1), ylim=(-most, most), ylabel="share below - level")
    if named:
        axis.legend(**SMALL, ncols=2 if len(named) > 3 else 1)


def draw_coverage(
    axis: Axes, levels: np.ndarray, p_value: float, failed: bool, band: float
) -> None:
    """Draws the coverage of regions against their credibility, from levels [n]."""
    draw_diagonal(axis, band)
    curve = _levels.share_below(levels, AT)
    axis.plot(AT, curve, color=COLOURS[failed], label=f"p = {p_value:.2g}")
    axis.legend(loc="upper left", **SMALL)


def draw_diagonal(axis: Axes, band: float) -> None:
    """Draws where coverage is right, and what it stays within by chance."""
    axis.fill_between(AT, AT - band, AT + band, color=BAND, linewidth=0)
    axis.plot([0, 1], [0, 1], color="0.4", linewidth=0.8, linestyle="--")
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="credibility", ylabel="coverage")

"""Figures for looking at fits. Needs the extra `plots` (matplotlib)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

try:
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure
except ImportError as error:  # pragma: no cover
    raise ImportError('flows.plotting needs matplotlib: pip install "flows-jax[plots]".') from error

COLOURS = ("#1b4f72", "#d35400", "#1e8449")


def corner(
    samples: Mapping[str, Any], names: Sequence[str] | None = None, *, num_bins: int = 40
) -> Figure:
    """Corner plot that lays several sets of points over one another.

    Args:
        samples: Points [n, D] by their label; the ranges are those of the first set.
        names: Names of the D coordinates.
        num_bins: Histogram bins along each axis.

    Returns:
        The figure: histograms on the diagonal, contours holding 39 % and 86 % (one and two
        sigma of a plane normal) of the points below it.
    """
    sets = {label: np.asarray(points) for label, points in samples.items()}
    if not 1 <= len(sets) <= len(COLOURS):
        raise ValueError(f"samples must hold 1 to {len(COLOURS)} sets, got {len(sets)}.")
    first = next(iter(sets.values()))
    size = first.shape[1]
    names = [f"x{i}" for i in range(size)] if names is None else list(names)
    low, high = np.quantile(first, [0.001, 0.999], axis=0)
    edges = np.linspace(low, high, num_bins).T
    figure, axes = plt.subplots(size, size, figsize=(1.6 * size, 1.6 * size), squeeze=False)
    for row in range(size):
        for column in range(size):
            axis = axes[row, column]
            axis.set_visible(column <= row)
            axis.tick_params(labelsize=6)
            axis.set_xlim(edges[column][[0, -1]])
            if row < size - 1:
                axis.set_xticklabels([])
            if column or not row:
                axis.set_yticklabels([])
            for (label, points), colour in zip(sets.items(), COLOURS, strict=False):
                if row == column:
                    style = {"histtype": "step", "color": colour, "label": label}
                    axis.hist(points[:, row], edges[row], density=True, **style)
                elif column < row:
                    _contours(
                        axis, points[:, column], points[:, row], edges[column], edges[row], colour
                    )
        axes[size - 1, row].set_xlabel(names[row])
        if row:
            axes[row, 0].set_ylabel(names[row])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", fontsize=11)
    figure.subplots_adjust(0.08, 0.07, 0.98, 0.98, wspace=0.08, hspace=0.08)
    return figure


def _contours(axis, x, y, x_edges, y_edges, colour) -> None:
    counts = np.histogram2d(x, y, (x_edges, y_edges))[0].T
    padded = np.pad(counts, 1, mode="edge")
    smooth = np.zeros_like(counts)
    for j, i in np.ndindex(3, 3):  # 3 x 3 binomial filter
        window = padded[j : j + counts.shape[0], i : i + counts.shape[1]]
        smooth += (0.25, 0.5, 0.25)[j] * (0.25, 0.5, 0.25)[i] * window
    ordered = np.sort(smooth.ravel())[::-1]
    cumulative = np.cumsum(ordered) / max(ordered.sum(), 1)
    if not ordered.any():
        return  # nothing of this set lies in the picture
    levels = np.unique([ordered[np.searchsorted(cumulative, share)] for share in (0.865, 0.393)])
    centres = [(edges[1:] + edges[:-1]) / 2 for edges in (x_edges, y_edges)]
    axis.contour(*centres, smooth, levels=levels, colors=colour, linewidths=0.9)
    axis.set_ylim(y_edges[[0, -1]])


def losses(histories: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Loss curves, one panel for each history.

    Args:
        histories: Histories by title, such as `{"MAF": result.history}`; each holds curves by
            name. Long curves (one value a step) are smoothed by a running median.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(
        1, len(histories), figsize=(4.2 * len(histories), 3.2), squeeze=False
    )
    for axis, (title, curves) in zip(axes[0], histories.items(), strict=True):
        for (name, values), colour in zip(curves.items(), COLOURS, strict=False):
            values = np.asarray(values)
            width = max(1, len(values) // 200)
            blocks = values[: len(values) // width * width].reshape(-1, width)
            shown = np.ma.median(np.ma.masked_invalid(blocks), axis=1).filled(np.nan)
            axis.plot(width * (np.arange(len(shown)) + 1), shown, color=colour, label=name)
            if len(shown) > 10 and (shown > 0).all() and shown.max() > 30 * shown.min():
                axis.set_yscale("log")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch" if len(values) < 500 else "step")
        axis.set_ylabel("loss in nats")
        axis.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    return figure


def distillation(report: Any) -> Figure:
    """How far a student is from its teacher, draw by draw, and how fast both are.

    Args:
        report: A `flows.DistillReport`.

    Returns:
        The figure: the share of the draws of each whose log densities differ by more than so many
        nats, and draws a second against the number drawn at once.
    """
    figure, (tail, speed) = plt.subplots(1, 2, figsize=(9, 3.4))
    estimates = report.kl_student_teacher, report.kl_teacher_student
    names = "KL(student || teacher)", "KL(teacher || student)"
    for ratios, estimate, name, colour in zip(
        report.log_ratios, estimates, names, COLOURS, strict=False
    ):
        sizes = np.sort(np.abs(ratios[np.isfinite(ratios)]))[::-1]
        shares = (np.arange(len(sizes)) + 1) / len(ratios)
        tail.loglog(sizes, shares, color=colour, label=f"{name} = {estimate}")
    tail.set_xlabel("|log teacher - log student| in nats, or more")
    tail.set_ylabel("share of the draws")
    batches = [timing.num_draws for timing in report.timings]
    for name, colour in zip(("teacher", "student"), COLOURS, strict=False):
        rates = [timing.num_draws / getattr(timing, name) for timing in report.timings]
        speed.loglog(batches, rates, "o-", color=colour, label=name)
    speed.set_xlabel("draws at once")
    speed.set_ylabel("draws a second")
    for axis in (tail, speed):
        axis.legend(fontsize=8, frameon=False)
    figure.suptitle(report.verdict, fontsize=10)
    figure.tight_layout()
    return figure


def calibration(report: Any) -> Figure:
    """Whether the draws of a posterior are spread as the parameters are.

    Args:
        report: A `flows.CalibrationReport`.

    Returns:
        The figure: for each parameter the share of ranks up to a level, less that level; coverage
        of highest-density regions, and of regions around random points, against their credibility.
        Curves of an exact posterior stay within the grey band in 95 % of reports.
    """
    figure, (ranks, *coverages) = plt.subplots(1, 3, figsize=(11, 3.7))
    level = np.linspace(0, 1, 201)
    below = (report.ranks + 0.5) / (report.num_draws + 1)
    failed = report.p_values < report.least_p_value
    colours = [*COLOURS, "#7d3c98", "#b7950b", "#16a085"]
    worst = np.sort(np.argsort(report.p_values)[: len(colours)])
    shown = [i for i in worst if failed[i] or len(failed) <= len(colours)]
    named = dict(zip(shown, colours, strict=False))
    for i, (column, name) in enumerate(zip(below.T, report.names, strict=True)):
        gap = np.searchsorted(np.sort(column), level, side="right") / len(column) - level
        style = {"color": named[i], "label": name} if i in named else {"color": "0.6"}
        width = 1.8 if failed[i] else 1.0
        ranks.plot(level, gap, linewidth=width, zorder=2 + (i in named), **style)
    ranks.fill_between(level, -report.band, report.band, color="0.9", linewidth=0)
    ranks.axhline(0, color="0.4", linewidth=0.8, linestyle="--")
    most = max(2 * report.band, *(1.15 * np.abs(line.get_ydata()).max() for line in ranks.lines))
    ranks.set(xlim=(0, 1), ylim=(-most, most), xlabel="rank / draws", ylabel="share below - level")
    ranks.set_title("ranks of the parameters", fontsize=10)
    titles = {"HPD": "highest-density regions", "TARP": "distance to reference points"}
    curves = report.coverage(level)
    for axis, (name, title) in zip(coverages, titles.items(), strict=True):
        axis.fill_between(level, level - report.band, level + report.band, color="0.9", linewidth=0)
        axis.plot([0, 1], [0, 1], color="0.4", linewidth=0.8, linestyle="--")
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="credibility", ylabel="coverage")
        axis.set_title(f"{title} ({name})", fontsize=10)
        if name in curves:
            p_value = report.hpd_p_value if name == "HPD" else report.tarp_p_value
            bad = p_value < report.least_p_value
            axis.plot(level, curves[name], color=COLOURS[bad], label=f"p = {p_value:.2g}")
        else:
            axis.text(0.05, 0.9, "not known of draws alone", fontsize=8)
    for axis in figure.axes:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, frameon=False, loc="best" if axis is ranks else "upper left")
    figure.suptitle(report.verdict, fontsize=10, wrap=True)
    figure.tight_layout()
    return figure

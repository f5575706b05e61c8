"""What a report of a distillation shows."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flows.plotting.canvas import COLOURS, SMALL, grid, headline, panel, panels, require
from flows.plotting.points import edges, heights

NUM_BINS = 80
WANTED = "the DistillReport of a teacher with draws and a density, result.report"


def log_ratios(report: Any, *, axis: Axes | None = None) -> Axes:
    """Histograms of log teacher - log student, at the draws of each.

    Args:
        report: A `flows.DistillReport`.
        axis: Axis to draw on.

    Returns:
        The axis. Of equals all would be zero. Draws of the teacher far to the right are where the
        student has too little mass, draws of the student far to the left where it has too much.

    Raises:
        TypeError: It is no such report.
        ValueError: None of its log ratios is finite.
    """
    require("report", report, "log_ratios", WANTED)
    axis = panel(axis)
    known = [ratios[np.isfinite(ratios)] for ratios in report.log_ratios]
    together = np.concatenate(known).astype(np.float64)
    if not together.size:
        raise ValueError("report must have log ratios that are finite, got none.")
    bins = edges(together, NUM_BINS, cut=0.0)
    for ratios, name, colour in zip(known, ("student", "teacher"), COLOURS, strict=False):
        label = f"draws of the {name}"
        axis.stairs(heights(ratios, bins), bins, color=colour, label=label, linewidth=1.2)
    axis.axvline(0, color="0.4", linewidth=0.8, linestyle="--")
    axis.set_yscale("log")
    axis.set(xlabel="log teacher - log student (nats)", ylabel="density of the draws")
    axis.legend(**SMALL)
    return axis


def distillation(report: Any, *, axes: Any = None) -> Figure:
    """How far a student is from its teacher, draw by draw, and how fast both are.

    Args:
        report: A `flows.DistillReport`.
        axes: Two axes to draw on.

    Returns:
        The figure: the share of the draws of each whose log densities differ by more than so many
        nats, and draws a second against the number drawn at once.

    Raises:
        TypeError: It is no such report.
        ValueError: The axes are not two.
    """
    require("report", report, "log_ratios", WANTED)
    shown = panels(axes, grid(2, 2), size=(3.7, 3.4))
    _tails(report, shown[0])
    _speeds(report, shown[1])
    for axis in shown:
        axis.legend(**SMALL)
    if axes is None:
        headline(shown, report.verdict)
    return shown[0].figure


def _tails(report: Any, axis: Axes) -> None:
    estimates = report.kl_student_teacher, report.kl_teacher_student
    names = "KL(student || teacher)", "KL(teacher || student)"
    for ratios, estimate, name, colour in zip(
        report.log_ratios, estimates, names, COLOURS, strict=False
    ):
        sizes = np.sort(np.abs(ratios[np.isfinite(ratios)]))[::-1]
        shares = (np.arange(len(sizes)) + 1) / len(ratios)
        axis.loglog(sizes, shares, color=colour, label=f"{name}\n= {estimate}")
    axis.set(xlabel="|log teacher - log student| (nats), or more", ylabel="share of the draws")


def _speeds(report: Any, axis: Axes) -> None:
    batches = [timing.num_draws for timing in report.timings]
    for name, colour in zip(("teacher", "student"), COLOURS, strict=False):
        rates = [timing.num_draws / getattr(timing, name) for timing in report.timings]
        axis.loglog(batches, rates, "o-", color=colour, label=name)
    axis.set(xlabel="draws at once", ylabel="draws a second")

"""What a report of a calibration shows."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flows.plotting.canvas import headline, panel, panels, require
from flows.plotting.levels import draw_coverage, draw_diagonal, draw_gaps

WANTED = "the CalibrationReport that flows.check_calibration returns"


def ranks(report: Any, *, axis: Axes | None = None) -> Axes:
    """Ranks of simulation-based calibration: the share up to a level, less that level.

    Args:
        report: A `flows.CalibrationReport`.
        axis: Axis to draw on.

    Returns:
        The axis. A curve above zero at low levels and below it at high ones is of a posterior that
        is too narrow, one above zero throughout is of draws that are too high. All curves of an
        exact posterior stay within the grey band in 95 % of reports, each for itself; thick ones
        fail their test. Of more than six parameters those that fail are named.

    Raises:
        TypeError: It is no such report.
    """
    require("report", report, "ranks", WANTED)
    axis = panel(axis)
    levels = (report.ranks + 0.5) / (report.num_draws + 1)
    failed = report.p_values < report.least_p_value
    draw_gaps(axis, levels, report.names, failed, report.band)
    axis.set_xlabel("rank / draws")
    axis.set_title("ranks of the parameters", fontsize=10)
    return axis


def calibration(report: Any, *, axes: Any = None) -> Figure:
    """Whether the draws of a posterior are spread as the parameters are.

    Args:
        report: A `flows.CalibrationReport`.
        axes: Three axes to draw on.

    Returns:
        The figure: `ranks`; coverage of highest-density regions, and of regions around random
        points, against their credibility. Curves of an exact posterior stay within the grey band
        in 95 % of reports.

    Raises:
        TypeError: It is no such report.
        ValueError: The axes are not three.
    """
    require("report", report, "ranks", WANTED)
    shown = panels(axes, [[0, 0], [1, 2]])
    ranks(report, axis=shown[0])
    checks = [
        ("highest-density regions (HPD)", report.hpd_levels, report.hpd_p_value),
        ("distance to reference points (TARP)", report.tarp_levels, report.tarp_p_value),
    ]
    for axis, (title, levels, p_value) in zip(shown[1:], checks, strict=True):
        if levels is None:
            draw_diagonal(axis, report.band)
            axis.text(0.05, 0.9, "not known of draws alone", fontsize=9)
        else:
            draw_coverage(axis, levels, p_value, p_value < report.least_p_value, report.band)
        axis.set_title(title, fontsize=10)
    if axes is None:
        headline(shown, report.verdict)
    return shown[0].figure

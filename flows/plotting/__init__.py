"""Figures for looking at data, fits and reports. Needs the extra `plots` (matplotlib).

    corner, marginals            several sets of points, laid over one another
    density                      a distribution of two columns, and points on it
    coverage                     whether held-out rows lie where a fit says
    losses                       how a run went
    posterior, weights           a variational posterior and its importance weights
    distillation, log_ratios     how far a student is from its teacher
    calibration, ranks           whether an amortised posterior is calibrated

What has one panel takes an `axis` and returns it; what has several takes `axes`, in the order it
draws them, and returns their figure. Without them a new figure is made, which a notebook shows
once, at the end of the cell.
"""

try:
    import matplotlib.pyplot
except ImportError as error:  # pragma: no cover
    raise ImportError('flows.plotting needs matplotlib: pip install "flows-jax[plots]".') from error

from flows.plotting.calibration import calibration, ranks
from flows.plotting.corner import corner
from flows.plotting.coverage import coverage
from flows.plotting.density import density
from flows.plotting.distillation import distillation, log_ratios
from flows.plotting.losses import losses
from flows.plotting.marginals import marginals
from flows.plotting.posterior import posterior, weights

__all__ = [
    "calibration",
    "corner",
    "coverage",
    "density",
    "distillation",
    "log_ratios",
    "losses",
    "marginals",
    "posterior",
    "ranks",
    "weights",
]

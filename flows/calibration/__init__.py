"""Whether amortised posteriors are calibrated."""

from flows.calibration.check import check_calibration
from flows.calibration.report import CalibrationReport

__all__ = ["CalibrationReport", "check_calibration"]

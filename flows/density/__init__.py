"""Density fitting by maximum likelihood."""

from flows.density.fit import FitResult, fit
from flows.density.objective import MaximumLikelihood, negative_log_likelihood

__all__ = ["FitResult", "MaximumLikelihood", "fit", "negative_log_likelihood"]

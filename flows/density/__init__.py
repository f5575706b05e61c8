"""Density fitting by maximum likelihood."""

from flows.density.ensemble import fit_ensemble
from flows.density.fit import FitResult, fit
from flows.density.objective import MaximumLikelihood, negative_log_likelihood

__all__ = ["FitResult", "MaximumLikelihood", "fit", "fit_ensemble", "negative_log_likelihood"]

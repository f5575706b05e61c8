"""Variational inference: flows as posteriors."""

from flows.variational.diagnostics import Diagnostics
from flows.variational.posterior import Posterior, fit_posterior

__all__ = ["Diagnostics", "Posterior", "fit_posterior"]

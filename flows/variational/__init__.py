"""Variational inference: flows as posteriors."""

from flows.variational.diagnostics import Diagnostics
from flows.variational.fit import fit_posterior
from flows.variational.modes import LostMode
from flows.variational.posterior import Posterior

__all__ = ["Diagnostics", "LostMode", "Posterior", "fit_posterior"]

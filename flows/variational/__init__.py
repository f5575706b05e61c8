"""Variational inference: flows as posteriors."""

from flows.variational.chains import Chains
from flows.variational.diagnostics import Diagnostics
from flows.variational.fit import fit_posterior
from flows.variational.modes import LostMode
from flows.variational.posterior import Posterior
from flows.variational.tempering import LostRegion

__all__ = ["Chains", "Diagnostics", "LostMode", "LostRegion", "Posterior", "fit_posterior"]

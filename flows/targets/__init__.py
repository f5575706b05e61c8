"""Targets for `flows.fit_posterior`: models whose parameters have names and supports.

    flows.targets.from_log_density   a log density of any pytree of parameters
    flows.targets.from_tfp           a TFP joint distribution, some of its parts observed
    flows.targets.from_numpyro       a numpyro model and its arguments

Each is a log density on R^D, log-Jacobian included, and the way back to the parameters.
"""

from flows.targets.log_density import from_log_density
from flows.targets.numpyro import from_numpyro
from flows.targets.target import Target, as_target
from flows.targets.tfp import from_tfp

__all__ = ["Target", "as_target", "from_log_density", "from_numpyro", "from_tfp"]

"""flows: normalizing flows in JAX that are distrax distributions and flax.nnx modules."""

from flows import bijectors, conditioners, distributions, divergences, training
from flows.architectures import iaf, maf, real_nvp
from flows.density import FitResult, fit
from flows.distributions import DiagonalNormal, Flow, StandardNormal, StudentT

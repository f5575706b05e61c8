"""Ready-made flows. Each is a stack of equal layers between noise and data."""

from flows.architectures.autoregressive import iaf, maf
from flows.architectures.circular import ncsf, on_circle
from flows.architectures.coupling import real_nvp
from flows.architectures.gaussianization import gaussianization
from flows.architectures.posteriors import posterior_flow
from flows.architectures.splines import nsf

__all__ = [
    "gaussianization",
    "iaf",
    "maf",
    "ncsf",
    "nsf",
    "on_circle",
    "posterior_flow",
    "real_nvp",
]

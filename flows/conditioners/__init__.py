"""Networks that turn the known coordinates, and a context, into a transformer's parameters."""

from flows.conditioners.features import circle, compressed
from flows.conditioners.masked import MaskedMLP
from flows.conditioners.mlp import MLP, Linear, compute_dtype, compute_in
from flows.conditioners.unrolled import Unrolled

__all__ = [
    "MLP",
    "Linear",
    "MaskedMLP",
    "Unrolled",
    "circle",
    "compressed",
    "compute_dtype",
    "compute_in",
]

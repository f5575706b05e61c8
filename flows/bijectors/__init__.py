"""Invertible maps with log-determinants. `forward` runs from noise to data."""

from flows.bijectors.autoregressive import MaskedAutoregressive
from flows.bijectors.base import Bijector, Buffer
from flows.bijectors.composition import Chain, Conditioned, Inverse, Stack
from flows.bijectors.coupling import Coupling
from flows.bijectors.elementwise import Elementwise, StandardizedContext
from flows.bijectors.linear import TriangularAffine
from flows.bijectors.permutation import Permutation, Reverse
from flows.bijectors.transformers import Affine, Inverted, Transformer

__all__ = [
    "Affine",
    "Bijector",
    "Buffer",
    "Chain",
    "Conditioned",
    "Coupling",
    "Elementwise",
    "Inverse",
    "Inverted",
    "MaskedAutoregressive",
    "Permutation",
    "Reverse",
    "Stack",
    "StandardizedContext",
    "Transformer",
    "TriangularAffine",
]

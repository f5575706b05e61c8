"""Invertible maps with log-determinants. `forward` runs from noise to data."""

from flows._buffers import Buffer
from flows.bijectors.autoregressive import MaskedAutoregressive
from flows.bijectors.base import Bijector
from flows.bijectors.blocks import Blocks
from flows.bijectors.composition import Chain, Composite, Inverse, Stack
from flows.bijectors.contexts import Conditioned, StandardizedContext
from flows.bijectors.coupling import Coupling
from flows.bijectors.elementwise import Elementwise
from flows.bijectors.linear import LULinear, Orthogonal, TriangularAffine
from flows.bijectors.permutation import Permutation, Reverse
from flows.bijectors.transformers import (
    Affine,
    CircularSpline,
    Composed,
    Inverted,
    MixtureOfLogistics,
    NumericInverse,
    RationalQuadraticSpline,
    Transformer,
)

__all__ = [
    "Affine",
    "Bijector",
    "Blocks",
    "Buffer",
    "Chain",
    "CircularSpline",
    "Composed",
    "Composite",
    "Conditioned",
    "Coupling",
    "Elementwise",
    "Inverse",
    "Inverted",
    "LULinear",
    "MaskedAutoregressive",
    "MixtureOfLogistics",
    "NumericInverse",
    "Orthogonal",
    "Permutation",
    "RationalQuadraticSpline",
    "Reverse",
    "Stack",
    "StandardizedContext",
    "Transformer",
    "TriangularAffine",
]

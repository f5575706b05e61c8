"""Univariate maps y_i = T(x_i; theta_i): what couplings and autoregressive layers apply."""

from flows.bijectors.transformers.affine import Affine
from flows.bijectors.transformers.base import (
    Inverted,
    Transformer,
    by_coordinate,
    require_transformer,
)
from flows.bijectors.transformers.composed import Composed
from flows.bijectors.transformers.logistics import MixtureOfLogistics
from flows.bijectors.transformers.numeric import NumericInverse
from flows.bijectors.transformers.rational_quadratic import (
    CircularSpline,
    RationalQuadraticSpline,
    principal_angle,
)

__all__ = [
    "Affine",
    "CircularSpline",
    "Composed",
    "Inverted",
    "MixtureOfLogistics",
    "NumericInverse",
    "RationalQuadraticSpline",
    "Transformer",
    "by_coordinate",
    "principal_angle",
    "require_transformer",
]

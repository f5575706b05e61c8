"""Univariate maps y_i = T(x_i; theta_i): what couplings and autoregressive layers apply."""

from flows.bijectors.transformers.affine import Affine
from flows.bijectors.transformers.base import Inverted, Transformer, require_transformer
from flows.bijectors.transformers.numeric import NumericInverse

__all__ = ["Affine", "Inverted", "NumericInverse", "Transformer", "require_transformer"]

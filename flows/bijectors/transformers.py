"""Univariate maps y_i = T(x_i; theta_i): what couplings and autoregressive layers apply.

A new flow family is a new transformer: a monotone map of one coordinate, its inverse, and the
number of parameters it wants for each coordinate. At parameters 0 it is the identity.
"""

import abc

import jax
import jax.numpy as jnp

from flows._recipes import Recorded


class Transformer(Recorded):
    """A monotone elementwise map with parameters [..., num_params] for x [...].

    Both methods return the mapped array and the elementwise log-derivatives, shaped like x.
    """

    @property
    @abc.abstractmethod
    def num_params(self) -> int:
        """The number of parameters for each coordinate."""

    @abc.abstractmethod
    def forward_and_log_det(self, x: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes y = T(x; params) and log dy/dx."""

    @abc.abstractmethod
    def inverse_and_log_det(self, y: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes x = T^-1(y; params) and log dx/dy."""


class Affine(Transformer):
    r"""The affine map y = shift + scale * x.

    The parameters are (shift, a) with log scale = a / (1 + |a / max_log_scale|): positive, 1 at
    a = 0, with slope 1 there and never beyond exp(+-max_log_scale), so that float32 is safe.
    Source: Dinh et al. 2017, arXiv:1605.08803; the soft bound as in zuko.

    Args:
        max_log_scale: Bound on the absolute log scale of one layer.

    Example:
        >>> import jax.numpy as jnp
        >>> y, log_det = Affine().forward_and_log_det(jnp.array(1.0), jnp.array([0.5, 0.0]))
        >>> float(y), float(log_det)
        (1.5, 0.0)
    """

    num_params = 2

    def __init__(self, max_log_scale: float = 3.0):
        if not max_log_scale > 0:
            raise ValueError(f"max_log_scale must be positive, got {max_log_scale!r}.")
        self.max_log_scale = float(max_log_scale)

    def shift_and_log_scale(self, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Splits parameters [..., 2] into the shift [...] and the bounded log scale [...]."""
        shift, raw = params[..., 0], params[..., 1]
        return shift, raw / (1 + jnp.abs(raw) / self.max_log_scale)

    def forward_and_log_det(self, x: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        shift, log_scale = self.shift_and_log_scale(params)
        return shift + jnp.exp(log_scale) * x, log_scale

    def inverse_and_log_det(self, y: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        shift, log_scale = self.shift_and_log_scale(params)
        return (y - shift) * jnp.exp(-log_scale), -log_scale


class Inverted(Transformer):
    """The inverse map of a transformer, with the same parameters.

    Args:
        transformer: The map to invert.
    """

    def __init__(self, transformer: Transformer):
        require_transformer("transformer", transformer)
        self.transformer = transformer

    @property
    def num_params(self) -> int:
        return self.transformer.num_params

    def forward_and_log_det(self, x: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.transformer.inverse_and_log_det(x, params)

    def inverse_and_log_det(self, y: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.transformer.forward_and_log_det(y, params)


def require_transformer(name: str, value: object) -> None:
    """Raises unless `value` is a `Transformer`."""
    if not isinstance(value, Transformer):
        raise TypeError(
            f"{name} must be a flows.bijectors.Transformer such as flows.bijectors.Affine(), "
            f"got {value!r}."
        )

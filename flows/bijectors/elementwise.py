"""Maps that act on each coordinate alone."""

import jax
import jax.numpy as jnp
from flax import nnx

from flows.bijectors.base import Bijector
from flows.bijectors.transformers import (
    Affine,
    Transformer,
    principal_angle,
    require_transformer,
)


class Elementwise(Bijector):
    """The map y_i = T(x_i; theta_i) with free, learnable parameters; elementwise affine by default.

    Args:
        event_size: Size of the vectors.
        transformer: The univariate map T, affine by default.

    Cost: negligible in both directions.

    Example:
        >>> import jax.numpy as jnp
        >>> Elementwise(2).forward(jnp.array([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """

    def __init__(self, event_size: int, transformer: Transformer | None = None):
        super().__init__(event_size)
        self.transformer = Affine() if transformer is None else transformer
        require_transformer("transformer", self.transformer)
        self.params = nnx.Param(jnp.zeros((event_size, self.transformer.num_params)))

    @property
    def is_affine_triangular(self) -> bool:
        return self.transformer.is_affine

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        y, log_det = self.transformer.forward_and_log_det(x, self.params[...])
        return y, jnp.broadcast_to(log_det, x.shape).sum(axis=-1)

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        x, log_det = self.transformer.inverse_and_log_det(y, self.params[...])
        return x, jnp.broadcast_to(log_det, y.shape).sum(axis=-1)


class Wrap(Bijector):
    """The map of angles to [-pi, pi): x + 2 pi k, and back to any of the angles that it stands for.

    It is the last layer of a flow on the circle, whose layers before it and whose base take x and
    x + 2 pi for the same (see `flows.ncsf`); only there is it invertible.

    Args:
        event_size: Size of the vectors.

    Cost: negligible in both directions.

    Example:
        >>> import jax.numpy as jnp
        >>> Wrap(2).forward(jnp.array([1.0, 1.0 + 2 * jnp.pi])).round(4).tolist()
        [1.0, 1.0]
    """

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return principal_angle(x), jnp.zeros_like(x[..., 0])

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return y, jnp.zeros_like(y[..., 0])

"""Permutations of the coordinates; their log-determinant is 0."""

import jax
import jax.numpy as jnp
from flax import nnx

from flows.bijectors.base import Bijector, Buffer


class Reverse(Bijector):
    """Reverses the order of the coordinates.

    Args:
        event_size: Size of the vectors.

    Example:
        >>> import jax.numpy as jnp
        >>> Reverse(3).forward(jnp.array([1.0, 2.0, 3.0])).tolist()
        [3.0, 2.0, 1.0]
    """

    def __init__(self, event_size: int):
        super().__init__(event_size)

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return x[..., ::-1], jnp.zeros(x.shape[:-1], x.dtype)

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self._forward_and_log_det(y, context)


class Permutation(Bijector):
    """A fixed random permutation, y_i = x_{order_i}.

    Args:
        event_size: Size of the vectors.
        rngs: Source of the permutation.
    """

    def __init__(self, event_size: int, *, rngs: nnx.Rngs):
        super().__init__(event_size)
        order = jax.random.permutation(rngs.params(), event_size)
        self.order = Buffer(order.astype(jnp.result_type(float)))

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return x[..., self._indices()], jnp.zeros(x.shape[:-1], x.dtype)

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return y[..., jnp.argsort(self._indices())], jnp.zeros(y.shape[:-1], y.dtype)

    def _indices(self) -> jax.Array:
        return jnp.round(self.order.constant()).astype(int)

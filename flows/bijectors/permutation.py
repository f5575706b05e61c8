"""Permutations of the coordinates; their log-determinant is 0."""

from typing import Any

import jax
import jax.numpy as jnp

from flows import _checks
from flows._buffers import Buffer
from flows.bijectors.base import Bijector


class Reverse(Bijector):
    """Reverses the order of the coordinates.

    Args:
        event_size: Size of the vectors.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> flows.bijectors.Reverse(3).forward(jnp.array([1.0, 2.0, 3.0])).tolist()
        [3.0, 2.0, 1.0]
    """

    is_permutation = True

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
    """A fixed permutation, y_i = x_{order_i}.

    Args:
        order: The coordinate [event_size] that each y_i is: 0 .. event_size - 1 in some order.

    Raises:
        ValueError: `order` is no permutation.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> flows.bijectors.Permutation([2, 0, 1]).forward(jnp.array([1.0, 2.0, 3.0])).tolist()
        [3.0, 1.0, 2.0]
    """

    is_permutation = True

    def __init__(self, order: Any):
        order = jnp.asarray(order)
        if order.ndim != 1:
            raise ValueError(f"order must have shape [event_size], got shape {order.shape}.")
        super().__init__(len(order))
        if _checks.is_concrete(order) and sorted(order.tolist()) != list(range(len(order))):
            raise ValueError(
                f"order must hold each of 0 .. {len(order) - 1} once, got {order.tolist()}."
            )
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

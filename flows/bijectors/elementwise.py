"""Maps that act on each coordinate alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flows.bijectors.base import Bijector
from flows.bijectors.transformers import Affine, Transformer, by_coordinate, require_transformer
from flows.conditioners import MLP


class Elementwise(Bijector):
    """The map y_i = T(x_i; theta_i) with free, learnable parameters; elementwise affine by default.

    With a context theta_i is a free parameter and what a network makes of the context, summed.

    Args:
        event_size: Size of the vectors.
        transformer: The univariate map T, affine by default.
        context_size: Size of the context, or None.
        conditioner: Makes the network of the context: see `Coupling`.
        rngs: Source of the initial weights of the network, where there is a context.
        **network: Options of the network, such as `hidden_sizes`.

    Raises:
        ValueError: A context without `rngs`, or options of a network without a context.

    Cost: that of T in both directions, and of one network pass where there is a context.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> flows.bijectors.Elementwise(2).forward(jnp.array([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """

    def __init__(
        self,
        event_size: int,
        transformer: Transformer | None = None,
        *,
        context_size: int | None = None,
        conditioner: Callable[..., Any] = MLP,
        rngs: nnx.Rngs | None = None,
        **network: Any,
    ):
        super().__init__(event_size, context_size)
        self.transformer = Affine() if transformer is None else transformer
        require_transformer("transformer", self.transformer)
        self.params = nnx.Param(jnp.zeros((event_size, self.transformer.num_params)))
        if context_size is None and network:
            raise ValueError(
                f"context_size must be given where networks are, got None and {network}."
            )
        if context_size is not None and rngs is None:
            raise ValueError("rngs must be given where there is a context, got None.")
        self.conditioner: Any = (
            None
            if context_size is None
            else conditioner(0, self.params.size, context_size=context_size, rngs=rngs, **network)
        )

    @property
    def is_affine_triangular(self) -> bool:
        return self.transformer.is_affine

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self._map(self.transformer.forward_and_log_det, x, context)

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self._map(self.transformer.inverse_and_log_det, y, context)

    def _map(self, transform, x: jax.Array, context: jax.Array | None):
        params = self.params[...]
        if context is not None:
            made = self.conditioner(x[..., :0], context)
            params = params + by_coordinate(made, params.shape, self.name)
        mapped, log_det = transform(x, params)
        return mapped, jnp.broadcast_to(log_det, x.shape).sum(axis=-1)

"""Coupling layers: both directions in one network pass."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flows.bijectors.base import Bijector
from flows.bijectors.transformers import Affine, Transformer, by_coordinate, require_transformer
from flows.conditioners import MLP


class Coupling(Bijector):
    r"""The map y_a = x_a, y_b = T(x_b; theta(x_a)), where a is the first half of the vector.

    Source: Dinh et al. 2017, RealNVP, arXiv:1605.08803.

    Cost: one network pass in either direction.

    Args:
        event_size: D; the first D // 2 coordinates pass through. With D = 1 all of it is mapped,
            by parameters that depend on the context alone.
        context_size: Size of the context, or None.
        transformer: The univariate map T, affine by default.
        conditioner: Makes the network theta, called as `conditioner(in_size, out_size,
            context_size=..., rngs=..., **network)`; the network maps x [..., in_size] and context
            [..., context_size] or None to [..., out_size].
        rngs: Source of the initial weights.
        **network: Options of the network: by default those of `flows.conditioners.MLP`, such as
            `hidden_sizes`.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = flows.bijectors.Coupling(4, rngs=nnx.Rngs(0))
        >>> x = jnp.arange(4.0)
        >>> bool(jnp.all(layer.forward(x)[:2] == x[:2]))
        True
    """

    def __init__(
        self,
        event_size: int,
        *,
        context_size: int | None = None,
        transformer: Transformer | None = None,
        conditioner: Callable[..., Any] = MLP,
        rngs: nnx.Rngs,
        **network: Any,
    ):
        super().__init__(event_size, context_size)
        self.transformer = Affine() if transformer is None else transformer
        require_transformer("transformer", self.transformer)
        self.num_passed = event_size // 2
        self.conditioner = conditioner(
            self.num_passed,
            (event_size - self.num_passed) * self.transformer.num_params,
            context_size=context_size,
            rngs=rngs,
            **network,
        )

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self._map(self.transformer.forward_and_log_det, x, context)

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self._map(self.transformer.inverse_and_log_det, y, context)

    @property
    def univariate(self) -> tuple[Transformer, int]:
        return self.transformer, self.event_size - self.num_passed

    def parameters_at(
        self, x: jax.Array, y: jax.Array, context: jax.Array | None
    ) -> list[jax.Array]:
        return [self._parameters(x, context)]

    def _map(self, transform, x: jax.Array, context: jax.Array | None):
        passed, rest = x[..., : self.num_passed], x[..., self.num_passed :]
        mapped, log_det = transform(rest, self._parameters(x, context))
        return jnp.concatenate([passed, mapped], axis=-1), log_det.sum(axis=-1)

    def _parameters(self, x: jax.Array, context: jax.Array | None) -> jax.Array:
        """Those of the coordinates that are mapped [..., D - D // 2, num_params]."""
        made = self.conditioner(x[..., : self.num_passed], context)
        shape = self.event_size - self.num_passed, self.transformer.num_params
        params = by_coordinate(made, shape, self.name)
        return jnp.broadcast_to(params, (*x.shape[:-1], *shape))

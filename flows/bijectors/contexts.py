"""Contexts: bound to a conditional bijector, or standardised on their way in."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flows import _checks
from flows._buffers import Buffer
from flows.bijectors.base import Bijector, require_bijector
from flows.bijectors.composition import Apply, Composite


class Context(nnx.Variable):
    """A bound context: not trained, but differentiable."""


class Conditioned(Composite):
    """A conditional bijector with its context bound: an unconditional one.

    Args:
        bijector: A bijector with a context.
        context: Vectors [..., context_size]; their batch shape broadcasts against that of points.
    """

    def __init__(self, bijector: Bijector, context: jax.Array):
        require_bijector("bijector", bijector)
        super().__init__(bijector.event_size)
        context = _checks.floats(context, "context")
        bijector._check("x", jnp.zeros(bijector.event_size), context)
        self.bijector = bijector
        self.context = Context(context)

    @property
    def parts(self) -> tuple[Bijector, ...]:
        return (self.bijector,)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch shape of the context."""
        return jnp.broadcast_shapes(self.bijector.batch_shape, self.context.shape[:-1])

    @property
    def own(self) -> Any:
        return self.context

    def with_parts(
        self, make: Callable[[Bijector, nnx.Rngs], Bijector], rngs: nnx.Rngs
    ) -> "Conditioned":
        return Conditioned(make(self.bijector, rngs), self.context[...])

    def through_parts(
        self, apply: Apply, x: jax.Array, context: jax.Array | None, *others: Any, inverse: bool
    ) -> tuple[jax.Array, jax.Array]:
        return apply(x, self.context[...], self.bijector, *(other.bijector for other in others))


class StandardizedContext(Composite):
    """A conditional bijector whose context is standardised first, (context - loc) / scale.

    Args:
        bijector: A bijector with a context.
        loc: Means of the context columns [context_size].
        scale: Standard deviations of the context columns [context_size].
    """

    def __init__(self, bijector: Bijector, loc: jax.Array, scale: jax.Array):
        require_bijector("bijector", bijector)
        super().__init__(bijector.event_size, bijector.context_size)
        self.bijector = bijector
        self.loc = Buffer(loc)
        self.scale = Buffer(scale)

    @property
    def parts(self) -> tuple[Bijector, ...]:
        return (self.bijector,)

    @property
    def own(self) -> Any:
        return self.loc, self.scale

    def with_parts(
        self, make: Callable[[Bijector, nnx.Rngs], Bijector], rngs: nnx.Rngs
    ) -> "StandardizedContext":
        return StandardizedContext(make(self.bijector, rngs), self.loc[...], self.scale[...])

    def through_parts(
        self, apply: Apply, x: jax.Array, context: jax.Array | None, *others: Any, inverse: bool
    ) -> tuple[jax.Array, jax.Array]:
        assert context is not None  # the public methods have checked it
        context = (context - self.loc.constant()) / self.scale.constant()
        return apply(x, context, self.bijector, *(other.bijector for other in others))

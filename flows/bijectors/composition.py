"""Composition: chains, stacks of equal layers, inverses, and a bound context."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flows import _checks
from flows._recipes import Factory
from flows.bijectors.base import Bijector, require_bijector


class Chain(Bijector):
    """The composition y = f_0(f_1(...f_{n-1}(x))): as in distrax, the last one acts first.

    Args:
        bijectors: Bijectors of one event size; those with a context must agree on its size.

    Cost: the sum of its parts, in either direction. Compile time grows with their number: use
    `Stack` for equal layers.

    Example:
        >>> import jax.numpy as jnp
        >>> from flows.bijectors import Elementwise, Reverse
        >>> Chain([Elementwise(2), Reverse(2)]).forward(jnp.array([1.0, 2.0])).tolist()
        [2.0, 1.0]
    """

    def __init__(self, bijectors: Sequence[Bijector]):
        if not bijectors:
            raise ValueError("bijectors must name at least one bijector, got none.")
        for i, bijector in enumerate(bijectors):
            require_bijector(f"bijectors[{i}]", bijector)
        event_sizes = {b.event_size for b in bijectors}
        context_sizes = {b.context_size for b in bijectors if b.context_size is not None}
        if len(event_sizes) > 1 or len(context_sizes) > 1:
            raise ValueError(
                "bijectors must agree on event_size and context_size, got event sizes "
                f"{sorted(event_sizes)} and context sizes {sorted(context_sizes)}."
            )
        super().__init__(event_sizes.pop(), context_sizes.pop() if context_sizes else None)
        self.bijectors = nnx.List(bijectors)
        batch_shapes = [bijector.batch_shape for bijector in bijectors]
        try:
            jnp.broadcast_shapes(*batch_shapes)
        except ValueError:
            raise ValueError(
                f"bijectors are bound to contexts of batch shapes {batch_shapes}, which do not "
                "broadcast."
            ) from None

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That which the parts share."""
        return jnp.broadcast_shapes(*(bijector.batch_shape for bijector in self.bijectors))

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        log_det = jnp.zeros(x.shape[:-1], x.dtype)
        for bijector in reversed(self.bijectors):
            x, term = bijector._forward_and_log_det(x, _context_for(bijector, context))
            log_det = log_det + term
        return x, log_det

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        log_det = jnp.zeros(y.shape[:-1], y.dtype)
        for bijector in self.bijectors:
            y, term = bijector._inverse_and_log_det(y, _context_for(bijector, context))
            log_det = log_det + term
        return y, log_det


def _context_for(bijector: Bijector, context: jax.Array | None) -> jax.Array | None:
    return None if bijector.context_size is None else context


class Stack(Bijector):
    """`num_layers` bijectors of equal structure, run by `lax.scan`: compiled once at any depth.

    Acts as `Chain([layer_0, ..., layer_{n-1}])`. Their arrays are stacked along a leading axis.

    Args:
        make_layer: Makes one layer from an `nnx.Rngs`.
        num_layers: The number of layers.
        rngs: Source of the layers' own `nnx.Rngs`.

    Cost: `num_layers` times that of a layer, in either direction.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from flows.bijectors import Coupling
        >>> stack = Stack(lambda rngs: Coupling(2, rngs=rngs), 3, rngs=nnx.Rngs(0))
        >>> stack.inverse(stack.forward(jnp.ones((5, 2)))).shape
        (5, 2)
    """

    def __init__(
        self, make_layer: Callable[[nnx.Rngs], Bijector], num_layers: int, *, rngs: nnx.Rngs
    ):
        self.num_layers = _checks.positive_int("num_layers", num_layers)
        keys = jax.random.split(rngs.params(), self.num_layers)
        self.layers = jax.vmap(lambda key: make_layer(nnx.Rngs(key)))(keys)
        require_bijector("make_layer(rngs)", self.layers)
        super().__init__(self.layers.event_size, self.layers.context_size)

    def _recorded(self, name: str, value: Any) -> Any:
        return Factory(self.layers.recipe) if name == "make_layer" else value

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of one layer."""
        return jax.eval_shape(
            lambda layers: jax.tree.map(lambda a: a[0], layers), self.layers
        ).batch_shape

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self._scan(lambda layer, x: layer._forward_and_log_det(x, context), x, reverse=True)

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self._scan(lambda layer, y: layer._inverse_and_log_det(y, context), y, reverse=False)

    def _scan(self, apply, x: jax.Array, *, reverse: bool) -> tuple[jax.Array, jax.Array]:
        def step(carry, layer):
            x, log_det = carry
            y, term = apply(layer, x)
            return (y, log_det + term), None

        dtype = jnp.result_type(x, *jax.tree.leaves(self.layers))  # the carry keeps its type
        x, log_det = x.astype(dtype), jnp.zeros(x.shape[:-1], dtype)
        (x, log_det), _ = jax.lax.scan(
            step, (x, log_det), self.layers, length=self.num_layers, reverse=reverse
        )
        return x, log_det


class Inverse(Bijector):
    """The inverse of a bijector: forward and inverse, and their costs, change places.

    Args:
        bijector: The bijector to invert.
    """

    def __init__(self, bijector: Bijector):
        require_bijector("bijector", bijector)
        super().__init__(bijector.event_size, bijector.context_size)
        self.bijector = bijector

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of the bijector inverted."""
        return self.bijector.batch_shape

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self.bijector._inverse_and_log_det(x, context)

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self.bijector._forward_and_log_det(y, context)


class Context(nnx.Variable):
    """A bound context: not trained, but differentiable."""


class Conditioned(Bijector):
    """A conditional bijector with its context bound: an unconditional one.

    Args:
        bijector: A bijector with a context.
        context: Vectors [..., context_size]; their batch shape broadcasts against that of points.
    """

    def __init__(self, bijector: Bijector, context: jax.Array):
        require_bijector("bijector", bijector)
        super().__init__(bijector.event_size)
        context = jnp.asarray(context, jnp.result_type(float, context))
        bijector._check("x", jnp.zeros(bijector.event_size), context)
        self.bijector = bijector
        self.context = Context(context)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch shape of the context."""
        return jnp.broadcast_shapes(self.bijector.batch_shape, self.context.shape[:-1])

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self.bijector.forward_and_log_det(x, self.context[...])

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self.bijector.inverse_and_log_det(y, self.context[...])

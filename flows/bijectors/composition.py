"""Composition: chains, stacks of equal layers, and inverses."""

import abc
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flows import _checks
from flows._recipes import Factory, recipe_of
from flows.bijectors.base import Bijector, require_bijector
from flows.bijectors.transformers import Transformer

Apply = Callable[..., tuple[jax.Array, jax.Array]]
"""Maps (x, context, part) to the mapped x and a term, such as a log-determinant."""


class Composite(Bijector):
    """A bijector that acts by its parts in turn, each in the direction of the whole."""

    @property
    @abc.abstractmethod
    def own(self) -> Any:
        """What it has besides its parts, as a pytree: equal in two of the same layout."""

    @abc.abstractmethod
    def with_parts(
        self, make: Callable[[Bijector, nnx.Rngs], Bijector], rngs: nnx.Rngs
    ) -> "Composite":
        """A composite laid out like this one, with make(part, rngs) in place of each part."""

    @abc.abstractmethod
    def through_parts(
        self, apply: Apply, x: jax.Array, context: jax.Array | None, *others: Any, inverse: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Takes x through the parts by `apply`, and sums its terms.

        Args:
            apply: Maps (x, context, part, *parts of the others) to the mapped x and a term [...].
            x: Points [..., event_size].
            context: Their context, or None.
            *others: Composites of the same layout, whose parts go along.
            inverse: Whether to go from data to noise.
        """

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self.through_parts(_forward, x, context, inverse=False)

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self.through_parts(_inverse, y, context, inverse=True)


def _forward(x: jax.Array, context: jax.Array | None, part: Bijector):
    return part._forward_and_log_det(x, context)


def _inverse(y: jax.Array, context: jax.Array | None, part: Bijector):
    return part._inverse_and_log_det(y, context)


class Chain(Composite):
    """The composition y = f_0(f_1(...f_{n-1}(x))): as in distrax, the last one acts first.

    Args:
        bijectors: Bijectors of one event size; those with a context must agree on its size.

    Cost: the sum of its parts, in either direction. Compile time grows with their number: use
    `Stack` for equal layers.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> from flows.bijectors import Elementwise, Reverse
        >>> chain = flows.bijectors.Chain([Elementwise(2), Reverse(2)])
        >>> chain.forward(jnp.array([1.0, 2.0])).tolist()
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
    def parts(self) -> tuple[Bijector, ...]:
        return tuple(self.bijectors)

    @property
    def own(self) -> int:
        return len(self.bijectors)

    def with_parts(self, make: Callable[[Bijector, nnx.Rngs], Bijector], rngs: nnx.Rngs) -> "Chain":
        return Chain([make(part, rngs) for part in self.parts])

    def through_parts(
        self, apply: Apply, x: jax.Array, context: jax.Array | None, *others: Any, inverse: bool
    ) -> tuple[jax.Array, jax.Array]:
        total = jnp.zeros(x.shape[:-1], x.dtype)
        rows = list(zip(self.parts, *(other.parts for other in others), strict=True))
        for parts in rows if inverse else reversed(rows):
            x, term = apply(x, None if parts[0].context_size is None else context, *parts)
            total = total + term
        return x, total


class Stack(Composite):
    """`num_layers` bijectors of equal structure, run by `lax.scan`: compiled once at any depth.

    Acts as `Chain([layer_0, ..., layer_{n-1}])`. Their arrays are stacked along a leading axis.

    Args:
        make_layer: Makes one layer from an `nnx.Rngs`; they differ in their weights alone.
        num_layers: The number of layers.
        rngs: Source of the layers' own `nnx.Rngs`.

    Raises:
        ValueError: The layers differ in more than their weights.

    Cost: `num_layers` times that of a layer, in either direction.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> from flax import nnx
        >>> from flows.bijectors import Coupling
        >>> stack = flows.bijectors.Stack(lambda rngs: Coupling(2, rngs=rngs), 3, rngs=nnx.Rngs(0))
        >>> stack.inverse(stack.forward(jnp.ones((5, 2)))).shape
        (5, 2)
    """

    def __init__(
        self, make_layer: Callable[[nnx.Rngs], Bijector], num_layers: int, *, rngs: nnx.Rngs
    ):
        self.num_layers = _checks.positive_int("num_layers", num_layers)
        keys = jax.random.split(rngs.params(), self.num_layers)
        if not callable(make_layer):
            raise TypeError(f"make_layer must be a function of nnx.Rngs, got {make_layer!r}.")
        self.layers = _stacked(make_layer, keys)
        super().__init__(self.layers.event_size, self.layers.context_size)

    def _recorded(self, name: str, value: Any) -> Any:
        return Factory(recipe_of(self.layers)) if name == "make_layer" else value

    @property
    def parts(self) -> tuple[Bijector, ...]:
        """All layers as one, whose arrays have an axis more."""
        return (self.layers,)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of one layer."""
        return jax.eval_shape(lambda stack: stack._layer(0), self).batch_shape

    def composed_of(self) -> tuple[Bijector, ...]:
        layers = map(self._layer, range(self.num_layers))
        return tuple(part for layer in layers for part in layer.composed_of())

    def _layer(self, i: int) -> Bijector:
        return jax.tree.map(lambda a: a[i], self.layers)

    @property
    def own(self) -> int:
        return self.num_layers

    def with_parts(self, make: Callable[[Bijector, nnx.Rngs], Bijector], rngs: nnx.Rngs) -> "Stack":
        keys = jax.random.split(rngs.params(), self.num_layers)
        layers = _stacked(make, keys, self.layers)
        stack = nnx.clone(self)
        stack.layers = layers
        stack.recipe = self.recipe.but(make_layer=Factory(recipe_of(layers)))
        return stack

    def through_parts(
        self, apply: Apply, x: jax.Array, context: jax.Array | None, *others: Any, inverse: bool
    ) -> tuple[jax.Array, jax.Array]:
        def step(carry, layers):
            x, total = carry
            x, term = apply(x, context, *layers)
            return (x, total + term), None

        layers = (self.layers, *(other.layers for other in others))
        dtype = jnp.result_type(x, *jax.tree.leaves(layers))  # the carry keeps its type
        start = x.astype(dtype), jnp.zeros(x.shape[:-1], dtype)
        return jax.lax.scan(step, start, layers, length=self.num_layers, reverse=not inverse)[0]


def _stacked(make: Callable[..., Any], keys: jax.Array, *others: Any) -> Any:
    """As `jax.vmap(make)`, but outside `jit` one by one: then next to nothing is compiled."""

    def one(key: jax.Array, *others: Any) -> Any:
        layer = make(*others, nnx.Rngs(key))
        require_bijector("make_layer(rngs)", layer)
        return layer

    if not all(map(_checks.is_concrete, jax.tree.leaves((keys, others)))):
        return jax.vmap(one)(keys, *others)
    of_layer = lambda i: jax.tree.map(lambda leaf: np.asarray(leaf)[i], others)
    made = [one(key, *of_layer(i)) for i, key in enumerate(keys)]
    if len({_layout(layer) for layer in made}) > 1:
        raise ValueError(
            "make_layer must make layers of equal structure, and they differ in more than their "
            "weights: put layers that do into a flows.bijectors.Chain."
        )
    leaves = zip(*map(jax.tree.leaves, made), strict=True)
    stacked = [jax.device_put(np.stack(rows)) for rows in leaves]
    return jax.tree.unflatten(jax.tree.structure(made[0]), stacked)


def _layout(layer: Any) -> str:
    """All but its weights; functions by their names, as each layer may have made its own."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(layer)]
    return re.sub(r" at 0x[0-9a-f]+", "", f"{shapes} {jax.tree.structure(layer)}")


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
    def parts(self) -> tuple[Bijector, ...]:
        return (self.bijector,)

    @property
    def is_permutation(self) -> bool:
        return self.bijector.is_permutation

    @property
    def is_affine_triangular(self) -> bool:
        return self.bijector.is_affine_triangular

    def composed_of(self) -> tuple[Bijector, ...]:
        return tuple(Inverse(layer) for layer in reversed(self.bijector.composed_of()))

    @property
    def univariate(self) -> tuple[Transformer, int] | None:
        inverse = self.bijector.univariate
        return None if inverse is None else (inverse[0].inverted(), inverse[1])

    def parameters_at(
        self, x: jax.Array, y: jax.Array, context: jax.Array | None
    ) -> list[jax.Array]:
        return self.bijector.parameters_at(y, x, context)

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self.bijector._inverse_and_log_det(x, context)

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self.bijector._forward_and_log_det(y, context)

"""What ready-made flows share: a stack of equal layers between noise and data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flows import _checks
from flows.bijectors import Bijector, Chain, Permutation, Reverse, Stack, StandardizedContext
from flows.bijectors.linear import column_moments, whitening
from flows.distributions import Distribution, Flow, StandardNormal

PERMUTATIONS = ("random", "reverse")


def stacked(
    event_size: int,
    make_layer: Callable[[nnx.Rngs], Bijector],
    num_layers: int,
    base: Distribution | None,
    permutation: str,
    standardize_with: Any,
    rngs: nnx.Rngs,
) -> Flow:
    """A flow of equal layers and permutations, with the whitening of the data in front."""
    _checks.positive_int("event_size", event_size)
    _checks.one_of("permutation", permutation, PERMUTATIONS)
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"rngs must be an nnx.Rngs such as nnx.Rngs(0), got {rngs!r}.")

    def permuted_layer(rngs: nnx.Rngs) -> Bijector:
        permute: Bijector = Reverse(event_size)
        if permutation == "random":
            permute = Permutation(jax.random.permutation(rngs.params(), event_size))
        return Chain([make_layer(rngs), permute])

    stack = Stack(permuted_layer, num_layers, rngs=rngs)
    if permutation == "random":
        # Every second order is a reversal: a coupling then maps what its neighbour passes, and no
        # coordinate is left out by chance.
        order = stack.layers.bijectors[1].order
        order[...] = order[...].at[::2].set(jnp.arange(event_size - 1, -1, -1))
    bijector: Bijector = stack
    if standardize_with is not None:
        bijector = _standardized(bijector, standardize_with)
    return Flow(StandardNormal(event_size) if base is None else base, bijector)


def _standardized(bijector: Bijector, data: Any) -> Bijector:
    """Whitens the data, and standardises the context where one is given."""
    x, context = _checks.pair("standardize_with", data)
    bijector = standardized_context(bijector, context)
    return Chain([whitening(x, bijector.event_size), bijector])


def standardized_context(bijector: Bijector, context: Any) -> Bijector:
    """The bijector with the context of `standardize_with` standardised, where one is given."""
    if context is None:
        return bijector
    name = "standardize_with[1]"
    _checks.context_wanted(name, True, bijector.context_size)
    loc, scale = column_moments(name, context, bijector.context_size)
    return StandardizedContext(bijector, loc, scale)

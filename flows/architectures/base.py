"""What ready-made flows share: a stack of equal layers between noise and data."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flows import _checks, _columns, _disk, supports
from flows.bijectors import (
    Bijector,
    Chain,
    Permutation,
    Reverse,
    Stack,
    StandardizedContext,
    Transformer,
)
from flows.bijectors.linear import column_moments, whitening
from flows.bijectors.transformers.base import CIRCLE
from flows.distributions import Distribution, Flow, StandardNormal

PERMUTATIONS = ("random", "reverse")


def stacked(
    event_size: int,
    make_layer: Callable[[nnx.Rngs], Bijector],
    num_layers: int,
    transformer: Transformer | None,
    base: Distribution | None,
    permutation: str,
    standardize_with: Any,
    support: Any,
    rngs: nnx.Rngs,
) -> Flow:
    """A flow of equal layers and permutations, with the whitening of the data in front."""
    _checks.positive_int("event_size", event_size)
    _checks.one_of("permutation", permutation, PERMUTATIONS)
    require_rngs(rngs)

    def permuted_layer(rngs: nnx.Rngs) -> Bijector:
        permute: Bijector = Reverse(event_size)
        if permutation == "random":
            permute = Permutation(_random_order(rngs.params(), event_size))
        return Chain([make_layer(rngs), permute])

    stack = Stack(permuted_layer, num_layers, rngs=rngs)
    if permutation == "random":
        order = stack.layers.bijectors[1].order
        order[...] = _every_second_reversed(order[...])
    return whitened(stack, transformer, base, standardize_with, support)


@functools.partial(jax.jit, static_argnums=1)
def _random_order(key: jax.Array, event_size: int) -> jax.Array:
    return jax.random.permutation(key, event_size)


@jax.jit
def _every_second_reversed(orders: jax.Array) -> jax.Array:
    """The orders [layers, event_size], of which the first, third and so on become reversals.

    A coupling then maps what its neighbour passes, and no coordinate is left out by chance.
    """
    return orders.at[::2].set(jnp.arange(orders.shape[1] - 1, -1, -1))


def require_rngs(rngs: Any) -> None:
    """Raises unless it is an `nnx.Rngs`."""
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"rngs must be an nnx.Rngs such as nnx.Rngs(0), got {rngs!r}.")


def whitened(
    stack: Stack,
    transformer: Transformer | None,
    base: Distribution | None,
    standardize_with: Any,
    support: Any,
) -> Flow:
    """A flow of the stack, with the whitening of the data in front, where there are data."""
    event_size = stack.event_size
    flow = Flow(StandardNormal(event_size) if base is None else base, stack, support)
    has_angles = flow.support is not None and supports.of_kind(flow.support, "circle").any()
    periodic = transformer is not None and transformer.reference is CIRCLE
    if has_angles != periodic:
        raise ValueError(
            "support and base must be over angles where the transformer is periodic, and only "
            "there: flows.ncsf makes flows over angles."
        )
    if standardize_with is None:
        return flow
    x, context = _checks.pair("standardize_with", standardize_with)
    bijector = _standardized_context(stack, context)
    shapes = [_checks.array("standardize_with", part).shape for part in (x, context)]
    if x is not None and context is not None and shapes[0][:1] != shapes[1][:1]:
        raise ValueError(
            "standardize_with must hold as many rows of x as of the context, got shapes "
            f"{shapes[0]} and {shapes[1]}."
        )
    if x is None:
        return Flow(flow.base, bijector, flow.support)
    if flow.support is not None and supports.of_kind(flow.support, "circle").all():
        require_one_turn(_checks.array("standardize_with", x), flow.support)
    else:
        bijector = Chain([_whitening(x, event_size, flow.support), bijector])
    return Flow(flow.base, bijector, flow.support)


def _whitening(x: Any, event_size: int, columns: supports.Columns | None) -> Bijector:
    """The whitening of data on the real line that their supports are mapped to."""
    if columns is None:
        return whitening(x, event_size)
    table = _checks.array("standardize_with", x)
    _checks.inspect_table("standardize_with", table, event_size, integers=True)
    supports.require_inside("standardize_with", table, columns)
    to_real = functools.partial(supports.unconstrained, columns)
    return whitening(table, event_size, to_real, supports.unbounded(columns))


def data_of(standardize_with: Any, columns: supports.Columns | None) -> jax.Array:
    """Some rows, in any order, on the real line, with the noise that `_whitening` takes."""
    table = _checks.array("standardize_with", _checks.pair("standardize_with", standardize_with)[0])
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(table))[: _columns.SAMPLE]
    rows = _disk.take(table, chosen, jnp.result_type(float))
    steps = _columns.steps_between_values(table)
    if columns is not None:
        rows = supports.unconstrained(columns, rows)
        steps = np.where(supports.unbounded(columns), steps, 0.0)
    return jnp.asarray(rows + steps * rng.random(rows.shape), jnp.result_type(float))


def require_one_turn(angles: np.ndarray, columns: supports.Columns) -> None:
    """Raises if the angles among the columns span more than a turn: they are in other units."""
    _checks.inspect_table("standardize_with", angles, len(columns), integers=True)
    span = angles.max(axis=0).astype(float) - angles.min(axis=0).astype(float)
    circular = supports.of_kind(columns, "circle")
    periods = np.array([support.high - support.low for support in columns])
    periods = np.where(circular, periods, np.inf)
    if (span > periods * (1 + 1e-6)).any():
        column = int((span / periods).argmax())
        raise ValueError(
            f"standardize_with has angles that span {span[column]:.4g} in column {column}, more "
            f"than one turn of {periods[column]:.4g}: for other units than radians pass "
            "support=flows.supports.circle(period)."
        )


def _standardized_context(bijector: Bijector, context: Any) -> Bijector:
    """The bijector with the context of `standardize_with` standardised, where one is given."""
    if context is None:
        return bijector
    name = "standardize_with[1]"
    _checks.context_wanted(name, True, bijector.context_size)
    loc, scale = column_moments(name, context, bijector.context_size)
    return StandardizedContext(bijector, loc, scale)

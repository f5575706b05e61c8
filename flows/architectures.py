"""Ready-made flows. Each is a stack of equal layers between noise and data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flows import _checks
from flows.bijectors import (
    Affine,
    Bijector,
    Chain,
    Coupling,
    Inverse,
    Inverted,
    MaskedAutoregressive,
    Permutation,
    Reverse,
    Stack,
    StandardizedContext,
    Transformer,
)
from flows.bijectors.linear import column_moments, whitening
from flows.conditioners import MLP, MaskedMLP
from flows.distributions import Distribution, Flow, StandardNormal

PERMUTATIONS = ("random", "reverse")


def maf(
    event_size: int,
    *,
    num_layers: int = 5,
    context_size: int | None = None,
    transformer: Transformer | None = None,
    base: Distribution | None = None,
    permutation: str = "reverse",
    conditioner: Callable[..., Any] = MaskedMLP,
    inverse: str = "auto",
    standardize_with: Any = None,
    rngs: nnx.Rngs,
    **network: Any,
) -> Flow:
    r"""Masked autoregressive flow: x_i = T(z_i; theta_i(x_0 .. x_{i-1})) in each layer.

    Source: Papamakarios et al. 2017, arXiv:1705.07057.

    Cost: `log_prob` is parallel, one network pass a layer; `sample` takes about two, in event_size
    short steps (see `flows.bijectors.MaskedAutoregressive`).

    Args:
        event_size: Size of the vectors. 1 is allowed; affine layers then make a normal, whose
            mean and scale may depend on the context.
        num_layers: Number of layers; compile time does not depend on it.
        context_size: Size of the context, for p(x | context); None for no context.
        transformer: The univariate map T; `flows.bijectors.Affine()` by default.
        base: Distribution of the noise; `flows.StandardNormal(event_size)` by default.
        permutation: "reverse" turns the order round between layers, "random" shuffles it between
            every second pair and turns it round between the others.
        conditioner: Makes the network of a layer: see `flows.bijectors.MaskedAutoregressive`.
        inverse: How the sequential direction is computed, "auto", "blocked" or "jacobi": see
            `flows.bijectors.MaskedAutoregressive`.
        standardize_with: Data [rows, event_size], or a pair (data, context): puts a fixed
            whitening layer in front, so that data in raw units just work. A `numpy.memmap` is
            read a block at a time. Columns that take few values, such as counts, are taken with
            the noise that `flows.fit(dequantize=True)` adds to them. None for none.
        rngs: Source of the initial weights, e.g. `nnx.Rngs(0)`.
        **network: Options of the networks, those of `flows.conditioners.MaskedMLP`:
            `hidden_sizes=(64, 64)`; `residual=False`, which needs equal `hidden_sizes`;
            `activation="silu"`, or "relu", "gelu", "tanh" or a function; `features`; `embed`.

    Returns:
        A flow near the identity: its density is near that of the base, whitened back.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument has an impossible value; the error names it.

    Example:
        >>> import flows, jax.numpy as jnp
        >>> from flax import nnx
        >>> flow = flows.maf(3, num_layers=2, rngs=nnx.Rngs(0))
        >>> flow.log_prob(jnp.zeros((5, 3))).shape
        (5,)
    """
    transformer = Affine() if transformer is None else transformer

    def layer(rngs: nnx.Rngs) -> Bijector:
        return Inverse(
            MaskedAutoregressive(
                event_size,
                context_size=context_size,
                transformer=Inverted(transformer),
                conditioner=conditioner,
                inverse=inverse,
                rngs=rngs,
                **network,
            )
        )

    return _flow(event_size, layer, num_layers, base, permutation, standardize_with, rngs)


def iaf(
    event_size: int,
    *,
    num_layers: int = 5,
    context_size: int | None = None,
    transformer: Transformer | None = None,
    base: Distribution | None = None,
    permutation: str = "reverse",
    conditioner: Callable[..., Any] = MaskedMLP,
    inverse: str = "auto",
    standardize_with: Any = None,
    rngs: nnx.Rngs,
    **network: Any,
) -> Flow:
    r"""Inverse autoregressive flow: x_i = T(z_i; theta_i(z_0 .. z_{i-1})) in each layer.

    Source: Kingma et al. 2016, arXiv:1606.04934. Arguments, returns and errors are those of `maf`.

    Cost: `sample` and `sample_and_log_prob` are parallel, one network pass a layer; `log_prob` of
    other points takes about two, in event_size short steps.

    Example:
        >>> import flows, jax
        >>> from flax import nnx
        >>> flow = flows.iaf(3, num_layers=2, rngs=nnx.Rngs(0))
        >>> flow.sample(seed=jax.random.key(0), sample_shape=(5,)).shape
        (5, 3)
    """

    def layer(rngs: nnx.Rngs) -> Bijector:
        return MaskedAutoregressive(
            event_size,
            context_size=context_size,
            transformer=transformer,
            conditioner=conditioner,
            inverse=inverse,
            rngs=rngs,
            **network,
        )

    return _flow(event_size, layer, num_layers, base, permutation, standardize_with, rngs)


def real_nvp(
    event_size: int,
    *,
    num_layers: int = 8,
    context_size: int | None = None,
    transformer: Transformer | None = None,
    base: Distribution | None = None,
    permutation: str = "random",
    conditioner: Callable[..., Any] = MLP,
    standardize_with: Any = None,
    rngs: nnx.Rngs,
    **network: Any,
) -> Flow:
    r"""RealNVP: in each layer half of z passes, the other half becomes T(z_b; theta(z_a)).

    Source: Dinh et al. 2017, arXiv:1605.08803. Arguments, returns and errors are those of `maf`.

    Cost: one network pass a layer in both directions.

    Example:
        >>> import flows, jax
        >>> from flax import nnx
        >>> flow = flows.real_nvp(1, context_size=2, rngs=nnx.Rngs(0))
        >>> flow.condition(jax.numpy.ones((5, 2))).sample(seed=jax.random.key(0)).shape
        (5, 1)
    """

    def layer(rngs: nnx.Rngs) -> Bijector:
        return Coupling(
            event_size,
            context_size=context_size,
            transformer=transformer,
            conditioner=conditioner,
            rngs=rngs,
            **network,
        )

    return _flow(event_size, layer, num_layers, base, permutation, standardize_with, rngs)


def _flow(
    event_size: int,
    make_layer: Callable[[nnx.Rngs], Bijector],
    num_layers: int,
    base: Distribution | None,
    permutation: str,
    standardize_with: Any,
    rngs: nnx.Rngs,
) -> Flow:
    """Stacks permute-then-map layers, and puts the whitening of the data in front."""
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
    if context is not None:
        name = "standardize_with[1]"
        _checks.context_wanted(name, True, bijector.context_size)
        loc, scale = column_moments(name, context, bijector.context_size)
        bijector = StandardizedContext(bijector, loc, scale)
    return Chain([whitening(x, bijector.event_size), bijector])

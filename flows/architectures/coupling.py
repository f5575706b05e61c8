"""Flows of coupling layers."""

from collections.abc import Callable
from typing import Any

from flax import nnx

from flows.architectures.base import stacked
from flows.bijectors import Bijector, Coupling, Transformer
from flows.conditioners import MLP
from flows.distributions import Distribution, Flow


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
    support: Any = None,
    rngs: nnx.Rngs,
    **network: Any,
) -> Flow:
    r"""RealNVP: in each layer half of z passes, the other half becomes T(z_b; theta(z_a)).

    Source: Dinh et al. 2017, arXiv:1605.08803. Arguments, returns and errors are those of `maf`.

    Cost: one network pass a layer in both directions.

    Examples:
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

    return stacked(
        event_size, layer, num_layers, transformer, base, permutation, standardize_with, support,
        rngs,
    )  # fmt: skip

"""Masked and inverse autoregressive flows."""

from collections.abc import Callable
from typing import Any

from flax import nnx

from flows.architectures.base import stacked
from flows.bijectors import Affine, Bijector, Inverse, MaskedAutoregressive, Transformer
from flows.bijectors.transformers import require_transformer
from flows.conditioners import MaskedMLP
from flows.distributions import Distribution, Flow


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
    support: Any = None,
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
        standardize_with: Data [rows, event_size], or a pair (data, context), of which either may
            be None: puts a fixed whitening layer in front, so that data in raw units just work; of
            fewer than 5 event_size^2 rows it only scales columns. A `numpy.memmap` is read a block
            at a time. Columns that take few values, such as counts, are taken with
            the noise that `flows.fit(dequantize=True)` adds to them. None for none.
        support: Where the columns of data may lie, one of `flows.supports` for all of them or one
            for each, such as `flows.supports.positive`: there is no mass elsewhere. Whitening acts
            on the real line that the support is mapped to. All real numbers by default.
        rngs: Source of the initial weights, e.g. `nnx.Rngs(0)`.
        **network: Options of the networks, those of `flows.conditioners.MaskedMLP`:
            `hidden_sizes=(64, 64)`; `residual=False`, which needs equal `hidden_sizes`;
            `activation="silu"`, or "relu", "gelu", "tanh" or a function; `features`; `embed`.

    Returns:
        A flow near the identity: its density is near that of the base, whitened back.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument has an impossible value; the error names it.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> from flax import nnx
        >>> flow = flows.maf(3, num_layers=2, rngs=nnx.Rngs(0))
        >>> flow.log_prob(jnp.zeros((5, 3))).shape
        (5,)
    """
    transformer = Affine() if transformer is None else transformer
    require_transformer("transformer", transformer)

    def layer(rngs: nnx.Rngs) -> Bijector:
        return Inverse(
            MaskedAutoregressive(
                event_size,
                context_size=context_size,
                transformer=transformer.inverted(),
                conditioner=conditioner,
                inverse=inverse,
                rngs=rngs,
                **network,
            )
        )

    return stacked(
        event_size, layer, num_layers, transformer, base, permutation, standardize_with, support,
        rngs,
    )  # fmt: skip


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
    support: Any = None,
    rngs: nnx.Rngs,
    **network: Any,
) -> Flow:
    r"""Inverse autoregressive flow: x_i = T(z_i; theta_i(z_0 .. z_{i-1})) in each layer.

    Source: Kingma et al. 2016, arXiv:1606.04934. Arguments, returns and errors are those of `maf`.

    Cost: `sample` and `sample_and_log_prob` are parallel, one network pass a layer; `log_prob` of
    other points takes about two, in event_size short steps.

    Examples:
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

    return stacked(
        event_size, layer, num_layers, transformer, base, permutation, standardize_with, support,
        rngs,
    )  # fmt: skip

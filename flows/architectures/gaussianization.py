"""Gaussianization flows: maps of each coordinate to the normal distribution, between rotations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from flows import _checks
from flows.architectures.base import data_of, require_rngs, whitened
from flows.architectures.splines import affine_spline
from flows.bijectors import (
    Bijector,
    Chain,
    Elementwise,
    Orthogonal,
    Stack,
    Transformer,
)
from flows.bijectors.linear import product, product_of_reflections, reflections
from flows.bijectors.transformers import require_transformer
from flows.bijectors.transformers.base import CIRCLE
from flows.conditioners import MLP
from flows.distributions import Distribution, Flow

NEAR_IDENTITY = 1e-2  # parameters of which no two are equal, so that components can part
NUM_QUANTILES = 256  # that a marginal distribution is fitted by
NUM_STEPS, STEP_SIZE = 100, 0.1  # of Adam, for each layer's marginal distributions
NUM_ROTATIONS = 20  # steps of FastICA
JITTER = 0.03  # standard deviations
HELD_OUT = 5  # one row of so many: what does not gain on them is left out
LEAST_GAIN = 2  # standard errors


def gaussianization(
    event_size: int,
    *,
    num_layers: int = 20,
    context_size: int | None = None,
    transformer: Transformer | None = None,
    base: Distribution | None = None,
    conditioner: Callable[..., Any] = MLP,
    standardize_with: Any = None,
    support: Any = None,
    rngs: nnx.Rngs,
    **network: Any,
) -> Flow:
    r"""Gaussianization flow: x_i = T((Q z)_i; theta_i) in each layer, Q a rotation.

    With `standardize_with` it starts from the data, layer by layer from the side of the data: T
    maps each coordinate to a normal one, then Q turns to the directions that are farthest from
    normal (by FastICA), where the next layer goes on. `flows.fit` trains all of it. Without data Q
    starts at random and T as the identity. Source: Laparra et al. 2011, Iterative Gaussianization,
    arXiv:1602.00229; Meng et al. 2020, Gaussianization flows, arXiv:2003.01941; for FastICA
    Hyvarinen 1999, IEEE Trans. Neural Networks 10:626.

    Networks are there for a context alone: theta and Q are free parameters, which learn best with
    larger steps, `flows.fit(learning_rate=1e-2)`.

    Cost: T and a matrix product for each layer, parallel in both directions, and D^3 a layer to
    make the rotations, for all points together. The start takes some seconds, mostly to compile.

    Args:
        event_size: Size of the vectors.
        num_layers: Number of layers; compile time does not depend on it.
        context_size: Size of the context, for p(x | context), on which theta then depends; None
            for no context.
        transformer: The univariate map T; by default that of `flows.nsf`, a spline of a + b x.
        base: Distribution of the noise; `flows.StandardNormal(event_size)` by default.
        conditioner: Makes the network of the context: see `flows.bijectors.Elementwise`.
        standardize_with: Data [rows, event_size], or a pair (data, context): as in `flows.maf`,
            and the start of the layers, from 10,000 of the rows.
        support: As in `flows.maf`, but for circles: rotations take numbers, not angles.
        rngs: Source of the first rotations, e.g. `nnx.Rngs(0)`.
        **network: Options of the network of the context, those of `flows.conditioners.MLP`.

    Returns:
        A flow.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument has an impossible value; the error names it.

    Examples:
        >>> import flows, jax
        >>> from flax import nnx
        >>> x = jax.random.laplace(jax.random.key(0), (1000, 2))
        >>> x = x.at[:, 1].add(x[:, 0])
        >>> flow = flows.gaussianization(2, num_layers=2, standardize_with=x, rngs=nnx.Rngs(0))
        >>> flow.sample(seed=jax.random.key(1), sample_shape=(5,)).shape
        (5, 2)
    """
    _checks.positive_int("event_size", event_size)
    require_rngs(rngs)
    transformer = affine_spline() if transformer is None else transformer
    require_transformer("transformer", transformer)
    if transformer.reference is CIRCLE:
        raise ValueError(
            f"transformer must map numbers, which rotations mix, got {transformer}: for angles "
            "see flows.ncsf."
        )

    def layer(rngs: nnx.Rngs) -> Bijector:
        marginal = Elementwise(
            event_size, transformer, context_size=context_size, conditioner=conditioner,
            rngs=rngs, **network,
        )  # fmt: skip
        rotation = Orthogonal(event_size, rngs=rngs)
        marginal.params[...] = NEAR_IDENTITY * _normals_like(marginal.params, rngs.params())
        rotation.directions[...] = _normals_like(rotation.directions, rngs.params())
        return Chain([marginal, rotation])

    stack = Stack(layer, num_layers, rngs=rngs)
    flow = whitened(stack, transformer, base, standardize_with, support)
    if _checks.pair("standardize_with", standardize_with)[0] is not None:
        rows = flow.bijector.parts[0].inverse(data_of(standardize_with, flow.support))
        keys = jax.random.split(rngs.params(), num_layers)
        marginal, rotation = stack.layers.parts
        params, directions = _gaussianized(transformer, rows, marginal.params[...], keys)
        marginal.params[...] = params
        rotation.directions[...] = directions
    return flow


def _normals_like(variable: nnx.Variable, key: jax.Array) -> jax.Array:
    return jax.random.normal(key, variable.shape, variable.dtype)


@jax.jit
def _gaussianized(
    transformer: Transformer, rows: jax.Array, near_identity: jax.Array, keys: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The parameters and directions of each layer that make rows [N, D] normal, one by one."""
    # Columns that follow from others would be stretched to normal ones, without some noise.
    rows = rows + JITTER * jax.random.normal(keys[0], rows.shape, rows.dtype)
    held_out = np.arange(len(rows)) % HELD_OUT == 0

    def layer(rows: jax.Array, own: tuple[jax.Array, jax.Array]):
        near_identity, key = own
        marginals_key, directions_key = jax.random.split(key)
        params = _fitted_marginals(transformer, rows[~held_out], marginals_key)
        z, log_det = transformer.inverse_and_log_det(rows[held_out], params)
        gain = log_det + (rows[held_out] ** 2 - z**2) / 2
        better = gain.mean(axis=0) > LEAST_GAIN * gain.std(axis=0, ddof=1) / len(z) ** 0.5
        params = jnp.where(better[:, None], params, near_identity)
        rows, _ = transformer.inverse_and_log_det(rows, params)
        directions = reflections(_independent_directions(rows[~held_out], directions_key))
        even = jnp.eye(len(directions) % 2, len(directions), dtype=rows.dtype)
        directions = jnp.concatenate([directions, even])  # an even number, as `Orthogonal` has
        return product(rows, product_of_reflections(directions)), (params, directions)

    return jax.lax.scan(layer, rows, (near_identity, keys))[1]


def _fitted_marginals(transformer: Transformer, rows: jax.Array, key: jax.Array) -> jax.Array:
    """Parameters [D, num_params] by which each column is likeliest, T(z) of normal z."""
    edges = jax.scipy.stats.norm.cdf(jnp.linspace(-4, 4, NUM_QUANTILES + 1, dtype=rows.dtype))
    edges = edges.at[0].set(0.0).at[-1].set(1.0)  # the tails, where a few rows cost much
    values = jnp.quantile(rows, (edges[1:] + edges[:-1]) / 2, axis=0)
    optimizer = optax.adam(optax.cosine_decay_schedule(STEP_SIZE, NUM_STEPS))

    def loss(params: jax.Array) -> jax.Array:
        z, log_det = transformer.inverse_and_log_det(values, params)
        return (jnp.diff(edges) @ (0.5 * z**2 - log_det)).sum()

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (params + updates, state), None

    shape = rows.shape[-1], transformer.num_params
    start = STEP_SIZE * jax.random.normal(key, shape, rows.dtype)  # components that start unlike
    return jax.lax.scan(step, (start, optimizer.init(start)), length=NUM_STEPS)[0][0]


def _independent_directions(rows: jax.Array, key: jax.Array) -> jax.Array:
    """An orthogonal matrix whose columns are directions in which rows [N, D] are least normal."""
    centred = rows - rows.mean(axis=0)
    variances, axes = jnp.linalg.eigh(product(centred.T, centred) / len(rows))
    least = 1e-4 * variances.max() + jnp.finfo(rows.dtype).tiny
    white = product(centred, axes / jnp.sqrt(jnp.maximum(variances, least))) @ axes.T

    def step(_, directions: jax.Array) -> jax.Array:
        g = jnp.tanh(white @ directions)
        return _orthogonal(white.T @ g / len(rows) - directions * (1 - g**2).mean(axis=0))

    start = _orthogonal(jax.random.normal(key, (rows.shape[-1],) * 2, rows.dtype))
    return jax.lax.fori_loop(0, NUM_ROTATIONS, step, start)


def _orthogonal(matrix: jax.Array) -> jax.Array:
    """The orthogonal matrix nearest to a matrix."""
    left, _, right = jnp.linalg.svd(matrix)
    return left @ right

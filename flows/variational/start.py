"""The flow that `fit_posterior` starts from: near the target, with all the modes that it found."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flows.architectures import real_nvp
from flows.bijectors import Bijector, Chain, Permutation, TriangularAffine
from flows.bijectors.linear import product
from flows.distributions import Flow, MixtureOfNormals
from flows.variational.laplace import (
    LaplaceFits,
    laplace_fits,
    laplace_start,
    spread_out,
)
from flows.variational.mixture import Mixture, fitted

MOST_MODES = 64
NUM_SEARCHES, IN_VAIN = 16, 3  # around the modes known so far, and without a new one
SAME = 1.0  # standard deviation, within which two components are one
LEAST_SHARE = 1e-4  # of the mass: a mode with less is left out
LEAST_ESS = 80  # of the draws that told the shares of the modes


def starting_flow(
    target: Callable[[jax.Array], jax.Array], starts: jax.Array, rngs: nnx.Rngs, key: jax.Array
) -> Flow:
    """A RealNVP behind a fixed whitening map and a learnable affine layer.

    With one mode the map is that of `laplace_start`. With several the base is a mixture of
    normals, a component for each, whose shares and shapes importance sampling has told.

    Args:
        target: log p of one point [D], up to a constant; a callable pytree.
        starts: Where to look for modes [K, D].
        rngs: Source of the weights.
        key: Random key.

    Raises:
        ValueError: The target is not finite at any of the starts.
    """
    modes_key, start_key = jax.random.split(key)
    event_size = starts.shape[-1]
    flow = real_nvp(event_size, rngs=rngs)
    fits = laplace_fits(target, starts)
    mixture = _mixture_of_modes(target, fits, modes_key)
    affine = TriangularAffine(jnp.zeros(event_size), jnp.eye(event_size))
    if mixture is None:
        start = laplace_start(target, fits, start_key)
        return Flow(flow.base, Chain([start, affine, flow.bijector]))
    base, start = _standardized(mixture)
    return Flow(base, Chain([start, affine, *_identity(flow.bijector)]))


def _identity(layers: Any) -> tuple[Bijector, Bijector]:
    """Layers of couplings that start as the identity: without an effect, and their orders undone.

    Components that are narrow beside their distances leave no room for the usual random start.
    """
    last = layers.layers.bijectors[0].conditioner.layers[-1]
    last.kernel[...] = jnp.zeros_like(last.kernel[...])
    order = layers.forward(jnp.arange(layers.event_size, dtype=float))
    return Permutation(np.argsort(order)), layers


def _mixture_of_modes(
    target: Callable[[jax.Array], jax.Array], fits: LaplaceFits, key: jax.Array
) -> Mixture | None:
    """A component for each mode, looked for around those known; None where one is all."""
    known = fits.distinct(MOST_MODES)
    fit_key, *searches = jax.random.split(key, 1 + NUM_SEARCHES)
    numbers = [len(known.loc)]  # of modes, after each search
    for search in searches:
        if len(known.loc) == 0:
            return None
        more = laplace_fits(target, _starts_among(known, len(fits.loc), search))
        both = (jnp.concatenate(parts) for parts in zip(known, more, strict=True))
        known = LaplaceFits(*both).distinct(MOST_MODES)
        numbers.append(len(known.loc))
        if len(numbers) == 2 and (numbers[-1] < 2 or _fitted(target, known, fit_key) is None):
            return None  # one mode, or what climbs that did not arrive make of it
        if numbers[-1] == numbers[-1 - IN_VAIN :][0]:
            break
    return _fitted(target, known, fit_key)


def _fitted(
    target: Callable[[jax.Array], jax.Array], known: LaplaceFits, key: jax.Array
) -> Mixture | None:
    """The modes' own mass and shape; None where it is that of one mode, or cannot be told."""
    mixture, ess = fitted(target, _evenly(known), key)
    if ess < LEAST_ESS:
        return None
    share = np.exp(np.asarray(mixture.log_share, float))
    kept: list[int] = []
    for i in np.argsort(-share):
        same = [j for j in kept if mixture.distance(i, j) < SAME]
        if same:  # two ends of one climb
            share[same[0]] += share[i]
        elif share[i] > LEAST_SHARE:
            kept.append(i)
    if len(kept) < 2:
        return None
    log_share = jnp.log(jnp.asarray(share[kept], mixture.loc.dtype))
    chosen = np.array(kept)
    return Mixture(log_share, mixture.loc[chosen], mixture.scale_tril[chosen])


def _starts_among(known: LaplaceFits, num_starts: int, key: jax.Array) -> jax.Array:
    """Half of them anywhere among the modes, the others from one of them, spread out."""
    which, noise = jax.random.split(key)
    which = jax.random.randint(which, (num_starts,), 0, len(known.loc))
    noise = jax.random.normal(noise, (num_starts, known.loc.shape[1]))
    around = jax.vmap(lambda tril, e: tril @ e)(known.scale_tril[which], noise)
    anywhere = 1.5 * product(noise, jnp.linalg.cholesky(_covariance(_evenly(known))[1]).T)
    near = known.loc[which] + spread_out(around)
    first = jnp.arange(num_starts)[:, None] % 2 == 0
    return jnp.where(first, known.loc.mean(axis=0) + anywhere, near)


def _evenly(fits: LaplaceFits) -> Mixture:
    return Mixture(jnp.full(len(fits.loc), -np.log(len(fits.loc))), fits.loc, fits.scale_tril)


def _covariance(mixture: Mixture) -> tuple[jax.Array, jax.Array]:
    """Mean [D] and covariance [D, D] of the whole."""
    share = jax.nn.softmax(mixture.log_share)
    mean = share @ mixture.loc
    within = jax.vmap(lambda tril: product(tril, tril.T))(mixture.scale_tril)
    apart = mixture.loc - mean
    return mean, jnp.tensordot(share, within, 1) + product(share * apart.T, apart)


def _standardized(mixture: Mixture) -> tuple[MixtureOfNormals, TriangularAffine]:
    """The mixture in coordinates of mean 0 and covariance I, and the map from there."""
    mean, covariance = _covariance(mixture)
    whole = jnp.linalg.cholesky(covariance)
    solve = lambda b: jax.scipy.linalg.solve_triangular(whole, b, lower=True)
    base = MixtureOfNormals(mean.size, len(mixture.loc), full_covariance=True)
    scale_tril = jax.vmap(solve)(mixture.scale_tril)
    scale = jnp.diagonal(scale_tril, axis1=1, axis2=2)
    base.logits[...] = mixture.log_share
    base.loc[...] = solve((mixture.loc - mean).T).T
    base.log_scale[...] = jnp.log(scale)
    base.shear = nnx.Param(jnp.tril(scale_tril / scale[..., None], -1))
    return base, TriangularAffine(mean, whole, trainable=False)

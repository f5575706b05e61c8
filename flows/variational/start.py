"""The flow that `fit_posterior` starts from: near the target, with all the modes that it found."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flows.architectures import real_nvp
from flows.bijectors import Bijector, Chain, Permutation, TriangularAffine
from flows.distributions import Flow, MixtureOfNormals
from flows.variational.laplace import (
    MOST_DIMENSIONS,
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
    in_vain = 0
    for i, search in enumerate(searches):
        before = len(known.loc)
        if before == 0 or known.loc.shape[1] > MOST_DIMENSIONS:
            return None
        more = laplace_fits(target, _starts_among(known, len(fits.loc), search))
        both = (jnp.concatenate(parts) for parts in zip(known, more, strict=True))
        known = LaplaceFits(*both).distinct(MOST_MODES)
        if i == 0 and (len(known.loc) < 2 or _fitted(target, known, fit_key) is None):
            return None  # one mode, or what climbs that did not arrive make of it
        in_vain = in_vain + 1 if len(known.loc) == before else 0
        if in_vain == IN_VAIN:
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
    mean, sd = _moments(_evenly(known))
    anywhere = jnp.asarray(mean, noise.dtype) + 1.5 * jnp.asarray(sd, noise.dtype) * noise
    near = known.loc[which] + spread_out(around)
    first = jnp.arange(num_starts)[:, None] % 2 == 0
    return jnp.where(first, anywhere, near)


def _evenly(fits: LaplaceFits) -> Mixture:
    return Mixture(jnp.full(len(fits.loc), -np.log(len(fits.loc))), fits.loc, fits.scale_tril)


def _moments(mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and standard deviations [D] of the whole."""
    log_share, loc, scale_tril = (np.asarray(part, np.float64) for part in mixture)
    share = np.exp(log_share - np.logaddexp.reduce(log_share))
    mean = share @ loc
    variance = (scale_tril**2).sum(axis=2) + (loc - mean) ** 2
    return mean, np.sqrt(share @ variance)


def _standardized(mixture: Mixture) -> tuple[MixtureOfNormals, TriangularAffine]:
    """The mixture in coordinates of mean 0 and variance 1, and the map from there."""
    mean, sd = _moments(mixture)
    scale_tril = np.asarray(mixture.scale_tril, np.float64) / sd[:, None]
    scale = np.diagonal(scale_tril, axis1=1, axis2=2)
    base = MixtureOfNormals(mean.size, len(mixture.loc), full_covariance=True)
    values = {
        "logits": mixture.log_share,
        "loc": (np.asarray(mixture.loc, np.float64) - mean) / sd,
        "log_scale": np.log(scale),
        "shear": np.tril(scale_tril / scale[..., None], -1),
    }
    for name, value in values.items():
        variable = getattr(base, name)
        variable[...] = jnp.asarray(value, variable.dtype)
    return base, TriangularAffine(jnp.asarray(mean), jnp.diag(jnp.asarray(sd)), trainable=False)

"""The flow that `fit_posterior` starts from: near the target, with all the modes that it found."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows._programs import quick_jit
from flows.bijectors import Bijector, Chain, Permutation, TriangularAffine
from flows.distributions import Flow, MixtureOfNormals
from flows.variational.laplace import (
    MOST_DIMENSIONS,
    LaplaceFits,
    laplace_fits,
    laplace_start,
)
from flows.variational.mixture import Mixture, fitted
from flows.variational.modes import LostMode
from flows.variational.search import NUM_STARTS, POOL, spread_out, stretched, unexplained
from flows.variational.weights import weighted_draws

MOST_MODES = 64
NUM_SEARCHES, IN_VAIN = 16, 3  # around the modes known so far, and without a new one
BLOCKS, EACH = 64, NUM_STARTS // 4  # of points around one centre; starts near modes and elsewhere
LEAST_SHARE = 1e-4  # of the mass: a mode with less is left out
LEAST_ESS = 80  # of the draws that told the shares of the modes
NUM_DRAWS, BATCH = 256, 64  # to compare the ELBOs of two starts


def with_modes(
    flow: Flow,
    target: Callable[[jax.Array], jax.Array],
    fits: LaplaceFits,
    key: jax.Array,
    added: LaplaceFits | None = None,
) -> Flow:
    """A flow of couplings, which start neutral, behind the best of the Gaussians.

    If there are several modes it is on a base with a component for each instead. Shares and shapes
    of the components, a mixture of normals, are told by importance sampling. What is `added`, as
    another flow had lost it, has one too, also if it lies within a wider mode.
    """
    modes_key, start_key = jax.random.split(key)
    added = LaplaceFits(*(np.asarray(part)[:0] for part in fits)) if added is None else added
    mixture = _mixture_of_modes(target, fits, added, modes_key)
    flow = Flow(flow.base, Chain(_identity(flow.bijector)))
    if mixture is None:
        return with_laplace(flow, target, fits.joined(added), start_key)
    base, start = _standardized(mixture)
    return _behind(Flow(base, flow.bijector), start)


def with_laplace(
    flow: Flow, target: Callable[[jax.Array], jax.Array], fits: LaplaceFits, key: jax.Array
) -> Flow:
    """A flow behind the best of the Gaussians: units do not matter."""
    return _behind(flow, laplace_start(target, fits, key))


def better_of_two(
    flow: Flow, target: Callable[[jax.Array], jax.Array], fits: LaplaceFits, key: jax.Array
) -> Flow:
    """A flow as it is, or `with_laplace`: the one with the higher ELBO, as a trained one has.

    Where the target has no mass, log p = -inf or NaN, it is the ELBO of the flow cut there.
    """

    def elbo(q: Flow) -> float:
        draws = weighted_draws(q, target, elbo_key, 2 * NUM_DRAWS, BATCH)
        log_w = np.asarray(draws.log_p - draws.log_q)[:NUM_DRAWS]
        inside = log_w > -np.inf
        return log_w[inside].mean() + np.log(inside.mean()) if inside.any() else -np.inf

    start_key, elbo_key = jax.random.split(key)
    try:
        behind = with_laplace(flow, target, fits, start_key)
    except ValueError:  # the target is not finite where it was looked for
        return flow
    return behind if elbo(behind) > elbo(flow) else flow


def _behind(flow: Flow, start: TriangularAffine) -> Flow:
    """A flow behind a fixed map and a learnable affine layer."""
    affine = TriangularAffine(np.zeros(flow.event_size), np.eye(flow.event_size))
    return Flow(flow.base, Chain([start, affine, flow.bijector]))


def _identity(layers: Any) -> tuple[Bijector, Bijector]:
    """Layers of couplings that start as the identity: without an effect, and their orders undone.

    The usual random start costs a good Gaussian what it has, and components that are narrow beside
    their distances leave no room for it.
    """
    last = layers.layers.bijectors[0].conditioner.layers[-1]
    last.kernel[...] = jnp.zeros_like(last.kernel[...])
    order = layers.forward(jnp.arange(layers.event_size, dtype=float))
    return Permutation(np.argsort(order)), layers


def fits_of(lost: tuple[LostMode, ...], fits: LaplaceFits) -> LaplaceFits:
    """Gaussians of what was lost, as heavy as the heaviest of the others, on the host."""
    log_mass, dtype = np.asarray(fits.log_mass), fits.loc.dtype
    heaviest = log_mass[np.isfinite(log_mass)].max(initial=-np.inf)
    return LaplaceFits(
        np.array([one.location for one in lost], dtype),
        np.array([one.scale_tril for one in lost], dtype),
        np.full(len(lost), heaviest, log_mass.dtype),
    )


def _mixture_of_modes(
    target: Callable[[jax.Array], jax.Array],
    fits: LaplaceFits,
    added: LaplaceFits,
    key: jax.Array,
) -> Mixture | None:
    """A component for each mode, looked for around those known; None where one is all."""
    known = fits.distinct(MOST_MODES)
    fit_key, *searches = jax.random.split(key, 1 + NUM_SEARCHES)
    in_vain = 0
    for i, search in enumerate(searches):
        before = len(known.loc)
        if before + len(added.loc) == 0 or added.loc.shape[1] > MOST_DIMENSIONS:
            return None
        more = laplace_fits(target, _starts_among(target, known.joined(added), search))
        known = known.joined(more).distinct(MOST_MODES)
        if i == 0 and len(known.loc) + len(added.loc) < 2:
            return None
        in_vain = in_vain + 1 if len(known.loc) == before else 0
        if in_vain == IN_VAIN:
            break
    number, everything = len(known.loc), known.joined(added)
    components = _evenly(everything)
    again = lambda i: i >= number and any(components.alike(i, j) for j in range(number))
    kept = np.array([i for i in range(len(components.loc)) if not again(i)])
    return _fitted(target, LaplaceFits(*(part[kept] for part in everything)), fit_key)


def _fitted(
    target: Callable[[jax.Array], jax.Array], known: LaplaceFits, key: jax.Array
) -> Mixture | None:
    """The modes' own mass and shape; None where it is that of one mode, or cannot be told."""
    mixture, ess = fitted(target, _evenly(known), key)
    if not ess >= LEAST_ESS:
        return None
    share = np.exp(np.asarray(mixture.log_share, float))
    kept: list[int] = []
    for i in np.argsort(-share):
        same = [j for j in kept if mixture.alike(i, j)]
        if same:  # two ends of one climb
            share[same[0]] += share[i]
        elif share[i] > LEAST_SHARE:
            kept.append(i)
    if len(kept) < 2:
        return None
    log_share = jnp.log(jnp.asarray(share[kept], mixture.loc.dtype))
    chosen = np.array(kept)
    return Mixture(log_share, mixture.loc[chosen], mixture.scale_tril[chosen])


def _starts_among(
    target: Callable[[jax.Array], jax.Array], known: LaplaceFits, key: jax.Array
) -> np.ndarray:
    """NUM_STARTS points: among the modes, near one, and (half) where they explain little."""
    mean, sd = _moments(_evenly(known))
    mixture, number = _padded(_evenly(known)), len(known.loc)
    centre, steps, chosen = map(np.asarray, _pool(target, mixture, number, mean, sd, key))
    among = centre[:EACH] + 1.5 * steps[:EACH]
    return np.concatenate([among, centre[-EACH:] + spread_out(steps[-EACH:]), chosen])


@quick_jit(once=True)
def _pool(
    target: Callable[[jax.Array], jax.Array],
    mixture: Mixture,
    number: int,
    mean: jax.Array,
    sd: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A centre and a step for each block of a pool of points, and the `unexplained` of them.

    Of the blocks a fourth is around all modes, a fourth around 0, and half are near a mode, of
    which half go far in one coordinate alone.
    """
    which_key, noise_key, reach_key = jax.random.split(key, 3)
    which = jax.random.randint(which_key, (BLOCKS,), 0, number)
    loc, scale_tril = mixture.loc[which], mixture.scale_tril[which]
    noise = jax.random.normal(noise_key, (POOL // BLOCKS, *loc.shape), loc.dtype)
    block = 4 * jnp.arange(BLOCKS)[:, None] // BLOCKS
    of_mode = jnp.einsum("bde,nbe->nbd", scale_tril, noise, precision="highest")
    centre = jnp.select([block == 0, block == 1], [mean, jnp.zeros_like(mean)], loc)
    steps = jnp.select([block == 0, block == 1], [sd * noise, noise], of_mode)
    alone = jnp.broadcast_to(block[:, 0] == 3, steps.shape[:2]).ravel()
    far = stretched(steps.reshape(POOL, -1), alone, reach_key).reshape(steps.shape)
    return centre, steps[0], unexplained(target, mixture, (centre + far).reshape(POOL, -1))


def _padded(mixture: Mixture) -> Mixture:
    """With components of no share up to a power of four: few numbers of them are compiled for."""
    number = len(mixture.loc)
    more = 4 ** int(np.ceil(np.log(number) / np.log(4))) - number
    loc, scale_tril = (np.append(a, np.repeat(a[:1], more, axis=0), axis=0) for a in mixture[1:])
    return Mixture(np.append(mixture.log_share, np.full(more, -np.inf, loc.dtype)), loc, scale_tril)


def _evenly(fits: LaplaceFits) -> Mixture:
    number = len(fits.loc)
    return Mixture(np.full(number, -np.log(number), fits.loc.dtype), fits.loc, fits.scale_tril)


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

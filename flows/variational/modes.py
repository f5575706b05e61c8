"""Modes of the target that an approximation has lost."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from flows.bijectors.linear import product
from flows.distributions import Flow
from flows.variational.laplace import NUM_STARTS, LaplaceFits, laplace_fits

NUM_DRAWS = 256  # around each mode
LEAST_SHARE = 0.01  # of the evidence: what matters less is not reported
LEAST_COVERED = 0.5  # of a mode's evidence; estimates of ratios are noisy
MOST_DIMENSIONS = 200
APART = 3.0  # standard deviations
REACHES = 1.0, 3.0, 10.0, 30.0  # in deviations of q: how far out modes are looked for


@dataclasses.dataclass(frozen=True)
class LostMode:
    """A mode of the target where the approximation has less than half of the mass.

    Attributes:
        location: The mode [D].
        share: Its share of the evidence, of what was found.
    """

    location: np.ndarray
    share: float

    def __str__(self) -> str:
        return f"{self.share:.0%} at {np.array2string(self.location, precision=3, threshold=6)}"


def lost_modes(
    flow: Flow,
    target: Callable[[jax.Array], jax.Array],
    starts: jax.Array,
    log_evidence: jax.Array,
    key: jax.Array,
) -> tuple[LostMode, ...]:
    """The modes of the target where q has too little mass, the heaviest first.

    They are looked for where a start was, and once more around q, in its own units.

    With x from a mode's Gaussian g, the evidence near it is E[p(x) / g(x)]; what q explains of it
    is E[Z q(x) / g(x)], on the same draws, with Z what q estimates the evidence to be. Where q is
    right the two agree draw by draw, however poor g is.

    Args:
        flow: q.
        target: log p of one point [D], up to a constant; a callable pytree.
        starts: Where to look for modes first [K, D].
        log_evidence: log Z.
        key: Random key.

    Cost: that of `laplace_fits`, and NUM_DRAWS evaluations for each mode; none of it beyond
    MOST_DIMENSIONS, where Hessians cost too much.
    """
    if flow.event_size > MOST_DIMENSIONS:
        return ()
    found = [laplace_fits(target, s) for s in (starts, _starts_around(flow, key))]
    fits = jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
    near, explained = _evidence_near(flow, target, fits, log_evidence, key)
    near, explained = np.asarray(near, float), np.asarray(explained, float)
    lost: list[int] = []
    for i in np.argsort(-near):
        missing = np.isfinite(near[i]) and explained[i] < near[i] + np.log(LEAST_COVERED)
        if missing and all(_are_apart(fits, i, j) for j in lost):
            lost.append(i)
    total = np.logaddexp.reduce([float(log_evidence), *near[lost]])
    shares = np.exp(near[lost] - total)
    return tuple(
        LostMode(np.asarray(fits.loc[i]), float(share))
        for i, share in zip(lost, shares, strict=True)
        if share > LEAST_SHARE
    )


def _starts_around(flow: Flow, key: jax.Array) -> jax.Array:
    """Draws of q, moved away from their mean."""
    draws = flow.sample(seed=key, sample_shape=(NUM_STARTS,))
    reaches = jnp.resize(jnp.array(REACHES), (NUM_STARTS, 1))
    return draws.mean(axis=0) + reaches * (draws - draws.mean(axis=0))


@jax.jit
def _evidence_near(
    flow: Flow,
    target: Callable[[jax.Array], jax.Array],
    fits: LaplaceFits,
    log_evidence: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Log evidence near each mode, and how much of it q explains."""
    noise = jax.random.normal(key, (NUM_DRAWS, fits.loc.shape[-1]))
    log_noise = jax.scipy.stats.norm.logpdf(noise).sum(axis=-1)

    def of_mode(fit: LaplaceFits) -> tuple[jax.Array, jax.Array]:
        x = fit.loc + product(noise, fit.scale_tril.T)
        log_g = log_noise - jnp.log(jnp.diagonal(fit.scale_tril)).sum()
        log_p, log_q = jax.vmap(target)(x), flow.log_prob(x) + log_evidence
        usable = jnp.isfinite(log_p) & ~jnp.isnan(log_q)
        mean = lambda log_density: logsumexp(jnp.where(usable, log_density - log_g, -jnp.inf))
        return mean(log_p) - jnp.log(NUM_DRAWS), mean(log_q) - jnp.log(NUM_DRAWS)

    return jax.lax.map(of_mode, fits)  # one at a time, for the memory of large targets


def _are_apart(fits: LaplaceFits, i: int, j: int) -> bool:
    """Whether modes i and j are some standard deviations apart, of either."""
    step = np.asarray(fits.loc[i] - fits.loc[j], float)
    scales = (np.asarray(fits.scale_tril[k], float) for k in (i, j))
    return min(float(np.linalg.norm(np.linalg.solve(s, step))) for s in scales) > APART

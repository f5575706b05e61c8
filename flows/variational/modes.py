"""Modes of the target that an approximation has lost."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp

from flows._programs import quick_jit
from flows.bijectors.linear import product
from flows.distributions import Flow
from flows.variational.laplace import LaplaceFits, laplace_fits
from flows.variational.search import NUM_STARTS, POOL, spread_out, stretched, unexplained

NUM_DRAWS, BATCH = 256, 64  # around each mode, and at once
LEAST_SHARE = 0.01  # of the evidence: if all that is lost matters less it is not reported
LEAST_COVERED = 0.5  # of a mode's evidence; estimates of ratios are noisy
BLURRED = 0.1  # of a mode's deviations: by how much rounding may move points near it
SHOWN = 6  # parameters, when printed
SEEN = 1e-4  # of q or the evidence: a mode with less has no draws, and is none


@dataclasses.dataclass(frozen=True)
class LostMode:
    """A mode of the target where the approximation has less than half of the mass.

    Attributes:
        location: The mode [D].
        share: Its share of the evidence, of what was found.
        scale_tril: Cholesky factor of the covariance there [D, D].
        parameters: What the location stands for, by the names of a target that has some: first
            those that are furthest from q, in its deviations.
    """

    location: np.ndarray = dataclasses.field(compare=False)
    share: float
    scale_tril: np.ndarray = dataclasses.field(compare=False, repr=False)
    parameters: dict[str, float] | None = dataclasses.field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.share:.1%} at {self.place}"

    @property
    def place(self) -> str:
        """The location, or the first of the parameters, as they are printed."""
        if self.parameters is None:
            return np.array2string(self.location, precision=3, threshold=6)
        named = [f"{name} {value:.3g}" for name, value in self.parameters.items()]
        return ", ".join(named[:SHOWN]) + ", ..." * (len(named) > SHOWN)


def lost_modes(
    flow: Flow,
    target: Callable[[jax.Array], jax.Array],
    fits: LaplaceFits | None,
    log_evidence: float,
    spread: float,
    key: jax.Array,
) -> tuple[LostMode, ...] | None:
    """The modes of the target where q has too little mass, the heaviest first.

    They are those that were found before, and those found around q, in its own units: from some
    of its draws, spread out, and from where q does not explain the target.

    With x from a mode's Gaussian g, the evidence near it is E[p(x) / g(x)]; what q explains of it
    is E[Z q(x) / g(x)], on the same draws, with Z what q estimates the evidence to be. Where q is
    right the two agree draw by draw, but for the spread of its weights, however poor g is. A mode
    so narrow that rounding moves these draws by a tenth of a deviation is none: such is the neck of
    a funnel in float32, where parameters equal their mean and the density has no bound.

    Args:
        flow: q.
        target: log p of one point [D], up to a constant; a callable pytree.
        fits: Gaussians at the modes found before; None where they were not looked for.
        log_evidence: log Z.
        spread: Standard deviation of the log weights of q's draws.
        key: Random key.

    Returns:
        Them; None without `fits`.

    Cost: that of `laplace_fits` and of `unexplained`, and NUM_DRAWS evaluations for each mode.
    """
    if fits is None:
        return None
    starts_key, draws_key = jax.random.split(key)
    draws, chosen = _pool(flow, target, starts_key)
    fits = fits.joined(laplace_fits(target, np.concatenate([spread_out(draws), chosen])))
    near, explained, ess = (
        np.asarray(part, float)
        for part in _evidence_near(flow, target, fits, log_evidence, draws_key)
    )
    least = near + np.log(LEAST_COVERED) - 2 * spread / np.sqrt(ess)
    missing = np.isfinite(near) & (explained < least)
    lost: list[int] = []
    for i in np.argsort(-near):
        if missing[i] and all(fits.apart(i, j) for j in lost):
            lost.append(i)
    unseen = [i for i in lost if explained[i] < log_evidence + np.log(SEEN)]
    total = np.logaddexp.reduce([log_evidence, *near[unseen]])
    shares = np.exp(near[lost] - total)
    if not shares.sum() > LEAST_SHARE:
        return ()
    return tuple(
        LostMode(np.asarray(fits.loc[i]), float(share), np.asarray(fits.scale_tril[i]))
        for i, share in zip(lost, shares, strict=True)
        if share > SEEN
    )


@quick_jit(once=True)
def _pool(
    flow: Flow, target: Callable[[jax.Array], jax.Array], key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Some draws of q, and the `unexplained` of points around q and around 0."""
    draws_key, zero_key, reach_key = jax.random.split(key, 3)
    draws = flow.sample(seed=draws_key, sample_shape=(POOL // 2,))
    centre = jnp.nanmedian(draws[:NUM_STARTS], axis=0)
    steps = jnp.concatenate([draws - centre, jax.random.normal(zero_key, draws.shape)])
    far = stretched(steps, jnp.arange(POOL) < POOL // 4, reach_key)
    points = far.at[: len(draws)].add(centre)
    return draws[: NUM_STARTS // 2], unexplained(target, flow, points)


@quick_jit(once=True)
def _evidence_near(
    flow: Flow,
    target: Callable[[jax.Array], jax.Array],
    fits: LaplaceFits,
    log_evidence: float,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log evidence near each mode, how much of it q explains, and effective draws."""
    noise = jax.random.normal(key, (NUM_DRAWS, fits.loc.shape[-1]))
    log_noise = jax.scipy.stats.norm.logpdf(noise).sum(axis=-1)

    def of_mode(fit: LaplaceFits) -> tuple[jax.Array, jax.Array, jax.Array]:
        x = fit.loc + product(noise, fit.scale_tril.T)
        log_g = log_noise - jnp.log(jnp.diagonal(fit.scale_tril)).sum()
        as_stored = solve_triangular(fit.scale_tril, (x - fit.loc).T, lower=True).T
        sharp = jnp.mean((as_stored - noise) ** 2) < BLURRED**2
        log_p = jax.lax.map(target, x, batch_size=BATCH) - log_g
        log_q = flow.log_prob(x) + log_evidence - log_g
        usable = jnp.isfinite(log_p) & sharp
        log_p = jnp.where(usable, log_p, -jnp.inf)
        log_q = jnp.where(usable & ~jnp.isnan(log_q), log_q, -jnp.inf)  # NaN: far from q
        near, explained = logsumexp(log_p), logsumexp(log_q)
        ess = jnp.exp(2 * near - logsumexp(2 * log_p))
        return near - jnp.log(NUM_DRAWS), explained - jnp.log(NUM_DRAWS), ess

    return jax.lax.map(of_mode, fits)  # one at a time, for the memory of large targets

"""Mass of the target that an approximation lacks, looked for without climbing: by tempering."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp

from flows._programs import quick_jit
from flows.bijectors.linear import product
from flows.distributions import Flow
from flows.variational.modes import LostMode

NUM_PARTICLES, NUM_MOVES, BATCH = 1024, 10, 256
MOST_TEMPERATURES = 64
REACHES = tuple(1000.0 ** (i / 15) for i in range(16))  # in deviations of q: where to start
FARTHEST = 5.0  # deviations from the median: draws of q beyond count as there
SHORTEST = 64.0  # steps of particles are shorter than the usual by up to this factor
NEXT_TO_NONE = 0.01  # of the density: what q explains less of counts as lacking; weights see more
LEAST_SHARE = 0.02  # of the evidence: what matters less is not reported


class LostRegion(LostMode):
    """Where the target has mass, and the approximation next to none: the mean of that mass."""

    def __str__(self) -> str:
        if self.parameters is not None:
            return f"{self.share:.1%} around {self.place}"
        deviations = np.linalg.norm(self.scale_tril, axis=1)
        wide = np.array2string(deviations, precision=3, threshold=6)
        return f"{self.share:.1%} around {self.place}, +- {wide}"


def lost_regions(
    flow: Flow,
    target: Callable[[jax.Array], jax.Array],
    draws: np.ndarray,
    log_evidence: float,
    key: jax.Array,
) -> tuple[LostRegion, ...] | None:
    r"""The region where q lacks mass of the target, if there is one.

    A wide shoulder of a narrow mode has no mode of its own, and no importance weight tells of it
    where draws of q never go. Here particles come from far around q to

        p(x) / (1 + 100 Z q(x) / p(x))^2,

    which is p where q explains next to nothing of it, and next to nothing where it does, by
    sequential Monte Carlo: Z is what q estimates the evidence to be, so that it is compared with
    another, independent estimate, which is seldom far too large. In 10 dimensions that is right to
    some 15 %, in 100 to a factor of two.
    Source: Del Moral et al. 2006, J. R. Stat. Soc. B 68; moves as of ter Braak 2006,
    Stat. Comput. 16.

    Args:
        flow: q.
        target: log p of one point [D], up to a constant; a callable pytree.
        draws: Some of q [n, D].
        log_evidence: log Z.
        key: Random key.

    Returns:
        It; none where next to nothing is lacking; None where that cannot be told, as particles do
        not get there.

    Cost: some 10,000 evaluations of the target and of q for each temperature, of which there are
    three to ten for most targets.
    """
    around = (jnp.asarray(part, draws.dtype) for part in _moments(draws))
    found = _tempered(flow, target, log_evidence, *around, key)
    log_mass = float(found.log_mass)
    share = float(np.exp(-np.logaddexp(0.0, log_evidence - log_mass)))
    if log_mass > -np.inf and float(found.inverse_temperature) != 1:
        return None
    if not share > LEAST_SHARE:
        return ()
    x = np.asarray(found.x, np.float64)
    jitter = 1e-6 * np.diag(x.var(axis=0))
    scale_tril = np.linalg.cholesky(np.cov(x, rowvar=False).reshape(jitter.shape) + jitter)
    return (LostRegion(x.mean(axis=0), share, scale_tril),)


class _Particles(NamedTuple):
    """Particles x [n, D] of start(x)^(1 - b) lacking(x)^b, b the inverse temperature."""

    inverse_temperature: jax.Array
    x: jax.Array
    others: jax.Array  # [n, D], particles as they were when this temperature was reached
    log_start: jax.Array  # [n]
    log_lacking: jax.Array  # [n]
    log_mass: jax.Array  # of what is lacking, when b is 1
    key: jax.Array
    move: int

    def log_prob(self) -> jax.Array:
        b = self.inverse_temperature
        return (1 - b) * self.log_start + jnp.where(b > 0, b * self.log_lacking, 0.0)


@quick_jit(once=True)
def _tempered(
    flow: Flow,
    target: Callable[[jax.Array], jax.Array],
    log_evidence: float,
    loc: jax.Array,
    scale_tril: jax.Array,
    key: jax.Array,
) -> _Particles:
    """Particles at the last temperature, from a mixture of normals around loc [D]."""
    reach = jnp.asarray(REACHES, loc.dtype)

    def log_start(x: jax.Array) -> jax.Array:
        squares = (solve_triangular(scale_tril, (x - loc).T, lower=True) ** 2).sum(axis=0)
        size, log_scale = loc.size, jnp.log(jnp.diagonal(scale_tril)).sum()
        of_each = -squares[:, None] / (2 * reach**2) - size * jnp.log(reach)
        constant = size / 2 * jnp.log(2 * jnp.pi) + log_scale + jnp.log(len(REACHES))
        return logsumexp(of_each, axis=1) - constant

    def log_lacking(x: jax.Array) -> jax.Array:
        log_p = jax.lax.map(target, x, batch_size=BATCH)
        log_q = flow.log_prob(x) + log_evidence
        log_q = jnp.where(jnp.isnan(log_q), -jnp.inf, log_q)  # far from q
        value = log_p - 2 * jax.nn.softplus(log_q - log_p - jnp.log(NEXT_TO_NONE))
        return jnp.where(jnp.isfinite(value), value, -jnp.inf).astype(x.dtype)

    def moved(now: _Particles) -> _Particles:
        """Each a step along the difference of two others, of any length up to the usual one."""
        now = jax.lax.cond(now.move % NUM_MOVES == 1, _colder, lambda same: same, now)
        key, pair_key, length_key, accept_key = jax.random.split(now.key, 4)
        one, other = jax.random.randint(pair_key, (2, NUM_PARTICLES), 0, NUM_PARTICLES)
        exponent = jax.random.uniform(length_key, (NUM_PARTICLES, 1), loc.dtype) ** 2
        length = 2.38 / jnp.sqrt(2 * loc.size) * SHORTEST**-exponent
        length = jnp.where(now.move > 0, length, 0.0)  # first, the density where they are
        x = now.x + length * (now.others[one] - now.others[other])
        new = now._replace(x=x, log_start=log_start(x), log_lacking=log_lacking(x))
        gain = new.log_prob() - now.log_prob()
        taken = jnp.log(jax.random.uniform(accept_key, gain.shape)) < gain
        return now._replace(
            x=jnp.where(taken[:, None], new.x, now.x),
            log_start=jnp.where(taken, new.log_start, now.log_start),
            log_lacking=jnp.where(taken, new.log_lacking, now.log_lacking),
            key=key,
            move=now.move + 1,
        )

    def unfinished(now: _Particles) -> jax.Array:
        cold = (now.inverse_temperature == 1) & (now.move % NUM_MOVES == 1)
        few = now.move < MOST_TEMPERATURES * NUM_MOVES
        return ~cold & few & (now.log_mass > -jnp.inf)

    noise_key, key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (NUM_PARTICLES, loc.size), loc.dtype)
    x = loc + jnp.resize(reach, (NUM_PARTICLES, 1)) * product(noise, scale_tril.T)
    zero = jnp.zeros((), loc.dtype)
    nothing = jnp.full(NUM_PARTICLES, -jnp.inf, loc.dtype)
    start = _Particles(zero, x, x, log_start(x), nothing, zero, key, 0)
    return jax.lax.while_loop(unfinished, moved, start)


def _colder(particles: _Particles) -> _Particles:
    """Particles of the next temperature: drawn by their weights for it."""
    key, draw_key = jax.random.split(particles.key)
    b = _next(particles)
    log_w = _increments(particles, b)
    number = len(log_w)
    chosen = jax.random.choice(draw_key, number, (number,), p=jax.nn.softmax(log_w))
    x = particles.x[chosen]
    return particles._replace(
        inverse_temperature=b,
        x=x,
        others=x,
        log_start=particles.log_start[chosen],
        log_lacking=particles.log_lacking[chosen],
        log_mass=particles.log_mass + logsumexp(log_w) - jnp.log(number),
        key=key,
    )


def _increments(particles: _Particles, b: jax.Array) -> jax.Array:
    """Log weights of particles at the next inverse temperature b."""
    ratio = particles.log_lacking - particles.log_start
    return jnp.where(ratio > -jnp.inf, (b - particles.inverse_temperature) * ratio, -jnp.inf)


def _next(particles: _Particles) -> jax.Array:
    """The inverse temperature at which half of the particles that have any weight count."""
    least = (particles.log_lacking > -jnp.inf).sum() / 2

    def enough(b: jax.Array) -> jax.Array:
        log_w = _increments(particles, b)
        return jnp.exp(2 * logsumexp(log_w) - logsumexp(2 * log_w)) >= least

    def halved(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    one = jnp.ones_like(particles.inverse_temperature)
    _, high = jax.lax.fori_loop(0, 24, halved, (particles.inverse_temperature, one))
    return jnp.where(enough(one), one, high)


def _moments(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median [D] of draws [n, D], and Cholesky factor [D, D] of a covariance without outliers."""
    draws = np.asarray(draws[np.isfinite(draws).all(axis=1)], np.float64)
    low, loc, high = np.quantile(draws, [0.16, 0.5, 0.84], axis=0)
    sd = np.where(high > low, (high - low) / 2, 1.0)
    steps = np.clip((draws - loc) / sd, -FARTHEST, FARTHEST)
    correlation = steps.T @ steps / len(steps)
    return loc, sd[:, None] * np.linalg.cholesky(correlation + 1e-4 * np.eye(loc.size))

"""A mixture of Student-t fitted to a target of several modes, by importance sampling."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import gammaln, logsumexp

from flows._programs import quick_jit
from flows.bijectors.linear import product

DF = 5.0  # tails heavier than most targets'
NUM_DRAWS, NUM_ROUNDS, BATCH = 8192, 16, 256
SAME, WIDER = 1.0, 3.0  # deviations, and ratio of them, within which two components are one
SPARE = 0.1  # of the draws, evenly over the components: none is given up too early


class Mixture(NamedTuple):
    """Components with shares.

    Attributes:
        log_share: Logarithms of the shares [K].
        loc: Their locations [K, D].
        scale_tril: Cholesky factors of their scale matrices [K, D, D].
    """

    log_share: Any
    loc: Any
    scale_tril: Any

    def log_prob(self, x: jax.Array) -> jax.Array:
        """Log density at points [n, D] of the mixture of normals."""
        squares, log_scales = _squares(self, x)
        constant = self.loc.shape[1] / 2 * jnp.log(2 * jnp.pi)
        return logsumexp(self.log_share - squares / 2 - log_scales - constant, axis=1)

    def alike(self, i: int, j: int) -> bool:
        """Whether component i is within a deviation of component j, and about as wide."""
        step = np.asarray(self.loc[i] - self.loc[j], float)
        mine, other = (np.asarray(self.scale_tril[k], float) for k in (i, j))
        near = np.linalg.norm(np.linalg.solve(other, step)) < SAME
        ratios = np.linalg.svd(np.linalg.solve(other, mine), compute_uv=False)
        return bool(near and ratios.min() > 1 / WIDER and ratios.max() < WIDER)


@quick_jit(once=True)
def fitted(
    target: Callable[[jax.Array], jax.Array], mixture: Mixture, key: jax.Array
) -> tuple[Mixture, jax.Array]:
    r"""Means, covariances and shares of the target near each component, and the ESS of all.

    Each round draws from the mixture of Student-t, weights the draws by w = p / q, and gives each
    component the moments of the draws that it is responsible for. Source: population Monte Carlo,
    Cappe et al. 2008, arXiv:0710.4242, with weights cut at sqrt(n) times their mean (Ionides 2008,
    J. Comput. Graph. Stat. 17).

    Args:
        target: log p of one point [D], up to a constant; a callable pytree.
        mixture: Where to start, a component for each mode.
        key: Random key.

    Cost: NUM_ROUNDS NUM_DRAWS evaluations of the target, and as many times K D^2.
    """

    def round_(mixture: Mixture, key: jax.Array) -> tuple[Mixture, jax.Array]:
        share = (1 - SPARE) * jnp.exp(mixture.log_share) + SPARE / len(mixture.log_share)
        mixture = mixture._replace(log_share=jnp.log(share))
        x = _draws(mixture, key)
        log_each = _log_densities(mixture, x)
        log_w = jax.lax.map(target, x, batch_size=BATCH) - logsumexp(log_each, axis=1)
        log_w = jnp.where(jnp.isfinite(log_w), log_w, -jnp.inf)
        log_mean = logsumexp(log_w) - jnp.log(NUM_DRAWS)
        w = jnp.exp(jnp.minimum(log_w - log_mean, 0.5 * jnp.log(NUM_DRAWS)))
        ess = jnp.exp(2 * logsumexp(log_w) - logsumexp(2 * log_w))
        mass = jax.nn.softmax(log_each, axis=1) * (w / w.sum())[:, None]  # [n, K]
        moved = _moments(mixture, x, mass)
        new = jax.tree.map(lambda a, b: jnp.where(jnp.isfinite(log_mean), a, b), moved, mixture)
        return new, ess

    keys = jax.random.split(key, NUM_ROUNDS)
    last, ess = jax.lax.scan(round_, mixture, keys)
    return last, ess[-1]


def _moments(mixture: Mixture, x: jax.Array, mass: jax.Array) -> Mixture:
    """Each component moved to its mass [n, K] as far as there are draws enough to know it."""
    tiny = jnp.finfo(mass.dtype).tiny
    share = mass.sum(axis=0)
    known = share**2 / ((mass**2).sum(axis=0) + tiny)  # effective draws
    trust = known / (known + 2 * x.shape[1])
    loc = product((mass / (share + tiny)).T, x)
    loc = mixture.loc + trust[:, None] * (loc - mixture.loc)

    def covariance(mass: jax.Array, loc: jax.Array) -> jax.Array:
        return product((x - loc).T * (mass / (mass.sum() + tiny)), x - loc)

    scatter = jax.vmap(covariance, (1, 0))(mass, loc)
    before = jax.vmap(lambda tril: product(tril, tril.T))(mixture.scale_tril)
    trust = trust[:, None, None]
    scale_tril = jnp.linalg.cholesky(trust * scatter + (1 - trust) * before)
    sound = jnp.isfinite(scale_tril).all(axis=(1, 2), keepdims=True)
    return Mixture(jnp.log(share + tiny), loc, jnp.where(sound, scale_tril, mixture.scale_tril))


def _draws(mixture: Mixture, key: jax.Array) -> jax.Array:
    """Draws of the Student-t mixture [NUM_DRAWS, D]."""
    keys = jax.random.split(key, 3)
    which = jax.random.categorical(keys[0], mixture.log_share, shape=(NUM_DRAWS,))
    noise = jax.random.normal(keys[1], (NUM_DRAWS, mixture.loc.shape[1]))
    noise *= jnp.sqrt(DF / jax.random.chisquare(keys[2], DF, shape=(NUM_DRAWS, 1)))
    of_each = jax.vmap(lambda tril: product(noise, tril.T))(mixture.scale_tril)
    return mixture.loc[which] + of_each[which, jnp.arange(NUM_DRAWS)]


def _log_densities(mixture: Mixture, x: jax.Array) -> jax.Array:
    """Log density of each Student-t component at x, times its share [n, K]."""
    size = x.shape[1]
    constant = gammaln((DF + size) / 2) - gammaln(DF / 2) - size / 2 * jnp.log(DF * jnp.pi)
    squares, log_scales = _squares(mixture, x)
    tails = (DF + size) / 2 * jnp.log1p(squares / DF)
    return mixture.log_share + constant - log_scales - tails


def _squares(mixture: Mixture, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Squared distances from the components, in their deviations [n, K]; log determinants [K]."""

    def of_one(loc: jax.Array, tril: jax.Array) -> jax.Array:
        return (solve_triangular(tril, (x - loc).T, lower=True) ** 2).sum(axis=0)

    diagonals = jnp.diagonal(mixture.scale_tril, axis1=1, axis2=2)
    squares = jax.lax.map(lambda part: of_one(*part), (mixture.loc, mixture.scale_tril))
    return squares.T, jnp.log(diagonals).sum(axis=1)

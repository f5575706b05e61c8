"""Where to start: the best Gaussian among Laplace fits at several modes, and N(0, I)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flows._programs import normals, quick_jit
from flows.bijectors import TriangularAffine
from flows.bijectors.linear import product

APART = 3.0  # standard deviations between two modes
NEGLIGIBLE = 50.0  # nats
SADDLE = -0.1  # least eigenvalue of a precision of unit diagonal where the density has no top
NUM_ITERATIONS = 200
MOST_TRIALS = 8  # of the length of a step: all climbs wait for the one that tries longest
RISE, IN_VAIN = 1e-3, 20  # nats less than which a climb has not risen, and after how many it ends
MOST_DIMENSIONS = 200  # in which more modes are looked for: each costs a Hessian
NUM_DRAWS = 256  # to compare the candidates' ELBOs
BATCH = 64  # columns of a Hessian at once
FLATTEST, NUM_FACTORS, MOST_FALL = 8, 16, 1.0  # directions whose deviations are looked at, and how


class LaplaceFits(NamedTuple):
    """Gaussians at modes of a target, of which the same mode may have several.

    Attributes:
        loc: The modes [K, D].
        scale_tril: Cholesky factors [K, D, D] of the covariances, (-Hessian)^-1.
        log_mass: Log of the target's mass near each, if it were the Gaussian [K]; -inf at saddles.
    """

    loc: Any
    scale_tril: Any
    log_mass: Any

    def joined(self, others: "LaplaceFits") -> "LaplaceFits":
        """These and others, on the host."""
        return LaplaceFits(*(np.concatenate(parts) for parts in zip(self, others, strict=True)))

    def apart(self, i: int, j: int) -> bool:
        """Whether modes i and j are some standard deviations apart, of either."""
        step = np.asarray(self.loc[i] - self.loc[j], float)
        scales = (np.asarray(self.scale_tril[k], float) for k in (i, j))
        return min(float(np.linalg.norm(np.linalg.solve(s, step))) for s in scales) > APART

    def distinct(self, most: int) -> "LaplaceFits":
        """One fit for each mode, the heaviest of them, on the host.

        What has less than e^-NEGLIGIBLE of the heaviest one's mass is where a climb got stuck.
        """
        fits = LaplaceFits(*(np.asarray(part) for part in self))
        finite = np.isfinite(fits.log_mass)
        least = fits.log_mass[finite].max(initial=-np.inf) - NEGLIGIBLE
        kept: list[int] = []
        for i in np.argsort(-fits.log_mass):
            if finite[i] and fits.log_mass[i] > least and all(fits.apart(i, j) for j in kept):
                kept.append(i)
        return LaplaceFits(*(part[np.array(kept[:most], int)] for part in fits))


def laplace_start(
    log_density: Callable[[jax.Array], jax.Array], fits: LaplaceFits, key: jax.Array
) -> TriangularAffine:
    r"""The affine map from N(0, I) to a Gaussian near the target.

    Of the fits and N(0, I) the one with the highest ELBO wins, so that a run-away mode or a
    singular Hessian does no harm. Where the target has no mass, log p = -inf or NaN, it is the
    ELBO of the Gaussian cut there.

    Args:
        log_density: log p of one point [D], up to a constant; a callable pytree.
        fits: Gaussians at modes.
        key: Random key.

    Raises:
        ValueError: The target is not finite at any of the starts.

    Cost: a few thousand evaluations of the target.
    """
    event_size = fits.loc.shape[-1]
    draws = normals(key, (NUM_DRAWS, event_size))
    value, loc, scale_tril = _best(log_density, fits, draws)
    if not np.isfinite(value):
        raise ValueError(
            "target is not finite around any of the starting points: check that it is a log "
            f"density on all of R^{event_size} (constrained parameters need a change of variables)."
        )
    return TriangularAffine(loc, scale_tril, trainable=False)


@quick_jit(once=True)
def laplace_fits(log_density: Callable[[jax.Array], jax.Array], starts: jax.Array) -> LaplaceFits:
    r"""Gaussians N(mode, (-Hessian)^-1) where L-BFGS ends, from several starts at once.

    Args:
        log_density: log p of one point [D], up to a constant; a callable pytree.
        starts: Points [K, D].

    Cost: a few thousand evaluations of the target, D + 1 gradients for each Hessian.
    """

    def fit(mode: jax.Array) -> LaplaceFits:
        column = lambda direction: jax.jvp(jax.grad(log_density), (mode,), (direction,))[1]
        precision = -jax.lax.map(column, jnp.eye(mode.size, dtype=mode.dtype), batch_size=BATCH)
        precision = (precision + precision.T) / 2
        scale = jax.lax.rsqrt(jnp.abs(jnp.diagonal(precision)) + 1e-12)  # for float32's sake
        eigenvalues, vectors = jnp.linalg.eigh(scale[:, None] * precision * scale)
        curvature = jnp.maximum(jnp.abs(eigenvalues), 1e-6)
        directions = vectors * jax.lax.rsqrt(curvature)
        flattest = jnp.argsort(curvature)[:FLATTEST]
        shrinkage = _shrinkage(log_density, mode, scale[:, None] * directions[:, flattest])
        directions = directions.at[:, flattest].multiply(shrinkage)
        # R'R is the inverse of the scaled precision, whose square float32 could not hold.
        upper = jnp.linalg.qr(directions.T, mode="r")
        factor = (upper * jnp.where(jnp.diagonal(upper) < 0, -1.0, 1.0)[:, None]).T
        scale_tril = scale[:, None] * factor
        newton = mode + scale_tril @ (scale_tril.T @ jax.grad(log_density)(mode))
        both = jnp.stack([mode, newton])
        heights = jax.lax.map(log_density, both)
        best = jnp.where(heights[1] > heights[0], 1, 0)  # the climb may not have arrived
        log_mass = heights[best] + jnp.log(jnp.diagonal(scale_tril)).sum()
        log_mass = jnp.where(eigenvalues[0] < SADDLE, -jnp.inf, log_mass)
        return LaplaceFits(both[best], scale_tril, log_mass)

    modes = jax.vmap(lambda start: _climb(log_density, start))(starts)
    return jax.lax.map(fit, modes)  # one at a time, for the memory of large targets


def _shrinkage(
    log_density: Callable[[jax.Array], jax.Array], mode: jax.Array, directions: jax.Array
) -> jax.Array:
    """How much shorter than the curvature says deviations are: columns of `directions` [D, n].

    Along a ring, a valley or up to a bound the curvature is none, and yet the density falls: what
    counts is that it has not fallen by more than MOST_FALL where the deviation ends.
    """
    factors = 4.0 ** -jnp.arange(NUM_FACTORS)
    steps = factors[:, None, None] * directions.T  # [factor, direction, D]
    both = jnp.stack([mode + steps, mode - steps]).reshape(-1, mode.size)
    value = jax.lax.map(log_density, both, batch_size=BATCH).reshape(2, NUM_FACTORS, -1).mean(0)
    flat = log_density(mode) - value < MOST_FALL
    return factors[jnp.where(flat.any(axis=0), flat.argmax(axis=0), 0)].astype(mode.dtype)


@quick_jit(once=True)
def _best(
    log_density: Callable[[jax.Array], jax.Array], fits: LaplaceFits, draws: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best Gaussian's ELBO, location and Cholesky factor."""
    event_size = draws.shape[-1]

    def elbo(gaussian: tuple[jax.Array, jax.Array]) -> jax.Array:
        loc, scale_tril = gaussian
        entropy = jnp.log(jnp.diagonal(scale_tril)).sum()
        log_p = jax.vmap(log_density)(loc + product(draws, scale_tril.T))
        inside = log_p > -jnp.inf
        cut = (log_p + 0.5 * (draws**2).sum(axis=1)).mean(where=inside) + jnp.log(inside.mean())
        value = cut + entropy
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    locs = jnp.concatenate([jnp.zeros((1, event_size)), fits.loc])
    scales = jnp.concatenate([jnp.eye(event_size)[None], fits.scale_tril])
    elbos = jax.lax.map(elbo, (locs, scales))  # one at a time, for the memory of large targets
    best = elbos.argmax()
    return elbos[best], locs[best], scales[best]


def _climb(log_density: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    """Runs L-BFGS uphill from `start`, until it rises no more; returns the best point it saw."""
    line = optax.scale_by_zoom_linesearch(MOST_TRIALS, initial_guess_strategy="one")
    solver = optax.lbfgs(linesearch=line)

    def loss(x: jax.Array) -> jax.Array:
        return -log_density(x)

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        x, state, best, best_value, number, in_vain = carry
        value, grad = value_and_grad(x, state=state)
        in_vain = jnp.where(value < best_value - RISE, 0, in_vain + 1)
        better = value < best_value
        best, best_value = jnp.where(better, x, best), jnp.where(better, value, best_value)
        updates, state = solver.update(grad, state, x, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(x, updates), state, best, best_value, number + 1, in_vain

    def climbing(carry):
        *_, number, in_vain = carry
        return (number < NUM_ITERATIONS) & (in_vain < IN_VAIN)

    infinite = jnp.full((), jnp.inf, start.dtype)
    init = (start, solver.init(start), start, infinite, 0, 0)
    return jax.lax.while_loop(climbing, step, init)[2]

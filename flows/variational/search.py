"""Where to look for modes: around what is known, and where that does not explain the target."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows._programs import normals

NUM_STARTS = 32
REACHES = (1.0, 3.0, 10.0, 30.0)  # how far out, in deviations of what is known
FARTHER = (100.0, 3000.0, 10.0, 300.0)  # the same, of few starts: far modes attract from far away
ALONE = 20.0  # the same, in one coordinate
POOL, BATCH = 65_536, 256  # points of which the unexplained are chosen; how many at once
GROUPS = 4  # of the pool, by distance: what is far is unexplained by more


def first_starts(event_size: int, key: jax.Array) -> np.ndarray:
    """Where to look for modes of a target of which nothing is known: around 0."""
    steps = _reaching(np.asarray(normals(key, (NUM_STARTS, event_size))), REACHES)
    return np.append(np.zeros_like(steps[:1]), steps[1:], axis=0)


def spread_out(draws: Any) -> np.ndarray:
    """Draws [n, D] moved away from their centre, half of them in one coordinate alone.

    (A target of independent coordinates with two modes each has its next mode there.) The others
    go far, in pairs of opposite directions.
    """
    points = np.asarray(draws)
    n, event_size = points.shape
    centre = np.nanmedian(np.where(np.isfinite(points), points, np.nan), axis=0)
    steps = points - centre
    one_way = _reaching(steps[: n // 4], FARTHER)
    alone = np.eye(event_size, dtype=points.dtype)[np.arange(n) % event_size]
    longer = (steps * (1 + ALONE * alone))[2 * len(one_way) :]
    return centre + np.concatenate([one_way, -one_way, longer])


def _reaching(steps: np.ndarray, reaches: tuple[float, ...]) -> np.ndarray:
    """Steps [n, D], of which some go farther than others."""
    return steps * np.resize(np.array(reaches, steps.dtype), (len(steps), 1))


def stretched(steps: jax.Array, alone: jax.Array, key: jax.Array) -> jax.Array:
    """Steps [POOL, D] of any length up to 30 times theirs, in turn from each of the groups.

    Those that are `alone` [POOL] are longer in one coordinate only, in turn of each.
    """
    row, event_size = jnp.arange(len(steps)), steps.shape[1]
    exponent = row % GROUPS + jax.random.uniform(key, (len(steps),))
    stretch = (REACHES[-1] ** (1 / GROUPS)) ** exponent[:, None]
    theirs = jnp.arange(event_size) == (row // GROUPS % event_size)[:, None]
    return steps * jnp.where(theirs | ~alone[:, None], stretch, 1.0)


def unexplained(
    target: Callable[[jax.Array], jax.Array], model: Any, points: jax.Array
) -> jax.Array:
    """The NUM_STARTS / 2 points where the target is highest beside what a model says.

    Near a mode that the model lacks it is higher by far, and a climb from there ends at it; of
    what is known already a climb ends where others did.

    Args:
        target: log p of one point [D], up to a constant; a callable pytree.
        model: A pytree with a method `log_prob`.
        points: Where to look, `stretched` [POOL, D].

    Cost: POOL evaluations of the target and of the model.
    """
    beside = lambda x: target(x) - model.log_prob(x[None])[0]
    excess = jax.lax.map(beside, points, batch_size=BATCH)
    excess = jnp.where(jnp.isfinite(excess), excess, -jnp.inf).reshape(-1, GROUPS)
    _, best = jax.lax.top_k(excess.T, NUM_STARTS // 2 // GROUPS)
    return points.reshape(-1, GROUPS, points.shape[1])[best, jnp.arange(GROUPS)[:, None]].reshape(
        -1, points.shape[1]
    )

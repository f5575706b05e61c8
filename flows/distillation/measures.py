"""What reports are made of: log ratios at draws, and the time that draws take."""

import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flows.divergences.symmetric import jeffreys_of

NUM_DRAWS, BLOCK = 100_000, 10_000  # of each; a fifth where networks are large
LARGE = 1_000_000  # numbers in both flows
BATCHES = (1, 1000, 100_000)  # draws that are timed
NUM_REPEATS, SHORT, LONG = 5, 0.02, 1.0  # timed calls; more of short ones, fewer of long ones


class Timing(NamedTuple):
    """Median seconds of a compiled call for so many draws."""

    num_draws: int
    teacher: float
    student: float

    @property
    def speedup(self) -> float:
        """How many times as fast the student is."""
        return self.teacher / self.student


log_prob = jax.jit(lambda dist, x: dist.log_prob(x))  # one program for all that share a structure


def log_ratios(p: Any, q: Any, key: jax.Array) -> tuple[np.ndarray, jax.Array]:
    """What log p - log q is at draws of p [n], for each context of a batch, and some draws."""
    size = sum(leaf.size for leaf in jax.tree.leaves((p, q)) if hasattr(leaf, "size"))
    num_draws = NUM_DRAWS if size < LARGE else NUM_DRAWS // 5
    batch = tuple(p.batch_shape)
    keys = jax.random.split(key, num_draws // BLOCK)
    shape = () if batch else (BLOCK,)
    first, x = _log_ratios(p, q, keys[0], shape)
    others = [_log_ratios(p, q, k, shape)[0] for k in keys[1:]]
    return np.concatenate([np.asarray(block, np.float64) for block in (first, *others)]), x


def apart(
    teacher: Any, student: Any, context: jax.Array | None, key: jax.Array
) -> tuple[float, float]:
    """The Jeffreys divergence of the two on the real line, and the worst log ratio.

    Both are NaN or inf where a log density is not finite.
    """
    teacher, student = bound_to([teacher, student.unconstrained()], context, BLOCK)
    there, _ = log_ratios(teacher, student, key)
    back, _ = log_ratios(student, teacher, jax.random.fold_in(key, 1))
    both = np.concatenate([there, back])
    return float(jeffreys_of(jnp.asarray(both)).mean()), float(np.abs(both).max())


def bound_to(dists: list[Any], context: jax.Array | None, size: int) -> list[Any]:
    """The distributions, conditional ones bound to so many contexts, each repeated as needed."""
    if context is None:
        return dists
    rows = jnp.arange(size) % len(context)
    return [dist.condition(context[rows]) for dist in dists]


def _log_ratios_of_block(
    p: Any, q: Any, key: jax.Array, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    if hasattr(p, "experimental_sample_and_log_prob"):
        x, log_p = p.experimental_sample_and_log_prob(shape, seed=key)
    else:
        x, log_p = p.sample_and_log_prob(seed=key, sample_shape=shape)
    return log_p - q.log_prob(x), x


_log_ratios = jax.jit(_log_ratios_of_block, static_argnums=3)


def seconds_of_draws(
    dists: list[Any],
    context: jax.Array | None,
    key: jax.Array,
    batches: tuple[int, ...] = BATCHES,
) -> Iterator[tuple[int, list[float]]]:
    """Median wall times of compiled calls for each of the batch sizes, made in turns."""
    for num_draws in batches:
        shape = (num_draws,) if context is None else ()
        yield num_draws, _seconds(bound_to(dists, context, num_draws), shape, key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw(structure: Any, shape: tuple[int, ...], leaves: list[Any], key: jax.Array) -> jax.Array:
    dist = jax.tree.unflatten(structure, leaves)
    return dist.sample(seed=key, sample_shape=shape)


def _seconds(dists: Any, shape: tuple[int, ...], key: jax.Array) -> list[float]:
    """Median wall times of a compiled call of each, made in turns."""
    times: list[list[float]] = [[] for _ in dists]
    parts = [jax.tree.flatten(dist) for dist in dists]  # as takes long for a module
    num_repeats = NUM_REPEATS
    i = 0
    while i <= num_repeats:
        draw_key = jax.random.fold_in(key, i)
        for (leaves, structure), of_dist in zip(parts, times, strict=True):
            clock = time.perf_counter()
            jax.block_until_ready(_draw(structure, shape, leaves, draw_key))
            of_dist.append(time.perf_counter() - clock)
        i += 1
        if i == 2:  # the first one compiled
            slowest = max(of_dist[1] for of_dist in times)
            num_repeats *= 10 if slowest < SHORT else 1
            num_repeats = min(num_repeats, 2) if slowest > LONG else num_repeats
    return [float(np.median(of_dist[1:])) for of_dist in times]

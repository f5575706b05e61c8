"""Importance weights of draws: what they are made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from flows._programs import quick_jit
from flows.distributions import Flow
from flows.variational.proposal import Overdispersed

FEW = 5  # of 20,000 draws
NEXT_TO_NONE = 0.01  # of q's density
FARTHEST = 1e100  # so that squares are finite


class WeightedDraws(NamedTuple):
    """Draws of r, which is q with `Overdispersed` noise.

    Attributes:
        x: Draws of r [n, D], of which the first half are draws of q.
        log_p: Log density of the target at them [n], up to a constant.
        log_q: That of q [n].
        log_r: That of r [n].
    """

    x: Any
    log_p: Any
    log_q: Any
    log_r: Any

    def on_host(self) -> "WeightedDraws":
        """In double precision."""
        return WeightedDraws(*(np.asarray(part, np.float64) for part in self))


@quick_jit(once=True, static_argnames=("n", "batch_size"))
def weighted_draws(
    flow: Flow, target: Callable[[jax.Array], jax.Array], key: jax.Array, n: int, batch_size: int
) -> WeightedDraws:
    """Draws that reach beyond q, and what their importance weights are made of.

    Args:
        flow: q.
        target: log p of one point [D], up to a constant; a callable pytree.
        key: Random key.
        n: Number of draws.
        batch_size: At how many of them the target is evaluated at once.
    """
    noise = Overdispersed(flow.base)
    z = noise.sample(seed=key, sample_shape=(n,))
    log_noise = noise.log_prob(z)
    x, log_r = flow.push(z, log_noise)
    log_q = log_r + flow.base.log_prob(z) - log_noise
    return WeightedDraws(x, jax.lax.map(target, x, batch_size=batch_size), log_q, log_r)


def stray_share(x: np.ndarray, draws: WeightedDraws, log_evidence: float) -> float:
    """How much of a variance of q is of draws where the target has next to none.

    Args:
        x: What the draws stand for [n, K].
        draws: Them, on the host.
        log_evidence: log Z.

    Returns:
        The share, of the worst column.
    """
    known = ~np.isnan(x).any(axis=1)
    x = np.clip(x[known], -FARTHEST, FARTHEST)
    log_p, log_q, log_r = (part[known] for part in draws[1:])
    of_q = np.nan_to_num(np.exp(log_q - log_r), posinf=0.0)
    of_q /= max(of_q.sum(), 1e-300)
    squares = of_q[:, None] * (x - of_q @ x) ** 2
    astray = log_p - log_q - log_evidence < np.log(NEXT_TO_NONE)
    return float((squares[astray].sum(axis=0) / np.fmax(squares.sum(axis=0), 1e-300)).max())


def shifts(x: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """What weights [n] change, of the worst coordinate, in the first half of the draws [n, D].

    Returns:
        How far the mean moves, in deviations; by which ratio, less 1, the deviation changes; and
        how much of the variance rests on the few draws that make most of it.
    """
    known = np.isfinite(x).all(axis=1)
    own = x[: len(x) // 2][known[: len(x) // 2]]
    x, weights = x[known], weights[known]
    mean, sd = own.mean(axis=0), own.std(axis=0)
    z = (x - mean) / np.where(sd > 0, sd, 1.0)  # draws all alike change by 100 %
    moved = weights @ z
    squares = weights[:, None] * (z - moved) ** 2
    few = min(FEW, len(x))
    variance, of_few = squares.sum(axis=0), np.partition(squares, -few, axis=0)[-few:].sum(axis=0)
    worst = lambda change: float(np.abs(change).max())
    return worst(moved), worst(np.sqrt(variance) - 1), worst(of_few / np.fmax(variance, 1e-300))

"""Importance weights of draws: how they are made, and their smoothed tail."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from flows.distributions import Flow
from flows.variational.proposal import Overdispersed


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


@functools.partial(jax.jit, static_argnames=("n", "batch_size"))
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


def pareto_smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights that sum to 1, the largest of them smoothed, and the shape of their tail.

    The largest are replaced by the quantiles of a generalised Pareto distribution of shape k-hat
    that is fitted to them. Source: Vehtari et al. 2024, arXiv:1507.02646.

    Args:
        log_weights: Logarithms of weights [n], up to a constant; those that are NaN or +inf count
            as none.

    Returns:
        The weights [n]; and k-hat: inf where a few draws carry all the weight, so that no tail can
        be fitted, and -inf where all weights are equal.

    Raises:
        ValueError: No weight, or one alone, is finite.
    """
    from arviz_stats.base import array_stats  # scipy.stats is slow to import

    log_weights = np.asarray(log_weights, np.float64)
    usable = log_weights < np.inf  # not NaN either
    log_weights = np.where(usable, log_weights, -np.inf)
    if usable.sum() < 2 or not np.isfinite(log_weights).any():
        raise ValueError(
            f"Of {len(log_weights)} log weights, none or one is finite: the target has no mass "
            "where the draws of the flow are."
        )
    top = log_weights.max()
    weights = np.exp(log_weights - top)
    tail = np.sort(log_weights)[-max(5, int(3 * np.sqrt(len(log_weights)))) :]
    if log_weights.min() > top - 1e-6:
        khat = -np.inf
    elif not np.isfinite(tail).all() or len(np.unique(tail)) < 5:
        khat = np.inf
    else:
        # psislw takes log-likelihoods, whose negatives are the log weights of leave-one-out.
        with np.errstate(divide="ignore", invalid="ignore"):  # weights of almost no spread
            smooth, khat = array_stats.psislw(-log_weights)
        if np.isfinite(smooth).all():
            weights = np.exp(smooth)
        else:  # they span more than a Pareto tail can be fitted to
            khat = np.inf
    return weights / weights.sum(), float(khat)

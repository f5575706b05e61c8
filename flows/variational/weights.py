"""Importance weights of draws: what they are made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from flows._programs import quick_jit
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

"""Markov chains on a target that an approximation carries."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows.distributions import Flow
from flows.variational.modes import LostMode
from flows.variational.tempering import LostRegion

RHAT_LIMIT = 1.01  # Vehtari et al. 2021, arXiv:1903.08008


@dataclasses.dataclass(frozen=True)
class Chains:
    """Draws of Markov chains, and how well they have mixed.

    Attributes:
        draws: Parameters [num_chains, num_samples, ..], as those of `Posterior.sample`.
        acceptance: Share of q's proposals accepted (of "nuts": mean acceptance statistic).
        rhat: Rank-normalised split R-hat of each coordinate [D] (Vehtari et al. 2021,
            arXiv:1903.08008): above 1.01 chains have not mixed.
        ess: Bulk effective sample size of each coordinate [D].
        lost_modes: Modes that the approximation lacks. Chains begin where its draws are, and may
            mix well there.
        lost_regions: The same of regions.
    """

    draws: Any
    acceptance: float
    rhat: np.ndarray
    ess: np.ndarray
    lost_modes: tuple[LostMode, ...] = ()
    lost_regions: tuple[LostRegion, ...] = ()

    @classmethod
    def of(cls, draws: jax.Array, acceptance: jax.Array) -> "Chains":
        """Of points [num_chains, num_samples, D], with what they say of their mixing."""
        from arviz_stats.base import array_stats  # scipy.stats is slow to import

        values = np.asarray(draws, np.float64)
        rhat, ess = (
            np.asarray(statistic(values, chain_axis=0, draw_axis=1))
            for statistic in (array_stats.rhat, array_stats.ess)
        )
        return cls(draws, float(acceptance), rhat, ess)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of chains and of the draws of each."""
        return jax.tree.leaves(self.draws)[0].shape[:2]

    @property
    def reasons(self) -> list[str]:
        """Why not to trust them; none where they can be trusted."""
        mixed = (self.rhat <= RHAT_LIMIT).all() and (self.ess >= 100 * self.shape[0]).all()
        reasons = {
            "not mixed": not mixed,
            "modes were lost before": bool(self.lost_modes),
            "a region was lost before": bool(self.lost_regions),
        }
        return [reason for reason, holds in reasons.items() if holds]

    @property
    def trustworthy(self) -> bool:
        """Whether they have mixed, over a posterior that had lost nothing.

        They have if R-hat is at most 1.01 and the ESS at least 100 a chain, in every coordinate.
        """
        return not self.reasons

    def to_arviz(self) -> Any:
        """The draws as an `xarray.DataTree`, for ArviZ: `pip install "flows-jax[arviz]"`."""
        from flows.adapters.arviz import to_inference_data

        return to_inference_data(self.draws)

    def __str__(self) -> str:
        said = f"DO NOT TRUST: {'; '.join(self.reasons)}" if self.reasons else "good"
        return "\n".join(
            [
                f"draws       {self.shape[0]} chains of {self.shape[1]}",
                f"acceptance  {self.acceptance:.2f}",
                f"R-hat       {self.rhat.max():.3f}, of the worst coordinate",
                f"ESS         {self.ess.min():.0f}, of the worst coordinate",
                f"verdict     {said}",
            ]
        )


@functools.partial(jax.jit, static_argnames="num_samples")
def independent(
    flow: Flow,
    target: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    key: jax.Array,
    num_samples: int,
) -> tuple[jax.Array, jax.Array]:
    r"""Metropolis-Hastings chains whose proposals are draws of q, whatever the state.

    A proposal y in state x is accepted with probability min(1, w(y) / w(x)), w = p / q.

    Args:
        flow: q.
        target: log p of one point [D], up to a constant; a callable pytree.
        start: First states [num_chains, D].
        key: Random key.
        num_samples: Draws of each chain.

    Returns:
        Draws [num_chains, num_samples, D], and the share of the proposals accepted.

    Cost: num_chains times num_samples evaluations of the target and draws of q, in parallel.
    """
    draw_key, accept_key = jax.random.split(key)
    shape = (num_samples, len(start))
    proposals, log_q = flow.sample_and_log_prob(seed=draw_key, sample_shape=shape)
    of_row = jax.vmap(target)
    log_w = jax.lax.map(of_row, proposals) - log_q
    log_w = jnp.where(jnp.isnan(log_w), -jnp.inf, log_w)
    threshold = jnp.log(jax.random.uniform(accept_key, shape))

    def step(state, proposed):
        (x, log_w_x), (y, log_w_y, threshold) = state, proposed
        accepted = threshold < log_w_y - log_w_x
        x = jnp.where(accepted[:, None], y, x)
        state = (x, jnp.where(accepted, log_w_y, log_w_x))
        return state, (x, accepted)

    first = (start, of_row(start) - flow.log_prob(start))
    _, (draws, accepted) = jax.lax.scan(step, first, (proposals, log_w, threshold))
    return draws.swapaxes(0, 1), accepted.mean()

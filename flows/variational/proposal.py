"""Draws that reach beyond an approximation: where it may lack mass."""

import jax
import jax.numpy as jnp

from flows.distributions import Flow
from flows.distributions.bases import Distribution


class Overdispersed(Distribution):
    r"""Half of the draws from a distribution, half from the same with larger deviations.

    p(x) = (b(x) + b_s(x)) / 2, with s = 1 + 1 / sqrt(D) times the deviations: in any number of
    dimensions D they still overlap, for the norm of normal noise is sqrt(D) +- 0.7.

    Args:
        base: The distribution b.
    """

    def __init__(self, base: Distribution):
        super().__init__(base.event_size)
        self.base = base
        self.wide = base.widened(1 + base.event_size**-0.5)

    @property
    def space(self):
        return self.base.space

    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        keys = jax.random.split(key)
        near = self.base.sample(seed=keys[0], sample_shape=n - n // 2)
        return jnp.concatenate([near, self.wide.sample(seed=keys[1], sample_shape=n // 2)])

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density at value [..., event_size]."""
        both = jnp.logaddexp(self.base.log_prob(value), self.wide.log_prob(value))
        return both - jnp.log(2.0)


def overdispersed(flow: Flow) -> Flow:
    """A flow with `Overdispersed` noise: importance weights of its draws see tails q lacks."""
    return Flow(Overdispersed(flow.base), flow.bijector, flow.support)

"""Flows as one distribution: their mixture in equal shares."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flows.bijectors.compiled import compiled
from flows.distributions.bases import Distribution
from flows.distributions.flow import Flow, require_flow


class Ensemble(Distribution):
    r"""The mixture of K flows in equal shares, p(x) = sum_k p_k(x) / K.

    A mixture of fits overfits less than any of them: `flows.fit_ensemble` makes one.

    Args:
        members: Flows of one structure: made by the same call, with other weights and orders.

    Raises:
        TypeError: A member is no flow.
        ValueError: There are none, or they differ in structure.

    Cost: K times that of a member, for `log_prob`; a little more than that of one for `sample`.
        Neither is compiled anew for other members.

    Examples:
        >>> import flows, jax
        >>> from flax import nnx
        >>> members = [flows.maf(2, num_layers=1, rngs=nnx.Rngs(seed)) for seed in range(3)]
        >>> flows.Ensemble(members).sample(seed=jax.random.key(0), sample_shape=(5,)).shape
        (5, 2)
    """

    def __init__(self, members: Sequence[Flow]):
        if not members:
            raise ValueError("members must be flows, got none.")
        for i, member in enumerate(members):
            require_flow(f"members[{i}]", member)
        layouts = {jax.tree.structure(member) for member in members}
        shapes = {tuple(leaf.shape for leaf in jax.tree.leaves(member)) for member in members}
        if len(layouts) > 1 or len(shapes) > 1:
            raise ValueError("members must be made by one and the same call, got other structures.")
        super().__init__(members[0].event_size)
        self.num_members = len(members)
        self.stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)

    @property
    def members(self) -> list[Flow]:
        """The flows."""
        return [jax.tree.map(lambda a, i=i: a[i], self.stacked) for i in range(self.num_members)]

    @property
    def support(self) -> Any:
        """The support of each column; None where all are real."""
        return self.stacked.support

    @property
    def space(self) -> Any:
        """What its events are: see `Distribution.space`."""
        return self.stacked.space

    @property
    def is_discrete(self) -> bool:
        """Whether there are integer columns."""
        return self.stacked.is_discrete

    @property
    def is_reparameterized(self) -> bool:
        """Draws jump from member to member."""
        return False

    @property
    def context_size(self) -> int | None:
        """Size of the context the flows wait for, or None."""
        return self.stacked.context_size

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """() or, with a context bound by `condition`, the batch shape of the context."""
        return jax.eval_shape(
            lambda stacked: jax.tree.map(lambda a: a[0], stacked), self.stacked
        ).batch_shape

    def unconstrained(self) -> "Ensemble":
        """The mixture on the real line that the support is the image of: see `Flow`."""
        return Ensemble([member.unconstrained() for member in self.members])

    def condition(self, context: jax.Array) -> "Ensemble":
        """Binds a context [..., context_size] to all flows: see `Flow.condition`."""
        return Ensemble([member.condition(context) for member in self.members])

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density at points [..., event_size]: see `Flow.log_prob`."""
        self.stacked._require_bound_context()
        return self._log_prob(self._points("value", value))

    @compiled
    def _log_prob(self, value: jax.Array) -> jax.Array:
        log_probs = jax.vmap(lambda member: member.log_prob(value))(self.stacked)
        return jax.nn.logsumexp(log_probs, axis=0) - math.log(self.num_members)

    @compiled(static=(1,))
    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        self.stacked._require_bound_context()
        choice_key, draw_key = jax.random.split(key)
        shape = (n, *self.batch_shape)
        choice = jax.random.randint(choice_key, shape, 0, self.num_members)
        chosen = choice[None] == jnp.arange(self.num_members).reshape(-1, *(1,) * len(shape))
        place = jnp.take_along_axis(jnp.cumsum(chosen, axis=1) - 1, choice[None], axis=0)[0]
        # Enough draws of each, but for a chance of less than 1e-9.
        share = n / self.num_members
        enough = min(n, math.ceil(share + 7 * math.sqrt(share) + 7))
        keys = jax.random.split(draw_key, self.num_members)
        draw = lambda member, key: member.sample(seed=key, sample_shape=enough)
        draws = jax.vmap(draw)(self.stacked, keys)  # [K, enough, *batch, D]
        batch = jnp.indices(shape, sparse=True)[1:]
        return draws[(choice, jnp.minimum(place, enough - 1), *batch)]

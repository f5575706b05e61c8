"""Chains of blackjax in the space of a flow's noise. Needs the extra `mcmc`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flows.distributions import Flow

try:
    import blackjax
except ImportError as error:
    raise ImportError(
        'flows.adapters.blackjax, and refine("nuts"), need blackjax: pip install "flows-jax[mcmc]".'
    ) from error


@functools.partial(jax.jit, static_argnames=("num_samples", "num_warmup", "global_moves"))
def nuts(
    flow: Flow,
    target: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    key: jax.Array,
    num_samples: int,
    num_warmup: int,
    global_moves: bool,
) -> tuple[jax.Array, jax.Array]:
    r"""Chains of the no-U-turn sampler on z, where x = f(z) has the density of the target.

    With global moves, each of its steps is followed by a Metropolis-Hastings step whose proposal
    is new noise z' of the flow, accepted with probability min(1, w(z') / w(z)), where w(z) is
    p(f(z)) |det J f(z)| over the density of the noise.
    Source: Hoffman et al. 2019, arXiv:1903.03704; Gabrie et al. 2022, arXiv:2105.12603 (flowMC).

    Args:
        flow: q, on all of R^D.
        target: log p of one point [D], up to a constant; a callable pytree.
        start: First states x [num_chains, D].
        key: Random key.
        num_samples: Draws of each chain.
        num_warmup: Steps before them, of the sampler alone, in which it adapts.
        global_moves: Whether new noise is proposed too.

    Returns:
        Draws x [num_chains, num_samples, D], and the mean acceptance: of the global moves if there
        are any, and else of the sampler.

    Cost: of each draw 3 to 7 gradients of the target and of the flow, in turn, where q is good,
    and up to 1023.
    """

    def log_density(z: jax.Array) -> jax.Array:
        x, log_det = flow.bijector.forward_and_log_det(z)
        return target(x) + log_det

    def chain(z: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        warmup_key, key = jax.random.split(key)
        warmup = blackjax.window_adaptation(blackjax.nuts, log_density, target_acceptance_rate=0.8)
        (state, parameters), _ = warmup.run(warmup_key, z, num_warmup)
        kernel = blackjax.nuts(log_density, **parameters).step

        def step(state: Any, key: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            local_key, global_key = jax.random.split(key)
            state, info = kernel(local_key, state)
            acceptance = info.acceptance_rate
            if global_moves:
                state, acceptance = independent_move(state, global_key)
            return state, (state.position, acceptance)

        return jax.lax.scan(step, state, jax.random.split(key, num_samples))[1]

    def independent_move(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        draw_key, accept_key = jax.random.split(key)
        proposal = blackjax.nuts.init(flow.base.sample(seed=draw_key), log_density)
        log_w = lambda state: state.logdensity - flow.base.log_prob(state.position)
        accepted = jnp.log(jax.random.uniform(accept_key)) < log_w(proposal) - log_w(state)
        moved = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), proposal, state)
        return moved, accepted.astype(log_w(state).dtype)

    z, acceptance = jax.vmap(chain)(flow.bijector.inverse(start), jax.random.split(key, len(start)))
    return flow.bijector.forward(z), acceptance.mean()

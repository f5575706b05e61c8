"""Gradients of the reverse Kullback-Leibler divergence."""

from collections.abc import Callable

import jax

from flows.distributions import Flow


def reverse_kl(
    flow: Flow,
    log_density: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    sample_shape: tuple[int, ...],
) -> jax.Array:
    r"""Draws of log q(x) - log p(x), x ~ q, whose gradient is the path gradient.

    The gradient of KL(q || p) splits into a path term and a score term of mean zero. Keeping the
    path term alone, the mean over x(phi) ~ q_phi of

        (d/dx) [log q(x) - log p(x)]  times  dx/dphi,

    is unbiased, and it vanishes draw by draw when q equals p.
    Source: Roeder et al. 2017, arXiv:1703.09194; Vaitl et al. 2022, arXiv:2207.08219.

    Args:
        flow: q.
        log_density: log p for points [..., D], up to a constant.
        key: Random key.
        sample_shape: Shape of the draws, in front of the flow's batch shape.

    Returns:
        The draws, flattened to one axis.

    Cost: one forward pass of the flow and its gradient, and one inverse with its gradient in x.
    """
    x, log_q, weight = flow.weighted_sample(seed=key, sample_shape=sample_shape)
    fixed = jax.tree.map(jax.lax.stop_gradient, flow)

    def log_ratio(x: jax.Array) -> jax.Array:
        return (fixed.log_prob(x) - log_density(x)).sum()

    score = jax.lax.stop_gradient(jax.grad(log_ratio)(jax.lax.stop_gradient(x)))
    path = (score * x).sum(axis=-1)
    value = jax.lax.stop_gradient(log_q - log_density(x))
    # Where draws come from components, their shares follow the scores (of mean zero: less a mean).
    choice = (weight - jax.lax.stop_gradient(weight)) * (value - value.mean())
    return (value + path - jax.lax.stop_gradient(path) + choice).reshape(-1)

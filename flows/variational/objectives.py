"""Kullback-Leibler divergences to minimise, in either direction."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flows.distributions import Flow
from flows.variational.proposal import overdispersed


def reverse_kl(
    flow: Flow,
    log_density: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    sample_shape: tuple[int, ...],
    transform: Callable[[jax.Array], jax.Array] = lambda log_ratio: log_ratio,
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
        transform: A function of log q - log p, whose draws and path gradient are wanted instead.

    Returns:
        The draws, flattened to one axis. Where the density is nothing, log p = -inf or NaN, they
        are inf or NaN (or what is made of these) and have no gradient: q learns p's shape inside.

    Cost: one forward pass of the flow and its gradient, and one inverse with its gradient in x.
    """
    x, log_q, weight = flow.weighted_sample(seed=key, sample_shape=sample_shape)
    fixed = jax.tree.map(jax.lax.stop_gradient, flow)

    def log_ratio(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_p = log_density(x)
        return transform(fixed.log_prob(x) - log_p).sum(), log_p

    score, log_p = jax.lax.stop_gradient(
        jax.grad(log_ratio, has_aux=True)(jax.lax.stop_gradient(x))
    )
    inside = log_p > -jnp.inf
    path = (jnp.where(inside[..., None], score, 0.0) * x).sum(axis=-1)
    value = transform(jax.lax.stop_gradient(log_q) - log_p)
    # Where draws come from components, their shares follow the scores (of mean zero: less a mean).
    gain = jnp.where(inside, value - value.mean(where=inside), 0.0)
    choice = (weight - jax.lax.stop_gradient(weight)) * gain
    return (value + path - jax.lax.stop_gradient(path) + choice).reshape(-1)


def forward_kl(
    flow: Flow,
    log_density: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    num_samples: int,
) -> jax.Array:
    r"""Terms of -E_p[log q(x)], whose gradient is that of KL(p || q), by importance sampling.

    Draws are of r, q with wider noise, and weighted by w = p / r, cut at sqrt(n) times their mean
    (Ionides 2008, J. Comput. Graph. Stat. 17): where p has mass that q lacks, q learns it, which
    the reverse divergence, with draws of q alone, does only slowly in the tails.
    Source: Jerfel et al. 2021, arXiv:2106.15980.

    Args:
        flow: q.
        log_density: log p for points [n, D], up to a constant.
        key: Random key.
        num_samples: Number of draws, n.

    Returns:
        The terms -w_i log q(x_i) [n], where the weights have mean 1.

    Cost: one forward pass of the flow, and one inverse with its gradient.
    """
    fixed = jax.tree.map(jax.lax.stop_gradient, flow)
    x, log_r = overdispersed(fixed).sample_and_log_prob(seed=key, sample_shape=(num_samples,))
    log_w = log_density(x) - log_r
    log_w = jnp.where(jnp.isfinite(log_w), log_w, -jnp.inf)
    log_mean = jax.nn.logsumexp(log_w) - jnp.log(num_samples)
    w = jnp.exp(jnp.minimum(log_w - log_mean, 0.5 * jnp.log(num_samples)))
    x = jnp.where(w[:, None] > 0, x, x[w.argmax()])  # log q may not be finite at the others
    return -jax.lax.stop_gradient(w / w.mean()) * flow.log_prob(jax.lax.stop_gradient(x))

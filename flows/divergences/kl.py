"""The Kullback-Leibler divergence between two distributions."""

from typing import Any

import distrax
import jax
import jax.numpy as jnp
from tensorflow_probability.substrates.jax import distributions as tfd

from flows import _checks
from flows.divergences.estimate import Estimate


def kl(p: Any, q: Any, *, key: jax.Array | None = None, num_samples: int = 10_000) -> Estimate:
    r"""KL(p || q) = E_p[log p(x) - log q(x)], in nats.

    Takes the closed form where distrax (through TFP's registry) truly has one, and otherwise the
    mean of the paired log ratio over draws from p. The ratio is formed draw by draw: an analytic
    entropy minus a sampled cross-entropy has a far larger variance when p is near q.

    distrax's rule for transformed distributions is never used: it compares programs, not weights,
    and calls two flows of one architecture equal.

    Args:
        p: A distrax or TFP distribution that can be sampled, such as a flow.
        q: A distribution over the same events, with `log_prob`.
        key: Random key; needed unless there is a closed form.
        num_samples: Draws from p for the Monte Carlo estimate; at least 2.

    Returns:
        An `Estimate`, of the batch shape of p and q. Its value may be inf, where q has no mass on
        a draw from p, and is NaN where a log density is NaN: nothing is hidden.

    Raises:
        ValueError: The event shapes differ, or `key` is missing where sampling is needed.

    Cost: one `sample_and_log_prob` of p and one `log_prob` of q. It may be called inside `jit`.

    Example:
        >>> import distrax, jax
        >>> kl(distrax.Normal(0.0, 1.0), distrax.Normal(1.0, 1.0)).method
        'closed_form'
    """
    p_shape, q_shape = tuple(p.event_shape), tuple(q.event_shape)
    if p_shape != q_shape:
        raise ValueError(f"p and q must share an event shape, got {p_shape} and {q_shape}.")
    if not (_is_pushforward(p) or _is_pushforward(q)):
        try:
            value = p.kl_divergence(q)
            return Estimate(value, jnp.zeros_like(value), 0, "closed_form")
        except NotImplementedError:
            pass
    if key is None:
        raise ValueError(
            f"key is needed: KL({p.name} || {q.name}) has no closed form and is estimated "
            "from draws."
        )
    if _checks.positive_int("num_samples", num_samples) < 2:
        raise ValueError("num_samples must be at least 2, got 1.")
    x, log_p = _sample_and_log_prob(p, _checks.prng_key("key", key), num_samples)
    return Estimate.from_draws(log_p - q.log_prob(x))


def _is_pushforward(dist: Any) -> bool:
    """Whether a bijector is at work anywhere in `dist`, normal distributions in disguise aside."""
    normals = (distrax.MultivariateNormalFromBijector, tfd.MultivariateNormalLinearOperator)
    if isinstance(dist, normals):
        return False
    if hasattr(dist, "bijector"):
        return True
    inner = getattr(dist, "distribution", None)
    return inner is not None and _is_pushforward(inner)


def _sample_and_log_prob(p: Any, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    if isinstance(p, tfd.Distribution):
        return p.experimental_sample_and_log_prob(n, seed=key)
    return p.sample_and_log_prob(seed=key, sample_shape=(n,))

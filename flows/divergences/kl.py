"""The Kullback-Leibler divergence, and the entropies it is made of."""

from typing import Any

import distrax
import jax
import jax.numpy as jnp
from tensorflow_probability.substrates.jax import distributions as tfd

from flows import _checks
from flows.divergences import gaussians
from flows.divergences.draws import draw
from flows.divergences.estimate import Estimate
from flows.divergences.excess import exp_excess
from flows.divergences.gaussians import gaussian_pair
from flows.divergences.supports import log_prob, on_real_line, same_space

FAMILIES = (
    distrax.MultivariateNormalFromBijector, tfd.MultivariateNormalLinearOperator,
    tfd.Gumbel, tfd.LogNormal, tfd.LogitNormal, tfd.Moyal, tfd.Weibull,
)  # fmt: skip
METHODS = ("auto", "closed_form", "monte_carlo", "control_variate", "rao_blackwell")


def kl(
    p: Any,
    q: Any,
    *,
    key: jax.Array | None = None,
    num_samples: int = 10_000,
    method: str = "auto",
    sampling: str = "independent",
) -> Estimate:
    r"""KL(p || q) = E_p[log p(x) - log q(x)], in nats.

    The methods are

    - "closed_form": between two Gaussians of any class; between flows (or distrax's transformed
      distributions) with one and the same bijector object, of which only the bases differ; and
      what TFP's registry knows. Its rule for transformed distributions is never used: it compares
      programs, not weights, and calls two flows of one architecture equal.
    - "monte_carlo": the mean of log p - log q over draws from p. It is formed draw by draw: an
      analytic entropy less a sampled cross-entropy varies far more when p is near q.
    - "control_variate": the mean of (r - 1) - log r, r = q/p (Schulman 2020, "Approximating KL
      divergence"). No draw is negative, and near p = q they vary far less. Far from it r has heavy
      tails, or q has mass where p has none, and the mean of r is not 1: where the draws show it,
      the plain mean is returned. They show it if the effective sample size of r is below 90 %, if
      one r is above sqrt(n) (Ionides 2008, J. Comput. Graph. Stat. 17: expected only if r has no
      variance) or if the mean of r is 4 standard errors away from 1. The `method` of the answer is
      then "monte_carlo"; inside `jit`, or where only some of a batch fall back, nobody can say
      beforehand, and it is "guarded_control_variate".
    - "rao_blackwell": the mean over draws of sum_i KL(p(x_i | x_<i) || q(x_i | x_<i)), each a
      closed form. For p and q that know these normal conditionals (`Flow.conditionals`): flows of
      affine autoregressive layers that share the order of the coordinates.
    - "auto": the closed form if there is one, else "monte_carlo".

    Args:
        p: A distrax or TFP distribution that can be sampled, such as a flow.
        q: A distribution over the same events, with `log_prob`.
        key: Random key; needed unless there is a closed form.
        num_samples: Draws from p; at least 2. "sobol" rounds up to 64 times a power of 2.
        method: See above.
        sampling: "independent"; "antithetic": noise in pairs z, -z; "sobol": 64 randomly scrambled
            Sobol nets. The last two need a p that is Gaussian or a flow on a normal base, and
            their errors come from the spread of pairs and nets.

    Returns:
        An `Estimate`, of the batch shape of p and q. Its value is inf where q has no mass on a
        draw from p, and NaN where a log density is NaN: nothing is hidden.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: The event shapes differ, a covariance is not positive definite, `key` is
            missing where sampling is needed, or `method` or `sampling` is not possible here.

    Cost: one `sample_and_log_prob` of p and one `log_prob` of q. It may be called inside `jit` and
    differentiated: draws follow the parameters of p or, where they cannot (mixtures, integers),
    are weighted by the score. A support whose ends depend on the parameters, as that of a uniform,
    gives no right derivative by draws.

    Examples:
        >>> import distrax, flows, jax
        >>> flows.divergences.kl(distrax.Normal(0.0, 1.0), distrax.Normal(1.0, 1.0)).method
        'closed_form'
    """
    p, q = on_real_line(p, q)
    _checks.one_of("method", method, METHODS)
    if method in ("auto", "closed_form"):
        value = closed_form(p, q)
        if value is not None:
            return Estimate.exact(value)
        if method == "closed_form":
            raise ValueError(f"method='closed_form': none is known for {p.name} and {q.name}.")
    if method == "rao_blackwell":
        return _rao_blackwell(p, q, key, num_samples, sampling)
    x, log_p, weight, groups = draw(p, q, key, num_samples, sampling)
    log_ratio, answer = log_p - log_prob(q, x), "monte_carlo"
    if method == "control_variate":
        trusted = _is_trusted(-log_ratio)
        controlled = exp_excess(jnp.where(trusted, -log_ratio, 0.0))
        log_ratio = jnp.where(trusted, controlled, log_ratio)
        answer = _name_of_controlled(trusted)
    return Estimate.from_draws(weight * log_ratio, answer, groups)


def reverse(p: Any, q: Any, **kwargs: Any) -> Estimate:
    """KL(q || p), the reverse of `kl`, which see for the keyword arguments."""
    return kl(q, p, **kwargs)


def cross_entropy(
    p: Any,
    q: Any,
    *,
    key: jax.Array | None = None,
    num_samples: int = 10_000,
    sampling: str = "independent",
) -> Estimate:
    """-E_p[log q(x)] in nats; arguments, returns and errors are those of `kl`.

    Examples:
        >>> import distrax, flows
        >>> half = distrax.Bernoulli(probs=0.5)
        >>> round(float(flows.divergences.cross_entropy(half, half).value), 4)
        0.6931
    """
    same_space(p, q)
    divergence, own = closed_form(p, q), _closed_entropy(p)
    if divergence is not None and own is not None:
        return Estimate.exact(divergence + own)
    x, _, weight, groups = draw(p, q, key, num_samples, sampling)
    return Estimate.from_draws(-weight * log_prob(q, x), groups=groups)


def entropy(
    p: Any,
    *,
    key: jax.Array | None = None,
    num_samples: int = 10_000,
    sampling: str = "independent",
) -> Estimate:
    """-E_p[log p(x)] in nats; arguments, returns and errors are those of `kl`.

    Examples:
        >>> import distrax, flows
        >>> round(float(flows.divergences.entropy(distrax.Normal(0.0, 1.0)).value), 4)
        1.4189
    """
    own = _closed_entropy(p)
    if own is not None:
        return Estimate.exact(own)
    _, log_p, weight, groups = draw(p, p, key, num_samples, sampling)
    return Estimate.from_draws(-weight * log_p, groups=groups)


def closed_form(p: Any, q: Any) -> jax.Array | None:
    """KL(p || q) if a closed form is known."""
    pair = gaussian_pair(p, q)
    if pair is not None:
        return gaussians.kl(*pair)
    if _is_pushforward(p) or _is_pushforward(q):
        bases = _bases_below_one_bijector(p, q)
        below = None if bases is None else closed_form(*bases)
        if below is None:
            return None
        return jnp.broadcast_to(below, jnp.broadcast_shapes(p.batch_shape, q.batch_shape))
    try:
        return p.kl_divergence(q)
    except NotImplementedError:
        return None


def _closed_entropy(p: Any) -> jax.Array | None:
    if _is_pushforward(p):
        return None
    try:
        return p.entropy()
    except NotImplementedError:
        return None


def _bases_below_one_bijector(p: Any, q: Any) -> tuple[Any, Any] | None:
    """The bases of p and q if both are pushed forward by one and the same bijector object."""
    if not all(isinstance(getattr(d, "bijector", None), distrax.Bijector) for d in (p, q)):
        return None
    first, second = (d.base if hasattr(d, "base") else d.distribution for d in (p, q))
    whole = first.event_shape == second.event_shape == p.event_shape
    same = p.bijector is q.bijector and getattr(p, "support", None) == getattr(q, "support", None)
    same = same and not getattr(p, "is_discrete", False)  # rounding loses some of it
    return (first, second) if whole and same else None


def _is_pushforward(dist: Any) -> bool:
    """Whether a bijector is at work anywhere in `dist`, families with rules of their own aside."""
    if isinstance(dist, FAMILIES):
        return False
    if hasattr(dist, "bijector"):
        return True
    parts = [getattr(dist, name, ()) for name in ("distribution", "distributions")]
    is_part = lambda part: hasattr(part, "log_prob")
    return any(map(_is_pushforward, filter(is_part, jax.tree.leaves(parts, is_leaf=is_part))))


def _is_trusted(log_r: jax.Array) -> jax.Array:
    """Whether draws of r = exp(log_r) [n, ...] look as if their mean were 1 [...]."""
    n = len(log_r)
    control = jnp.expm1(log_r)  # r - 1, to all digits where r is near 1
    mean, variance = control.mean(axis=0), control.var(axis=0)
    rounding = 4 * jnp.finfo(control.dtype).eps
    return (
        (variance <= (1 + mean) ** 2 / 9)  # an effective sample size of 90 %
        & (control.max(axis=0) + 1 <= n**0.5)
        & (jnp.abs(mean) <= 4 * jnp.sqrt(variance / n) + rounding)
    )


def _name_of_controlled(trusted: jax.Array) -> str:
    """What `Estimate.method` says of a mean with a control variate where it is `trusted`."""
    if _checks.is_concrete(trusted):
        if trusted.all():
            return "control_variate"
        if not trusted.any():
            return "monte_carlo"
    return "guarded_control_variate"


def _rao_blackwell(
    p: Any, q: Any, key: jax.Array | None, num_samples: int, sampling: str
) -> Estimate:
    x, _, weight, groups = draw(p, q, key, num_samples, sampling)
    try:
        given_before = p.conditionals(x), q.conditionals(x)
    except (AttributeError, NotImplementedError):
        raise ValueError(
            "method='rao_blackwell' needs the normal conditionals p(x_i | x_<i) of both: flows of "
            "affine autoregressive layers in one order, such as maf(num_layers=1); not known for "
            f"{p.name} and {q.name}."
        ) from None
    first, second = (
        gaussians.Gaussian(normal.loc[..., None], normal.scale[..., None], True)
        for normal in given_before
    )
    per_coordinate = gaussians.kl(first, second)
    return Estimate.from_draws(weight * per_coordinate.sum(axis=-1), "rao_blackwell", groups)

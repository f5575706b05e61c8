r"""Divergences that are means over the even mixture m = (p + q) / 2 of a function of log p - log q.

Each is E_m[f(t)], t = log p(x) - log q(x), with half of the draws from p and half from q:

    Jensen-Shannon         log 2 - H(s(t)), s the logistic function and H the binary entropy
    total variation        |tanh(t / 2)|
    Jeffreys               2 t tanh(t / 2)
    alpha                  2 (s(t)^a s(-t)^(1-a) - a s(t) - (1-a) s(-t)) / (a (a-1))

No draw is negative, all fall as t^2 (total variation: |t|) near p = q, where no digits cancel, and
those of the first two are bounded, so that the estimates keep their bounds. (The mean of
2 (a s(t) + (1-a) s(-t)) is 1.) Compared with the textbook form E_p[..] + E_q[..] it averages over
which of the two a draw came from.
"""

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid

from flows import _checks
from flows.divergences import gaussians
from flows.divergences.draws import draw
from flows.divergences.estimate import Estimate
from flows.divergences.excess import exp_excess
from flows.divergences.gaussians import gaussian_pair
from flows.divergences.kl import closed_form, kl
from flows.divergences.supports import log_prob, on_real_line

Side = tuple[jax.Array, jax.Array, int]
"""T = log p - log q at draws from p or from q [n, ...], their weights and groups."""


def jeffreys(p: Any, q: Any, **kwargs: Any) -> Estimate:
    """KL(p || q) + KL(q || p), in nats; keyword arguments are those of `jensen_shannon`.

    A closed form where both have one.
    """
    p, q = on_real_line(p, q)
    there, back = closed_form(p, q), closed_form(q, p)
    if there is not None and back is not None:
        return Estimate.exact(there + back)
    return _mean_over_both(p, q, jeffreys_of, **kwargs)


def jensen_shannon(p: Any, q: Any, **kwargs: Any) -> Estimate:
    """Jensen-Shannon divergence (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2, in nats.

    Always finite, between 0 and log 2; its square root is a metric (Endres & Schindelin 2003,
    IEEE Trans. Inf. Theory 49). By Monte Carlo.

    Args:
        p: A distribution that can be sampled and has `log_prob`.
        q: Another, over the same events.
        **kwargs: `key`, `num_samples` (half from each) and `sampling` of `kl`.

    Returns:
        An `Estimate`, of the batch shape of p and q.

    Raises:
        ValueError: The event shapes differ, or `key` is missing.

    Cost: a draw and two log densities of each of p and q.

    Examples:
        >>> import distrax, flows, jax
        >>> far = flows.divergences.jensen_shannon(
        ...     distrax.Normal(0.0, 1.0), distrax.Normal(100.0, 1.0), key=jax.random.key(0)
        ... )
        >>> round(float(far.value), 4)
        0.6931
    """
    return _mean_over_both(p, q, jensen_shannon_of, **kwargs)


@jax.jit
def jensen_shannon_of(t: jax.Array) -> jax.Array:
    """What is averaged, log 2 - H(s(t)), elementwise and to full precision near 0."""
    a, b = log_sigmoid(t), log_sigmoid(-t)
    far = math.log(2) + _times(jnp.exp(a), a) + _times(jnp.exp(b), b)
    is_near = jnp.abs(t) < 1
    near = jnp.where(is_near, t, 0.0)
    h = jnp.tanh(near / 2)
    return jnp.where(is_near, (h * near + jnp.log1p(-(h**2))) / 2, far)


@jax.jit
def jeffreys_of(t: jax.Array) -> jax.Array:
    """2 t tanh(t / 2), elementwise."""
    return 2 * t * jnp.tanh(t / 2)


@jax.jit
def total_variation_of(t: jax.Array) -> jax.Array:
    """|tanh(t / 2)|, elementwise."""
    return jnp.abs(jnp.tanh(t / 2))


def total_variation(p: Any, q: Any, **kwargs: Any) -> Estimate:
    """Total variation distance (1/2) int |p - q|, between 0 and 1, by Monte Carlo.

    (1 + it) / 2 is the accuracy of the best classifier between draws from p and draws from q.
    Arguments, returns and errors are those of `jensen_shannon`.

    Examples:
        >>> import distrax, flows, jax
        >>> p = distrax.Normal(0.0, 1.0)
        >>> float(flows.divergences.total_variation(p, p, key=jax.random.key(0)).value)
        0.0
    """
    return _mean_over_both(p, q, total_variation_of, **kwargs)


def renyi(p: Any, q: Any, order: float, **kwargs: Any) -> Estimate:
    """Renyi divergence log(int p^a q^(1-a)) / (a - 1) of order a, in nats.

    KL(p || q) is its limit at a = 1. A closed form for Gaussians (inf where the integral is), else
    Monte Carlo; the estimate is then biased by about its variance. For a > 1 the draws have heavy
    tails where p is much wider than q: its variance may not exist.

    Args:
        p: A distribution that can be sampled and has `log_prob`.
        q: Another, over the same events.
        order: a > 0.
        **kwargs: `key`, `num_samples` (half from each) and `sampling` of `kl`.

    Returns:
        An `Estimate`, of the batch shape of p and q.

    Raises:
        ValueError: `order` is not positive, the event shapes differ, or `key` is missing.

    Examples:
        >>> import distrax, flows
        >>> p, q = distrax.Normal(0.0, 1.0), distrax.Normal(2.0, 1.0)
        >>> round(float(flows.divergences.renyi(p, q, 0.5).value), 4)
        1.0
    """
    p, q = on_real_line(p, q)
    _require_order(order)
    if order == 1:
        return kl(p, q, **kwargs)
    pair = gaussian_pair(p, q)
    if pair is not None:
        return Estimate.exact(gaussians.renyi(*pair, order))
    sides = _both_sides(p, q, **kwargs)
    far = _log_integral_of_powers(sides, order).transform(
        lambda log_z: log_z / (order - 1), lambda log_z: jnp.ones_like(log_z) / (order - 1)
    )
    # Where the integral, 1 + order (order - 1) alpha, is near 1, alpha has more of its digits.
    limit = 40 / (order - 1) if order > 1 else math.inf  # exp(40) is not near 1, nor overflows
    alpha_ = mean_over_sides(sides, lambda t: _alpha_of(jnp.minimum(t, limit), order))
    is_near = jnp.abs(order * (order - 1) * alpha_.value) < 0.5
    excess = lambda a: jnp.where(is_near, order * (order - 1) * a, 0.0)
    near = alpha_.transform(
        lambda a: jnp.log1p(excess(a)) / (order - 1), lambda a: order / (1 + excess(a))
    )
    return jax.tree.map(functools.partial(jnp.where, is_near), near, far)


def alpha(p: Any, q: Any, order: float, **kwargs: Any) -> Estimate:
    """Amari's alpha divergence (int p^a q^(1-a) - 1) / (a (a - 1)) of order a.

    KL(p || q) at a = 1, half the chi-square divergence at 2, four times the squared Hellinger
    distance at 1/2. Arguments, returns and errors are those of `renyi`; without bias.

    Examples:
        >>> import distrax, flows
        >>> p, q = distrax.Normal(0.0, 1.0), distrax.Normal(1.0, 1.0)
        >>> round(float(flows.divergences.alpha(p, q, 2.0).value), 4)  # (e - 1) / 2
        0.8591
    """
    p, q = on_real_line(p, q)
    _require_order(order)
    if order == 1:
        return kl(p, q, **kwargs)
    scale = order * (order - 1)
    if gaussian_pair(p, q) is not None:
        exponent = (order - 1) * renyi(p, q, order).value
        return Estimate.exact(jnp.expm1(exponent) / scale)
    return _mean_over_both(p, q, lambda t: _alpha_of(t, order), **kwargs)


def bhattacharyya(p: Any, q: Any, **kwargs: Any) -> Estimate:
    """Bhattacharyya distance -log int sqrt(p q), half the Renyi divergence of order 1/2.

    Arguments, returns and errors are those of `renyi`.
    """
    return renyi(p, q, 0.5, **kwargs).transform(lambda r: r / 2, lambda r: 0.5 * jnp.ones_like(r))


def hellinger(p: Any, q: Any, **kwargs: Any) -> Estimate:
    """Hellinger distance sqrt(1 - int sqrt(p q)), between 0 and 1.

    Arguments, returns and errors are those of `renyi`.

    Examples:
        >>> import distrax, flows
        >>> far = flows.divergences.hellinger(distrax.Normal(0.0, 1.0), distrax.Normal(100.0, 1.0))
        >>> float(far.value)
        1.0
    """
    squared = alpha(p, q, 0.5, **kwargs).transform(lambda a: a / 4, lambda a: jnp.ones_like(a) / 4)
    positive = squared.value > 0
    root = lambda h: jnp.where(positive, jnp.sqrt(jnp.where(positive, h, 1.0)), 0.0)
    return squared.transform(root, lambda h: 0.5 / root(h))


def _mean_over_both(p: Any, q: Any, f: Callable[[jax.Array], jax.Array], **kwargs: Any) -> Estimate:
    return mean_over_sides(_both_sides(p, q, **kwargs), f)


def mean_over_sides(sides: list[Side], f: Callable[[jax.Array], jax.Array]) -> Estimate:
    """E_m[f(t)] from the draws from p, and those from q."""
    first, second = (Estimate.from_draws(weight * f(t), groups=n) for t, weight, n in sides)
    return (first + second).transform(lambda v: v / 2, lambda v: 0.5 * jnp.ones_like(v))


def _both_sides(
    p: Any,
    q: Any,
    *,
    key: jax.Array | None = None,
    num_samples: int = 10_000,
    sampling: str = "independent",
) -> list[Side]:
    """The draws from p, and those from q."""
    p, q = on_real_line(p, q)
    keys = (None, None) if key is None else jax.random.split(_checks.prng_key("key", key))
    half = max(2, (_checks.positive_int("num_samples", num_samples) + 1) // 2)
    x, log_p, weight, groups = draw(p, q, keys[0], half, sampling)
    of_p = (log_p - log_prob(q, x), weight, groups)
    x, log_q, weight, groups = draw(q, p, keys[1], half, sampling)
    return [of_p, (log_prob(p, x) - log_q, weight, groups)]


def _log_integral_of_powers(sides: list[Side], order: float) -> Estimate:
    """The log of the integral of p^a q^(1-a); nothing in it over- or underflows."""
    highest = jax.lax.stop_gradient(
        jnp.maximum(*(_log_power(t, order).max(axis=0) for t, *_ in sides))
    )
    highest = jnp.where(jnp.isfinite(highest), highest, 0.0)
    mean = mean_over_sides(sides, lambda t: 2 * jnp.exp(_log_power(t, order) - highest))
    return mean.transform(lambda z: jnp.log(z) + highest, lambda z: 1 / z)


def _log_power(t: jax.Array, order: float) -> jax.Array:
    """The log of s(t)^a s(-t)^(1-a)."""
    return _times(order, log_sigmoid(t)) + _times(1 - order, log_sigmoid(-t))


def _alpha_of(t: jax.Array, order: float) -> jax.Array:
    """2 (s(t)^a s(-t)^(1-a) - a s(t) - (1-a) s(-t)) / (a (a-1)), about t^2 / 2 near 0.

    In terms of e(x) = exp(x) - 1 it is 2 (s(-t) e(a t) / a - tanh(t / 2)) / (a-1), and of the
    bracket near t = 0 only what exceeds the tangents is computed: they cancel.
    """
    if order > 0.5:  # what is symmetric in (a, t) and (1-a, -t) is exact for small a
        order, t = 1 - order, -t
    is_near = max(1.0, abs(order)) * jnp.abs(t) < 1
    near = jnp.where(is_near, t, 0.0)
    by_series = jax.nn.sigmoid(-near) * (exp_excess(order * near) / order - exp_excess(near))
    # The larger of q and p^a q^(1-a) is factored out, so that neither inf - inf nor 0 inf occurs.
    top = jnp.exp(jnp.maximum(_log_power(t, order), log_sigmoid(-t)))
    power = top * jnp.expm1(-jnp.abs(order * t)) * -jnp.sign(t) / abs(order)
    return 2 / (order - 1) * jnp.where(is_near, by_series, power - jnp.tanh(t / 2))


def _times(a: Any, b: jax.Array) -> jax.Array:
    """The product a b, and 0 where a is 0."""
    return jnp.where(a == 0, 0.0, a * jnp.where(a == 0, 0.0, b))


def _require_order(order: float) -> None:
    if isinstance(order, bool) or not isinstance(order, numbers.Real) or not 0 < order < math.inf:
        raise ValueError(f"order must be a positive number, got {order!r}.")

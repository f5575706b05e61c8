"""The KL divergence between Gaussian mixtures: no closed form, many approximations and bounds."""

from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from tensorflow_probability.substrates.jax import distributions as tfd

from flows import _checks
from flows.divergences import gaussians
from flows.divergences.estimate import Estimate
from flows.divergences.gaussians import Gaussian, as_gaussian
from flows.divergences.kl import kl
from flows.divergences.supports import same_space

ITERATIONS = 100  # of the variational upper bound


class _Mixture(NamedTuple):
    log_weights: jax.Array  # [..., K]
    components: Gaussian  # [..., K, D] and [..., K, D, D]


def mixture_kl(
    p: Any,
    q: Any,
    method: str = "unscented",
    *,
    key: jax.Array | None = None,
    num_samples: int = 10_000,
) -> Estimate:
    r"""KL(p || q) between Gaussian mixtures p = sum_a pi_a p_a and q = sum_b omega_b q_b, in nats.

    With D(a, b) the KL divergence of two components, z(a, b) = int p_a p_b or p_a q_b the product
    integral and H_a the entropy of p_a, the methods are

    - approximations: "matching" (Goldberger, Gordon & Greenspan 2003: each component against its
      nearest), "unscented" (the same: 2 D sigma points a component), "product" and "variational"
      (Hershey & Olsen 2007), "mean_of_bounds" (Durrieu, Thiran & Kelly 2012);
    - upper bounds: "variational_upper_bound" (Hershey & Olsen 2007; 100 rounds of its iteration),
      "upper_bound" (Durrieu et al.), "convexity_upper_bound" (sum_ab pi_a omega_b D(a, b));
    - a lower bound: "lower_bound" (Durrieu et al.; it may be negative, where 0 is a better one);
    - "monte_carlo": the mean over draws; needs `key`.

    `docs/benchmarks.md` shows how far each is off; the default is off least.

    Args:
        p: A `MixtureSameFamily` of Gaussians of distrax or TFP, or a Gaussian.
        q: Another, over the same events; any number of components.
        method: One of the above.
        key: Random key for "monte_carlo".
        num_samples: Draws for "monte_carlo".

    Returns:
        An `Estimate` of the batch shape of p and q, whose `method` says what its value is. Its
        standard error is NaN for an approximation, whose error nobody knows.

    Raises:
        TypeError: p or q is no mixture of Gaussians.
        ValueError: The event shapes differ, a covariance is not positive definite, or `method`
            is unknown.

    Cost: K L D^3 for K and L components in D dimensions; the draws are not needed.

    Examples:
        >>> import distrax, flows, jax.numpy as jnp
        >>> def mixture(shift):
        ...     weights = distrax.Categorical(probs=jnp.array([0.3, 0.7]))
        ...     parts = distrax.Normal(jnp.array([-1.0, 1.0]) + shift, 0.5)
        ...     return distrax.MixtureSameFamily(weights, parts)
        >>> p, q = mixture(0.0), mixture(0.1)
        >>> bound = flows.divergences.mixture_kl(p, q, "variational_upper_bound")
        >>> round(float(bound.value), 3)
        0.02
    """
    _checks.one_of("method", method, (*APPROXIMATIONS, *BOUNDS, "monte_carlo"))
    same_space(p, q)
    first, second = _mixture("p", p), _mixture("q", q)
    if method == "monte_carlo":
        return kl(p, q, key=key, num_samples=num_samples, method="monte_carlo")
    batch = jnp.broadcast_shapes(p.batch_shape, q.batch_shape)
    first, second = _broadcast(first, batch), _broadcast(second, batch)
    if method in BOUNDS:
        return Estimate.exact(jax.jit(BOUNDS[method])(first, second), method)
    value = jax.jit(APPROXIMATIONS[method])(first, second)
    return Estimate(value, jnp.full_like(value, jnp.nan), 0, method)


def _matching(p: _Mixture, q: _Mixture) -> jax.Array:
    cost = _kl(p, q) - q.log_weights[..., None, :]
    return _expect(p, cost.min(axis=-1) + p.log_weights)


def _unscented(p: _Mixture, q: _Mixture) -> jax.Array:
    """The mean of log p - log q over mean +- sqrt(D) times each column of L (any root will do)."""
    loc, tril = p.components.loc, p.components.tril
    columns = loc.shape[-1] ** 0.5 * tril.mT
    x = loc[..., None, :] + jnp.concatenate([columns, -columns], axis=-2)  # [..., K, 2D, D]
    return _expect(p, (_log_prob(p, x) - _log_prob(q, x)).mean(axis=-1))


def _product(p: _Mixture, q: _Mixture) -> jax.Array:
    return _expect(p, _log_sum(p, _log_product(p, p)) - _log_sum(q, _log_product(p, q)))


def _variational(p: _Mixture, q: _Mixture) -> jax.Array:
    return _expect(p, _log_sum(p, -_kl(p, p)) - _log_sum(q, -_kl(p, q)))


def _variational_upper_bound(p: _Mixture, q: _Mixture) -> jax.Array:
    """The least sum_ab phi_ab (log phi_ab / psi_ab + D_ab): phi adds up to pi, psi to omega.

    Each round gives the best psi for phi and the best phi for psi, in logs [..., K, L].
    """
    log_pi, log_omega = p.log_weights[..., :, None], q.log_weights[..., None, :]
    divergence = _kl(p, q)

    def log_psi_of(log_phi: jax.Array) -> jax.Array:
        return log_omega + log_phi - _log_total(log_phi, axis=-2)

    def round_(log_phi: jax.Array, _: None) -> tuple[jax.Array, None]:
        joint = log_psi_of(log_phi) - divergence
        return log_pi + joint - _log_total(joint, axis=-1), None

    log_phi, _ = jax.lax.scan(round_, log_pi + log_omega - 0 * divergence, length=ITERATIONS)
    empty = log_phi == -jnp.inf
    gap = jnp.where(empty, 0.0, log_phi) - jnp.where(empty, 0.0, log_psi_of(log_phi))
    return (jnp.exp(log_phi) * (gap + divergence)).sum(axis=(-2, -1))


def _log_total(log_terms: jax.Array, axis: int) -> jax.Array:
    """The log of a sum, and 0 where all terms are 0."""
    total = logsumexp(log_terms, axis=axis, keepdims=True)
    return jnp.where(total == -jnp.inf, 0.0, total)


def _lower_bound(p: _Mixture, q: _Mixture) -> jax.Array:
    gap = _log_sum(p, -_kl(p, p)) - _log_sum(q, _log_product(p, q))
    return _expect(p, gap - _entropy(p))


def _upper_bound(p: _Mixture, q: _Mixture) -> jax.Array:
    gap = _log_sum(p, _log_product(p, p)) - _log_sum(q, -_kl(p, q))
    return _expect(p, gap + _entropy(p))


def _mean_of_bounds(p: _Mixture, q: _Mixture) -> jax.Array:
    return 0.5 * (_lower_bound(p, q) + _upper_bound(p, q))


def _convexity_upper_bound(p: _Mixture, q: _Mixture) -> jax.Array:
    return _expect(p, (jnp.exp(q.log_weights)[..., None, :] * _kl(p, q)).sum(axis=-1))


APPROXIMATIONS = {
    "matching": _matching,
    "unscented": _unscented,
    "product": _product,
    "variational": _variational,
    "mean_of_bounds": _mean_of_bounds,
}
BOUNDS = {
    "variational_upper_bound": _variational_upper_bound,
    "upper_bound": _upper_bound,
    "convexity_upper_bound": _convexity_upper_bound,
    "lower_bound": _lower_bound,
}


def _mixture(name: str, dist: Any) -> _Mixture:
    """Weights and components of a mixture; a Gaussian is a mixture of one."""
    if isinstance(dist, distrax.MixtureSameFamily | tfd.MixtureSameFamily):
        components = as_gaussian(dist.components_distribution)
        if components is not None:
            gaussians.require_positive(name, components)
            logits = dist.mixture_distribution.logits_parameter()
            return _Mixture(jax.nn.log_softmax(logits, axis=-1), components)
    single = as_gaussian(dist)
    if single is None:
        raise TypeError(
            f"{name} must be a MixtureSameFamily of Gaussians, or a Gaussian, of distrax or TFP, "
            f"got {dist.name}."
        )
    gaussians.require_positive(name, single)
    scale = single.scale[..., None, :] if single.diagonal else single.scale[..., None, :, :]
    one = Gaussian(single.loc[..., None, :], scale, single.diagonal)
    return _Mixture(jnp.zeros(one.loc.shape[:-1]), one)


def _broadcast(mixture: _Mixture, batch: tuple[int, ...]) -> _Mixture:
    log_weights, (loc, scale, diagonal) = mixture.log_weights, _fields(mixture.components)
    count, size = loc.shape[-2:]
    scale = jnp.broadcast_to(scale, (*batch, *scale.shape[-(2 if diagonal else 3) :]))
    return _Mixture(
        jnp.broadcast_to(log_weights, (*batch, count)),
        Gaussian(jnp.broadcast_to(loc, (*batch, count, size)), scale, diagonal),
    )


def _fields(gaussian: Gaussian) -> tuple[jax.Array, jax.Array, bool]:
    return gaussian.loc, gaussian.scale, gaussian.diagonal


def _pairs(p: _Mixture, q: _Mixture) -> tuple[Gaussian, Gaussian]:
    """The components of both along axes of their own, [..., K, 1, D] and [..., 1, L, D]."""

    def spread(gaussian: Gaussian, axis: int) -> Gaussian:
        loc, scale, diagonal = _fields(gaussian)
        scale = jnp.expand_dims(scale, axis - (1 if diagonal else 2))
        return Gaussian(jnp.expand_dims(loc, axis - 1), scale, diagonal)

    return spread(p.components, -1), spread(q.components, -2)


def _kl(p: _Mixture, q: _Mixture) -> jax.Array:
    """D(a, b) [..., K, L]."""
    return gaussians.kl(*_pairs(p, q))


def _log_product(p: _Mixture, q: _Mixture) -> jax.Array:
    """Log of int p_a q_b = log N(loc_a; loc_b, S_a + S_b) [..., K, L]."""
    a, b = _pairs(p, q)
    if a.diagonal and b.diagonal:
        between = Gaussian(b.loc, jnp.hypot(a.scale, b.scale), True)
    else:
        shape = jnp.broadcast_shapes(a.tril.shape, b.tril.shape)
        factors = [jnp.broadcast_to(g.tril, shape) for g in (a, b)]
        between = Gaussian(b.loc, gaussians.lower(jnp.concatenate(factors, axis=-1)), False)
    return gaussians.log_prob(between, a.loc)


def _log_prob(mixture: _Mixture, x: jax.Array) -> jax.Array:
    """Log density of a whole mixture at the points [..., K, N, D] of each component of another."""
    loc, scale, diagonal = _fields(mixture.components)
    around = (..., None, None, slice(None), slice(None), *((slice(None),) * (not diagonal)))
    components = Gaussian(loc[..., None, None, :, :], scale[around], diagonal)
    log_each = gaussians.log_prob(components, x[..., None, :])
    return logsumexp(log_each + mixture.log_weights[..., None, None, :], axis=-1)


def _entropy(mixture: _Mixture) -> jax.Array:
    """H_a [..., K]."""
    size = mixture.components.loc.shape[-1]
    log_sd = jnp.log(mixture.components.sd).sum(axis=-1)
    return log_sd + size / 2 * (1 + jnp.log(2 * jnp.pi))


def _log_sum(mixture: _Mixture, log_terms: jax.Array) -> jax.Array:
    """Log of sum_b omega_b exp(term_ab) [..., K]."""
    return logsumexp(mixture.log_weights[..., None, :] + log_terms, axis=-1)


def _expect(mixture: _Mixture, terms: jax.Array) -> jax.Array:
    """sum_a pi_a term_a, without components of weight 0."""
    weights = jnp.exp(mixture.log_weights)
    return (weights * jnp.where(weights > 0, terms, 0.0)).sum(axis=-1)

"""Gaussians in whatever class they come, and the closed forms between two of them."""

import dataclasses
import functools
from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from tensorflow_probability.substrates.jax import distributions as tfd

from flows import _checks
from flows.divergences.estimate import Estimate
from flows.divergences.excess import log_excess
from flows.divergences.supports import same_space


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["loc", "scale"], meta_fields=["diagonal"]
)
@dataclasses.dataclass(frozen=True)
class Gaussian:
    """N(loc, L L^T).

    Attributes:
        loc: Mean [..., D].
        scale: Standard deviations [..., D], or L [..., D, D], lower triangular.
        diagonal: Which of the two.
    """

    loc: jax.Array
    scale: jax.Array
    diagonal: bool

    @property
    def tril(self) -> jax.Array:
        """L [..., D, D]."""
        return _diag(self.scale) if self.diagonal else self.scale

    @property
    def sd(self) -> jax.Array:
        """The diagonal of L [..., D]."""
        return self.scale if self.diagonal else jnp.diagonal(self.scale, axis1=-2, axis2=-1)

    def from_normals(self, noise: jax.Array) -> jax.Array:
        """What standard normals [..., D] become: loc + L noise."""
        moved = self.scale * noise if self.diagonal else _apply(self.scale, noise)
        return self.loc + moved


@functools.singledispatch
def as_gaussian(dist: Any) -> Gaussian | None:
    """The mean and the factor of the covariance of `dist`; None if it is not a Gaussian.

    Other classes join with `@as_gaussian.register`. A scalar is a vector of one coordinate.
    """
    del dist
    return None


@as_gaussian.register(distrax.Normal)
@as_gaussian.register(tfd.Normal)
def _(dist: Any) -> Gaussian:
    shape = tuple(dist.batch_shape)
    loc, scale = (jnp.broadcast_to(a, shape)[..., None] for a in (dist.loc, dist.scale))
    return Gaussian(loc, scale, True)


@as_gaussian.register(distrax.Independent)
@as_gaussian.register(tfd.Independent)
def _(dist: Any) -> Gaussian | None:
    inner = as_gaussian(dist.distribution)
    if inner is None or not inner.diagonal:
        return None
    shape = (*dist.batch_shape, int(np.prod(dist.event_shape)))
    return Gaussian(inner.loc.reshape(shape), inner.scale.reshape(shape), True)


@as_gaussian.register(distrax.MultivariateNormalFromBijector)
def _(dist: Any) -> Gaussian:
    shape = (*dist.batch_shape, *dist.event_shape)
    loc = jnp.broadcast_to(dist.loc, shape)
    if isinstance(dist, distrax.MultivariateNormalDiag):
        return Gaussian(loc, jnp.broadcast_to(jnp.abs(dist.scale_diag), shape), True)
    if isinstance(dist, distrax.MultivariateNormalTri):
        factor = _positive(dist.scale_tri) if dist.is_lower else lower(dist.scale_tri)
    else:
        columns = jnp.eye(shape[-1]).reshape(-1, *(1,) * (len(shape) - 1), shape[-1])
        factor = lower(jnp.moveaxis(dist.scale.forward(columns), 0, -1))
    return Gaussian(loc, jnp.broadcast_to(factor, (*shape, shape[-1])), False)


@as_gaussian.register(tfd.MultivariateNormalLinearOperator)
def _(dist: Any) -> Gaussian:
    shape = (*dist.batch_shape, *dist.event_shape)
    loc = jnp.zeros(shape) if dist.loc is None else jnp.broadcast_to(dist.loc, shape)
    if isinstance(dist, tfd.MultivariateNormalDiag):
        return Gaussian(loc, jnp.broadcast_to(jnp.abs(dist.scale.diag_part()), shape), True)
    is_lower = isinstance(dist, tfd.MultivariateNormalTriL)
    factor = (_positive if is_lower else lower)(dist.scale.to_dense())
    return Gaussian(loc, jnp.broadcast_to(factor, (*shape, shape[-1])), False)


def gaussian_pair(p: Any, q: Any) -> tuple[Gaussian, Gaussian] | None:
    """Both as Gaussians, or None if one of them is not.

    Raises:
        ValueError: The factor of a covariance is singular or not finite, or a mean is not finite.
    """
    first, second = as_gaussian(p), as_gaussian(q)
    for name, gaussian in (("p", first), ("q", second)):
        if gaussian is not None:
            require_positive(name, gaussian)
    return None if first is None or second is None else (first, second)


@jax.jit
def kl(p: Gaussian, q: Gaussian) -> jax.Array:
    r"""KL(p || q) = (|M|^2 + |d|^2) / 2 + sum_i M_ii - log(1 + M_ii) [...].

    Here M = L_q^-1 (L_p - L_q) and d = L_q^-1 (loc_p - loc_q). This is the usual formula with
    L_q^-1 L_p = I + M put in: no term is negative, and none is left of p = q. (distrax's own
    form subtracts numbers of the size of D, and gives 1e-5 for p = q in float32.)
    """
    p, q, total = _aligned(p, q)
    m = _solve(q.tril, p.tril - q.tril)
    d = _solve(q.tril, (p.loc - q.loc)[..., None])[..., 0]
    ratio = jnp.diagonal(m, axis1=-2, axis2=-1)
    near = jnp.abs(ratio) < 0.5
    far_off = ratio - (jnp.log(p.sd) - jnp.log(q.sd))
    excess = jnp.where(near, log_excess(jnp.where(near, ratio, 0.0)), far_off)
    return total(0.5 * ((m**2).sum(axis=(-2, -1)) + (d**2).sum(axis=-1)) + excess.sum(axis=-1))


@functools.partial(jax.jit, static_argnames="order")
def renyi(p: Gaussian, q: Gaussian, order: float) -> jax.Array:
    r"""Renyi divergence of an order other than 1; inf where the integral of p^a q^(1-a) is.

    With S = a S_q + (1-a) S_p it is a/2 (loc_p - loc_q)^T S^-1 (loc_p - loc_q)
    - log(|S| / (|S_p|^(1-a) |S_q|^a)) / (2 (a-1)). Source: Gil, Alajaji & Linder 2013,
    Information Sciences 249. With w the eigenvalues of S_q^-1 S_p - I the logarithm is
    sum_i log(1 + (1-a) w_i) - (1-a) log(1 + w_i), of which near p = q only the excess over the
    tangents is computed: they cancel.
    """
    p, q, total = _aligned(p, q)
    n = _solve(q.tril, p.tril)
    excess = (1 - order) * (jnp.linalg.svdvals(n) ** 2 - 1)  # |S| / |S_q| = prod 1 + excess
    diverges = (excess <= -1).any(axis=-1)
    excess = jnp.where(diverges[..., None], 0.0, excess)
    log_ratio = (jnp.log(p.sd) - jnp.log(q.sd)).sum(axis=-1)
    spread = jnp.log1p(excess).sum(axis=-1) - 2 * (1 - order) * log_ratio
    m = _solve(q.tril, p.tril - q.tril)
    w = jnp.linalg.eigvalsh(m + m.mT + m @ m.mT)
    near = (jnp.abs(w) < 0.1 / max(1.0, order)).all(axis=-1)
    w = jnp.where(near[..., None], w, 0.0)
    close = (1 - order) * log_excess(w) - log_excess((1 - order) * w)
    spread = jnp.where(near, close.sum(axis=-1), spread)
    if order < 1:  # S is a sum of squares: no need to form it
        parts = [order**0.5 * q.tril, (1 - order) ** 0.5 * p.tril]
        factor = lower(jnp.concatenate(parts, axis=-1))
    else:
        eye = jnp.eye(n.shape[-1], dtype=n.dtype)
        inner = order * eye + (1 - order) * n @ n.mT
        inner = jnp.where(diverges[..., None, None], eye, inner)
        factor = q.tril @ jnp.linalg.cholesky(inner)
    quadratic = (_solve(factor, (p.loc - q.loc)[..., None]) ** 2).sum(axis=(-2, -1))
    value = order / 2 * quadratic - spread / (2 * (order - 1))
    return total(jnp.where(diverges, jnp.inf, jnp.maximum(value, 0.0)))


@jax.jit
def wasserstein2_squared(p: Gaussian, q: Gaussian) -> jax.Array:
    r"""|loc_p - loc_q|^2 + min_Q |L_p - L_q Q|^2 over rotations Q.

    The minimum is the Bures distance tr(S_p + S_q - 2 (S_p^1/2 S_q S_p^1/2)^1/2), at Q = U V^T of
    the singular vectors of L_q^T L_p. Written so it is never negative, an error in Q matters only
    to second order, and its first derivatives are those at fixed Q.
    """
    p, q, total = _aligned(p, q)
    u, _, vt = jnp.linalg.svd(jax.lax.stop_gradient(q.tril.mT @ p.tril))
    between = p.tril - q.tril @ (u @ vt)
    return total(((p.loc - q.loc) ** 2).sum(axis=-1) + (between**2).sum(axis=(-2, -1)))


def wasserstein2(p: Any, q: Any) -> Estimate:
    """Wasserstein-2 distance of two Gaussians, in the units of x.

    W^2 = |loc_p - loc_q|^2 + tr(S_p + S_q - 2 (S_p^1/2 S_q S_p^1/2)^1/2), the Bures distance of
    the covariances. Source: Givens & Shortt 1984, Michigan Math. J. 31.

    Args:
        p: A Gaussian of distrax, TFP or flows: univariate, diagonal or full.
        q: Another, over the same events.

    Returns:
        A closed form, of the batch shape of p and q. First derivatives are right, second ones are
        not; at p = q, where there is none, they are 0.

    Raises:
        TypeError: p or q is not a Gaussian.
        ValueError: The event shapes differ, or a covariance is not positive definite.

    Cost: one singular value decomposition [D, D] a pair; D operations if both are diagonal.

    Examples:
        >>> import distrax, flows
        >>> p, q = distrax.Normal(0.0, 1.0), distrax.Normal(3.0, 5.0)
        >>> float(flows.divergences.wasserstein2(p, q).value)
        5.0
    """
    same_space(p, q)
    pair = gaussian_pair(p, q)
    if pair is None:
        raise TypeError(
            f"p and q must be Gaussians, got {p.name} and {q.name}: for draws of anything there is "
            "sliced_wasserstein."
        )
    squared = wasserstein2_squared(*pair)
    apart = squared > 0
    return Estimate.exact(jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0))


def _aligned(p: Gaussian, q: Gaussian) -> tuple[Gaussian, Gaussian, Any]:
    """Both with full batch shape, and what to do with the result of each.

    Two diagonal ones come as D Gaussians of one coordinate, of which the results are added up.
    """
    shape = jnp.broadcast_shapes(p.loc.shape, q.loc.shape)
    locs = [jnp.broadcast_to(g.loc, shape) for g in (p, q)]
    if p.diagonal and q.diagonal:
        sds = [jnp.broadcast_to(g.scale, shape) for g in (p, q)]
        first, second = (
            Gaussian(loc[..., None], sd[..., None, None], False)
            for loc, sd in zip(locs, sds, strict=True)
        )
        return first, second, lambda value: value.sum(axis=-1)
    trils = [jnp.broadcast_to(g.tril, (*shape, shape[-1])) for g in (p, q)]
    first, second = (Gaussian(loc, tril, False) for loc, tril in zip(locs, trils, strict=True))
    return first, second, lambda value: value


def _diag(v: jax.Array) -> jax.Array:
    return v[..., None] * jnp.eye(v.shape[-1], dtype=v.dtype)


@jax.jit
def log_prob(gaussian: Gaussian, x: jax.Array) -> jax.Array:
    """Log density at x [..., D], broadcast against the batch shape."""
    shape = jnp.broadcast_shapes(gaussian.loc.shape, x.shape)
    difference = jnp.broadcast_to(x - gaussian.loc, shape)
    if gaussian.diagonal:
        z = difference / gaussian.scale
    else:
        tril = jnp.broadcast_to(gaussian.scale, (*shape, shape[-1]))
        z = _solve(tril, difference[..., None])[..., 0]
    log_norm = jnp.log(gaussian.sd).sum(axis=-1) + shape[-1] / 2 * jnp.log(2 * jnp.pi)
    return -0.5 * (z**2).sum(axis=-1) - log_norm


def require_positive(name: str, gaussian: Gaussian) -> None:
    """Raises if the factor of a covariance is singular or not finite, or a mean is not finite."""
    if _checks.is_concrete(gaussian.scale):
        scale = np.asarray(gaussian.scale)
        sd = scale if gaussian.diagonal else np.diagonal(scale, axis1=-2, axis2=-1)
        if not (sd > 0).all():
            raise ValueError(
                f"{name} must have a positive definite covariance; the least number on the "
                f"diagonal of its Cholesky factor is {sd.min():g}."
            )
        _checks.finite(f"the covariance of {name}", np.atleast_1d(scale))
    if _checks.is_concrete(gaussian.loc):
        _checks.finite(f"the mean of {name}", np.atleast_1d(np.asarray(gaussian.loc)))


@jax.jit
def lower(factor: jax.Array) -> jax.Array:
    """The lower triangular L of L L^T = F F^T, F [..., D, K], with a positive diagonal."""
    return _positive(jnp.linalg.qr(factor.mT, mode="r").mT)


@jax.jit
def _positive(tril: jax.Array) -> jax.Array:
    """The factor of the same L L^T of which no diagonal entry is negative."""
    return tril * jnp.sign(jnp.diagonal(tril, axis1=-2, axis2=-1))[..., None, :]


def _apply(matrix: jax.Array, v: jax.Array) -> jax.Array:
    return (matrix @ v[..., None])[..., 0]


def _solve(tril: jax.Array, b: jax.Array) -> jax.Array:
    """tril^-1 b, by division where there is one coordinate."""
    if tril.shape[-1] == 1:
        return b / tril
    return solve_triangular(tril, b, lower=True)

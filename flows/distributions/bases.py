"""Base distributions over vectors. They own their few parameters; nothing is stored twice."""

import math
from typing import Any

import distrax
import jax
import jax.numpy as jnp
from flax import nnx
from jax.scipy import stats
from tensorflow_probability.substrates.jax import distributions as tfd

from flows import _checks, supports
from flows._recipes import Recorded
from flows.divergences import as_gaussian, kl


class Distribution(Recorded, distrax.Distribution):
    """A distribution over vectors [event_size], both an nnx module and a distrax distribution.

    Args:
        event_size: Size of the vectors.
    """

    def __init__(self, event_size: int):
        self.event_size = _checks.positive_int("event_size", event_size)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(event_size,)."""
        return (self.event_size,)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of one draw, without `event_shape`."""
        return ()

    @property
    def space(self) -> Any:
        """What its columns hold: "numbers", "integers" or "angles of period 6.28318531".

        One string for all of them, or a tuple where they differ. Distributions of different spaces
        cannot be compared.
        """
        return "numbers"

    @property
    def is_reparameterized(self) -> bool:
        """Whether draws follow the parameters, so that they can be differentiated."""
        return True

    @property
    def dtype(self) -> jnp.dtype:
        """The type of the draws."""
        return jnp.result_type(float, *jax.tree.leaves(self))

    def weighted_sample(
        self, *, seed: jax.Array, sample_shape: tuple[int, ...] = ()
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Draws, their log densities, and weights of one, to be differentiated.

        The mean of `weight * f(x)` has the derivative of E[f(x)] in all parameters: where draws
        cannot follow them, as from one component of a mixture to another, the weights do.
        """
        x, log_prob = self.sample_and_log_prob(seed=seed, sample_shape=sample_shape)
        return x, log_prob, jnp.ones_like(log_prob)

    def widened(self, factor: float) -> "Distribution":
        """The same with deviations so many times as large; itself where it has no such scale."""
        return self

    def from_normals(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What standard normals [..., event_size] become here, and its log densities [...].

        Raises:
            NotImplementedError: Draws of this distribution do not follow normals.
            ValueError: Wrong event size.
        """
        raise NotImplementedError(f"{self.name} does not make its draws from normals.")

    def _points(self, name: str, value: Any) -> jax.Array:
        """Returns points [..., event_size] as a floating-point array.

        Raises:
            ValueError: Wrong event size: it would broadcast.
        """
        points = _checks.floats(value, name)
        if points.ndim < 1 or points.shape[-1] != self.event_size:
            raise ValueError(
                f"{name} must have shape [..., {self.event_size}] for {self.name}, "
                f"got shape {points.shape}."
            )
        return points


class StandardNormal(Distribution):
    """The standard normal distribution N(0, I). It has no parameters and no arrays.

    Args:
        event_size: Size of the vectors.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> round(float(flows.StandardNormal(2).log_prob(jnp.zeros(2))), 4)
        -1.8379
    """

    def widened(self, factor: float) -> Distribution:
        return DiagonalNormal(self.event_size).widened(factor)

    def from_normals(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        noise = self._points("noise", noise)
        return noise, self.log_prob(noise)

    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        return jax.random.normal(key, (n, self.event_size))

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density at value [..., event_size]."""
        return stats.norm.logpdf(self._points("value", value)).sum(axis=-1)


class DiagonalNormal(Distribution):
    """A normal distribution with independent coordinates and learnable `loc` and `log_scale`.

    Starts as the standard normal.

    Args:
        event_size: Size of the vectors.
    """

    def __init__(self, event_size: int):
        super().__init__(event_size)
        self.loc = nnx.Param(jnp.zeros(event_size))
        self.log_scale = nnx.Param(jnp.zeros(event_size))

    def widened(self, factor: float) -> Distribution:
        return with_scales(self, factor)

    def from_normals(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = self.loc[...] + jnp.exp(self.log_scale[...]) * self._points("noise", noise)
        return z, self.log_prob(z)

    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        return self.from_normals(jax.random.normal(key, (n, self.event_size), self.dtype))[0]

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density at value [..., event_size]."""
        scale = jnp.exp(self.log_scale[...])
        return stats.norm.logpdf(self._points("value", value), self.loc[...], scale).sum(axis=-1)


class StudentT(Distribution):
    """Independent Student-t coordinates with learnable `loc`, `log_scale` and `log_df`.

    Heavier tails than the normal, for heavy-tailed data and posteriors
    (Andrade 2024, Machine Learning: Science and Technology: per-coordinate degrees of freedom).

    Args:
        event_size: Size of the vectors.
        df: Degrees of freedom to start from: one number, or one for each coordinate [event_size].

    Raises:
        ValueError: `df` has the wrong shape, or is not positive and finite.
    """

    def __init__(self, event_size: int, df: float | jax.Array = 10.0):
        super().__init__(event_size)
        start = _checks.floats(df, "df")
        if start.shape not in ((), (event_size,)):
            raise ValueError(
                f"df must be a number or have shape [{event_size}], got shape {start.shape}."
            )
        if _checks.is_concrete(start) and not ((start > 0) & jnp.isfinite(start)).all():
            raise ValueError(f"df must be positive and finite, got {df!r}.")
        self.loc = nnx.Param(jnp.zeros(event_size))
        self.log_scale = nnx.Param(jnp.zeros(event_size))
        self.log_df = nnx.Param(jnp.broadcast_to(jnp.log(start), (event_size,)))

    @property
    def df(self) -> jax.Array:
        """The degrees of freedom [event_size], as they are now."""
        return jnp.exp(self.log_df[...])

    def widened(self, factor: float) -> Distribution:
        return with_scales(self, factor)

    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        shape = (n, self.event_size)
        t = jax.random.t(key, self.df, shape, self.dtype)
        return self.loc[...] + jnp.exp(self.log_scale[...]) * t

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density at value [..., event_size]."""
        scale = jnp.exp(self.log_scale[...])
        value = self._points("value", value)
        return stats.t.logpdf(value, self.df, self.loc[...], scale).sum(axis=-1)


class CircularUniform(Distribution):
    """Independent angles, uniform on the circle: x and x + 2 pi are the same point.

    Draws lie in [-pi, pi); the density is (2 pi)^-event_size at any angle.

    Args:
        event_size: Number of angles.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> round(float(flows.CircularUniform(1).log_prob(jnp.array([10.0]))), 4)
        -1.8379
    """

    space = supports.ANGLES.space

    def from_normals(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        angles = math.pi * (2 * stats.norm.cdf(self._points("noise", noise)) - 1)
        return angles, self.log_prob(angles)

    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        return jax.random.uniform(key, (n, self.event_size), minval=-math.pi, maxval=math.pi)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density at value [..., event_size]; NaN where a value is not finite."""
        flat = 0.0 * self._points("value", value) - math.log(2 * math.pi)
        return flat.sum(axis=-1)


def with_scales(distribution: Any, factor: float) -> Any:
    """A copy of a distribution whose `log_scale` is that of `factor` times the scale."""
    copy = nnx.clone(distribution)
    copy.log_scale[...] += math.log(factor)
    return copy


def _as_distrax(dist: StandardNormal | DiagonalNormal) -> distrax.MultivariateNormalDiag:
    if isinstance(dist, StandardNormal):
        return distrax.MultivariateNormalDiag(jnp.zeros(dist.event_size), jnp.ones(dist.event_size))
    return distrax.MultivariateNormalDiag(dist.loc[...], jnp.exp(dist.log_scale[...]))


for _p in (StandardNormal, DiagonalNormal):
    as_gaussian.register(_p)(lambda dist: as_gaussian(_as_distrax(dist)))
    for _q in (StandardNormal, DiagonalNormal):
        tfd.RegisterKL(_p, _q)(lambda p, q, name=None: kl(p, q).value)  # a closed form

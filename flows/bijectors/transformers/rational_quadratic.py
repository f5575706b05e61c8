"""Monotone splines of rational-quadratic pieces, on an interval and on the circle."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from flows import _checks
from flows.bijectors.transformers.base import CIRCLE, Transformer, by_parameter, soft_clip

# Bounds on the logarithms of relative widths and heights, and of the slope at a knot relative to
# the pieces beside it: they keep slopes to what float32 can invert.
MAX_WIDTH, MAX_HEIGHT, MAX_SLOPE = 1.25, 1.25, 1.5


class RationalQuadraticSpline(Transformer):
    r"""A monotone spline on [-bound, bound], and the identity beyond.

    With knots (x_k, y_k) and slopes d_k there, s = (y_k+1 - y_k) / (x_k+1 - x_k) the steepness of
    a piece, u = (x - x_k) / (x_k+1 - x_k), and r_0, r_1 the slopes at its ends over s,

        y = y_k + (y_k+1 - y_k) (u^2 + r_0 u (1 - u)) / (1 + (r_0 + r_1 - 2) u (1 - u)),

    of which the inverse is the root of a quadratic. Source: Gregory & Delbourgo 1982, IMA Journal
    of Numerical Analysis 2:123; Durkan et al. 2019, Neural spline flows, arXiv:1906.04032.

    The parameters are K for the widths of the pieces, K for their heights, and K - 1 for the slopes
    at inner knots, over the harmonic mean of the two pieces' steepness: all bounded smoothly, so
    that no slope is beyond what float32 can invert. The slope at the ends is 1.

    Args:
        num_bins: K, the number of pieces, at least 2.
        bound: Half the length of the interval.

    Cost: a few operations for each piece, in both directions.

    Example:
        >>> import jax.numpy as jnp
        >>> spline = RationalQuadraticSpline(num_bins=4)
        >>> y, log_det = spline.forward_and_log_det(jnp.array(2.5), jnp.zeros(spline.num_params))
        >>> float(y), float(log_det)
        (2.5, 0.0)
    """

    def __init__(self, num_bins: int = 8, bound: float = 5.0):
        self.num_bins = _checks.positive_int("num_bins", num_bins, least=2)
        self.bound = _checks.positive("bound", bound)

    @property
    def num_params(self) -> int:
        return 3 * self.num_bins - 1

    def forward_and_log_det(self, x: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self._map(x, params, inverse=False)

    def inverse_and_log_det(self, y: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self._map(y, params, inverse=True)

    def _map(self, value: jax.Array, params: jax.Array, inverse: bool):
        widths, heights, slopes = _raw(params, value, self.num_bins)
        end = jnp.zeros_like(slopes[:1])
        left, right = jnp.concatenate([end, slopes]), jnp.concatenate([slopes, end])
        inside = jnp.abs(value) < self.bound
        within = jnp.where(inside, value, 0.0)  # so that no gradient of a branch not taken is NaN
        out, log_det = _spline(within, widths, heights, left, right, self.bound, 1.0, inverse)
        return jnp.where(inside, out, value), jnp.where(inside, log_det, 0.0)


class CircularSpline(Transformer):
    r"""A spline on the circle of angles: T(x + 2 pi) = T(x) + 2 pi.

    As `RationalQuadraticSpline` on [-pi, pi], with equal slopes at the ends, continued
    periodically, and turned by a shift. It maps the real line onto itself, so it is exactly
    invertible however often an angle goes round; the density of angles only needs a base on the
    circle, as in `flows.ncsf`. Source: Rezende et al. 2020, Normalizing flows on tori and spheres,
    arXiv:2002.02428.

    The parameters are K for widths, K for heights, K for slopes, and one for the shift.

    Args:
        num_bins: K, the number of pieces, at least 2.

    Cost: as `RationalQuadraticSpline`.

    Example:
        >>> import jax.numpy as jnp
        >>> spline = CircularSpline(num_bins=4)
        >>> y, _ = spline.forward_and_log_det(jnp.array([0.5, 7.0]), 0.3 * jnp.ones(13))
        >>> once_more, _ = spline.forward_and_log_det(
        ...     jnp.array([0.5, 7.0]) + 2 * jnp.pi, 0.3 * jnp.ones(13))
        >>> bool(jnp.allclose(once_more - y, 2 * jnp.pi))
        True
    """

    reference = CIRCLE

    def __init__(self, num_bins: int = 8):
        self.num_bins = _checks.positive_int("num_bins", num_bins, least=2)

    @property
    def num_params(self) -> int:
        return 3 * self.num_bins + 1

    def forward_and_log_det(self, x: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, log_det = self._map(x, params, inverse=False)
        return y + soft_clip(params[..., -1], math.pi), log_det

    def inverse_and_log_det(self, y: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self._map(y - soft_clip(params[..., -1], math.pi), params, inverse=True)

    def _map(self, value: jax.Array, params: jax.Array, inverse: bool):
        widths, heights, slopes = _raw(params[..., :-1], value, self.num_bins)
        right = jnp.roll(slopes, -1, axis=0)
        angle = jnp.remainder(value + math.pi, 2 * math.pi) - math.pi
        out, log_det = _spline(angle, widths, heights, slopes, right, math.pi, None, inverse)
        return out + (value - angle), log_det


def _raw(params: jax.Array, value: jax.Array, num_bins: int) -> list[jax.Array]:
    """Raw widths, heights and slopes, with pieces as the first axis."""
    return jnp.split(by_parameter(params, value), [num_bins, 2 * num_bins])


def _spline(
    value: jax.Array,
    raw_widths: jax.Array,
    raw_heights: jax.Array,
    left: jax.Array,
    right: jax.Array,
    bound: float,
    slope_at_ends: float | None,
    inverse: bool,
) -> tuple[jax.Array, jax.Array]:
    """A spline from [-bound, bound] onto itself, or its inverse, and the log-derivatives.

    Args:
        value: Points [...], within the bound.
        raw_widths: Of the pieces [K, ...].
        raw_heights: Likewise.
        left: Raw slopes at the left ends of the pieces [K, ...].
        right: Raw slopes at their right ends.
        bound: Half the length of the interval.
        slope_at_ends: The slope at both ends of the interval; None for a circle.
        inverse: Whether to invert the spline.
    """
    log_widths = soft_clip(raw_widths, MAX_WIDTH)
    widths = jnp.exp(log_widths)
    steepness = jnp.exp(soft_clip(raw_heights, MAX_HEIGHT) - log_widths)
    sides = jax.lax.stop_gradient(widths * steepness if inverse else widths)
    scale = sides.sum(axis=0) / (2 * bound)
    past = jax.lax.stop_gradient(value + bound) * scale >= jnp.cumsum(sides, axis=0)[:-1]
    never = jnp.zeros_like(past[:1])
    below = jnp.concatenate([past, never])
    here = jnp.concatenate([~never, past]) & ~below
    pieces = (
        widths, steepness, jnp.roll(steepness, 1, axis=0), jnp.roll(steepness, -1, axis=0),
        left, right,
    )  # fmt: skip
    (length, height), (x, y), (width, s, s_left, s_right, left, right) = _pick(pieces, here, below)
    unit = length / height  # of steepness
    r_0 = jnp.exp(soft_clip(left, MAX_SLOPE)) * 2 * s_left / (s_left + s)
    r_1 = jnp.exp(soft_clip(right, MAX_SLOPE)) * 2 * s_right / (s_right + s)
    s = s * unit
    if slope_at_ends is not None:
        r_0 = jnp.where(here[0], slope_at_ends / s, r_0)
        r_1 = jnp.where(here[-1], slope_at_ends / s, r_1)
    width = width * (2 * bound / length)
    x, y = x * (2 * bound / length) - bound, y * (2 * bound / height) - bound
    bend = r_0 + r_1 - 2
    u = _root((value - y) / (width * s), r_0, bend) if inverse else (value - x) / width
    spread = 1 + bend * u * (1 - u)
    slope = s * (r_1 * u**2 + 2 * u * (1 - u) + r_0 * (1 - u) ** 2) / spread**2
    if inverse:
        return x + width * u, -jnp.log(slope)
    return y + width * s * (u**2 + r_0 * u * (1 - u)) / spread, jnp.log(slope)


def _pick(pieces: tuple[jax.Array, ...], here: jax.Array, below: jax.Array) -> Any:
    """Sums over all pieces, and over those below a value, and what stands where it is.

    The loop over pieces is for its derivative: the compiler would otherwise compute what comes
    after it anew for each of the pieces.

    Args:
        pieces: Arrays [K, ...], of which the first two are widths and steepness.
        here: One-hot [K, ...], the piece that a value is in.
        below: The pieces before it [K, ...].

    Returns:
        (length, height) of all pieces, (x, y) where the piece begins, and the pieces' arrays there.
    """

    def step(found, piece):
        arrays, here, below = piece
        sides = arrays[0], arrays[0] * arrays[1]
        add = lambda total, new, where=True: total + jnp.where(where, new, 0.0)
        totals, before, there = found
        return (
            jax.tree.map(add, totals, sides),
            jax.tree.map(functools.partial(add, where=below), before, sides),
            jax.tree.map(functools.partial(add, where=here), there, arrays),
        ), None

    total, point = jnp.zeros_like(pieces[0][0]), jnp.zeros(here.shape[1:], pieces[0].dtype)
    start = (total, total), (point, point), (point,) * len(pieces)
    return jax.lax.scan(step, start, (pieces, here, below))[0]


def _root(v: jax.Array, r_0: jax.Array, bend: jax.Array) -> jax.Array:
    """The u in [0, 1] with v = (u^2 + r_0 u (1 - u)) / (1 + bend u (1 - u)).

    A root of a u^2 + b u - v = 0 with a = 1 - b; of its two formulas the one without cancellation.
    """
    b = r_0 - v * bend
    root = jnp.sqrt(jnp.maximum(b**2 + 4 * (1 - b) * v, 1e-12))
    negative = b < 0
    return jnp.where(
        negative,
        (root - b) / jnp.where(negative, 2 * (1 - b), 1.0),
        2 * v / jnp.where(negative, 1.0, root + b),
    )

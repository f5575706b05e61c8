"""Monotone splines of rational-quadratic pieces, on an interval and on the circle."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from flows import _checks
from flows.bijectors.transformers.base import CIRCLE, Transformer, by_parameter, soft_clip

# Bounds on the logarithms of relative widths and heights, and of the slope at a knot relative to
# the pieces beside it: they keep slopes to what float32 can invert.
LIMITS = 1.25, 1.25, 1.5
LOOKED_UP = "looked up"  # kept for the derivative, while the rest is computed again


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

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> spline = flows.bijectors.RationalQuadraticSpline(num_bins=4)
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
        raw = by_parameter(params, value)
        raw = jnp.concatenate([raw, jnp.zeros_like(raw[:1])])  # the last slope is not used
        inside = jnp.abs(value) < self.bound
        within = jnp.where(inside, value, 0.0)  # so that no gradient of a branch not taken is NaN
        out, log_det = _spline(within, raw, self.bound, False, inverse)
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

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> spline = flows.bijectors.CircularSpline(num_bins=4)
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
        raw = by_parameter(params[..., :-1], value)
        angle = principal_angle(value)
        out, log_det = _spline(angle, raw, math.pi, True, inverse)
        return out + (value - angle), log_det


def principal_angle(x: jax.Array) -> jax.Array:
    """The angle in [-pi, pi) that is x but for whole turns."""
    angle = jnp.remainder(x + math.pi, 2 * math.pi) - math.pi
    return jnp.where(angle < math.pi, angle, -math.pi)  # where rounding went round


@functools.partial(
    jax.checkpoint, prevent_cse=False, static_argnums=(2, 3, 4),
    policy=jax.checkpoint_policies.save_only_these_names(LOOKED_UP),
)  # fmt: skip
def _spline(
    value: jax.Array, raw: jax.Array, bound: float, circular: bool, inverse: bool
) -> tuple[jax.Array, jax.Array]:
    """A spline from [-bound, bound] onto itself, or its inverse, and the log-derivatives.

    Args:
        value: Points [...], within the bound.
        raw: Widths and heights of the K pieces, and slopes at their right ends [3 K, ...].
        bound: Half the length of the interval.
        circular: Whether the last slope is that at both ends; otherwise the slope there is 1.
        inverse: Whether to invert the spline.
    """
    num_bins = len(raw) // 3
    pieces = _Piece(*jnp.split(raw, 3))
    sides = jax.lax.stop_gradient(_positive(pieces))[1 if inverse else 0]
    scale = sides.sum(axis=0) / (2 * bound)
    past = jax.lax.stop_gradient(value + bound) * scale >= jnp.cumsum(sides, axis=0)[:-1]
    place = past.sum(axis=0, dtype=jnp.int32)  # the piece that a value is in
    found = place, _look_up(pieces, place)
    place, (whole, below, left, here, right) = checkpoint_name(found, LOOKED_UP)

    to_x, to_y = 2 * bound / whole.width, 2 * bound / whole.height
    x, y = below.width * to_x - bound, below.height * to_y - bound
    width, height = here.width * to_x, here.height * to_y
    s = height / width
    r_0 = 2 * left.slope / (1 + here.height * left.width / (left.height * here.width))
    r_1 = 2 * here.slope / (1 + here.height * right.width / (right.height * here.width))
    if not circular:
        r_0 = jnp.where(place == 0, 1 / s, r_0)
        r_1 = jnp.where(place == num_bins - 1, 1 / s, r_1)

    u = _root((value - y) / height, r_0, r_1) if inverse else (value - x) / width
    spread, slope = _spread_and_slope(u, r_0, r_1)
    log_det = jnp.log(s) + jnp.log(slope) - 2 * jnp.log(spread)
    if inverse:
        return x + width * u, -log_det
    return y + height * (u**2 + r_0 * u * (1 - u)) / spread, log_det


class _Piece(NamedTuple):
    width: jax.Array
    height: jax.Array
    slope: jax.Array  # at its right end


def _positive(raw: _Piece) -> _Piece:
    """Within bounds of what raw parameters 0 are, 1."""
    return _Piece(
        *[jnp.exp(soft_clip(array, limit)) for array, limit in zip(raw, LIMITS, strict=True)]
    )


def _look_up(raw: _Piece, place: jax.Array) -> tuple[_Piece, ...]:
    """Sums over all pieces, over those below `place`, and the pieces left of it, there, and right.

    Pieces [K, ...] are a circle, given by their raw parameters. It is a loop for its derivative:
    what stands before and after would be computed anew for each piece there by the compiler, which
    fuses what is not in a loop.
    """
    last = len(raw.width) - 1

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(found: Any, numbered: Any) -> tuple[Any, None]:
        k, piece = numbered[0], _positive(numbered[1])
        masks = (
            jnp.ones_like(place, bool),
            k < place,
            k == jnp.where(place == 0, last, place - 1),
            k == place,
            k == jnp.where(place == last, 0, place + 1),
        )
        pick = lambda mask: jax.tree.map(lambda array: jnp.where(mask, array, 0.0), piece)
        return jax.tree.map(jnp.add, found, tuple(map(pick, masks))), None

    nothing = _Piece(*[jnp.zeros(place.shape, raw.width.dtype)] * 3)
    return jax.lax.scan(step, (nothing,) * 5, (jnp.arange(last + 1), raw))[0]


@jax.custom_jvp
def _root(v: jax.Array, r_0: jax.Array, r_1: jax.Array) -> jax.Array:
    """The u in [0, 1] with v = (u^2 + r_0 u (1 - u)) / (1 + (r_0 + r_1 - 2) u (1 - u)).

    A root of a u^2 + b u - v = 0 with a = 1 - b; of its two formulas the one without cancellation.
    """
    b = r_0 - v * (r_0 + r_1 - 2)
    root = jnp.sqrt(jnp.maximum(b**2 + 4 * (1 - b) * v, 1e-12))
    negative = b < 0
    return jnp.where(
        negative,
        (root - b) / jnp.where(negative, 2 * (1 - b), 1.0),
        2 * v / jnp.where(negative, 1.0, root + b),
    )


@_root.defjvp
def _root_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """By the implicit function theorem: shorter than the derivative of the formula, and exact."""
    (v, r_0, r_1), (dv, dr_0, dr_1) = primals, tangents
    u = _root(v, r_0, r_1)
    spread, slope = _spread_and_slope(u, r_0, r_1)
    return u, (dv * spread - u * (1 - u) * (dr_0 - v * (dr_0 + dr_1))) * spread / slope


def _spread_and_slope(u: jax.Array, r_0: jax.Array, r_1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The denominator of v above, and dv/du times its square."""
    spread = 1 + (r_0 + r_1 - 2) * u * (1 - u)
    return spread, r_1 * u**2 + 2 * u * (1 - u) + r_0 * (1 - u) ** 2

"""The maps between the real line and the supports of columns."""

import math
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows.bijectors.transformers import principal_angle
from flows.supports.columns import Columns, of_kind

NUM_CELL_POINTS = 16  # at which `log_prob` looks into the cell of a row of integers
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def from_real(columns: Columns, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    r"""Maps the real line of each column onto its support, and integers to their cells.

    With Phi the normal distribution function,

        x = a + exp(u)             above a,
        x = b - exp(-u)            below b,
        x = a + (b - a) Phi(u)     from a to b: a standard normal u makes x uniform,
        x = a + L u / 2 pi         on a circle of length L, u from 0 to 2 pi.

    Args:
        columns: The D supports.
        u: Points [..., D].

    Returns:
        x [..., D], strictly inside, and log|det dx/du| [...].
    """
    low, high, lower, upper, circular = _ends(columns, u.dtype)
    both = lower & upper & ~circular
    length = np.where(lower & upper, high - low, 1)
    safe = jnp.where(both, u, 0.0)
    share = length * jax.scipy.special.ndtr(-jnp.abs(safe))
    x = jnp.where(both, jnp.where(safe < 0, low + share, high - share), u)
    log_det = jnp.where(both, np.log(length) - 0.5 * safe**2 - LOG_SQRT_2PI, 0.0)
    bound = math.log(jnp.finfo(u.dtype).max) - 1
    power = jnp.clip(jnp.where(lower ^ upper, jnp.where(lower, u, -u), 0.0), -bound, bound)
    x = jnp.where(lower ^ upper, jnp.where(lower, low + jnp.exp(power), high - jnp.exp(power)), x)
    log_det = log_det + power
    if circular.any():
        angle = principal_angle(jnp.where(circular, u, 0.0))
        middle = np.where(circular, low, 0) + length / 2
        turned = middle + angle * (length / (2 * np.pi))
        x = jnp.where(circular, jnp.where(turned >= high, low, turned), x)
        log_det = log_det + np.where(circular, np.log(length / (2 * np.pi)), 0.0).astype(u.dtype)
    inside = jnp.clip(x, *_inner_ends(low, high))
    x = jnp.where((lower | upper) & ~circular, inside, x)
    return x, log_det.sum(axis=-1)


def to_real(
    columns: Columns, x: Any, np_: ModuleType = jnp, special: ModuleType = jax.scipy.special
) -> tuple[Any, Any]:
    """The inverse of `from_real`, and log|det du/dx|: -inf where x is outside.

    Args:
        columns: The D supports.
        x: Points [..., D]; of integers, points in their cells.
        np_: NumPy, in place of its JAX twin, for tables on disk.
        special: `scipy.special`, then.
    """
    low, high, lower, upper, circular = _ends(columns, x.dtype)
    bounded, both = (lower | upper) & ~circular, lower & upper & ~circular
    length = np.where(lower & upper, high - low, 1)
    tiny, eps = jnp.finfo(x.dtype).tiny, jnp.finfo(x.dtype).eps
    scale = np.where(both | of_kind(columns, "dequantized", "integers"), length, 0)

    above = x - np.where(lower, low, 0)
    below = np.where(upper, high, 0) - x
    near_low = np_.where(both, above < below, lower)
    distance = np_.where(near_low, above, below)
    distance = np_.where(distance == 0, (eps * scale).astype(x.dtype), distance)
    outside = bounded & ((distance <= 0) | (distance == np.inf))
    safe = np_.maximum(np_.where(bounded & ~outside, distance, length / 2), tiny)

    quantile = special.ndtri(np_.maximum(np_.where(both, safe / length, 0.5), tiny))
    log_safe = np_.log(np_.where(both, 1.0, safe))
    magnitude = np_.where(both, quantile, log_safe)
    u = np_.where(bounded, np_.where(near_low, magnitude, -magnitude), x)
    log_det = np_.where(
        both, 0.5 * quantile**2 + LOG_SQRT_2PI - np.log(length), -np.where(bounded, 1, 0) * log_safe
    )
    if circular.any():
        turned = np_.remainder(np_.where(circular, x - np.where(circular, low, 0), 0.0), length)
        u = np_.where(circular, (turned - length / 2) * (2 * np.pi / length), u)
        log_det = np_.where(circular, np.log(2 * np.pi / length), log_det)
    log_det = np_.where(outside.any(axis=-1), -np.inf, log_det.sum(axis=-1))
    return u.astype(x.dtype), log_det.astype(x.dtype)


def _ends(columns: Columns, dtype: Any) -> tuple[np.ndarray, ...]:
    """Lower and upper ends [D], which of them are finite, and which columns are circles."""
    low, high = np.array([support.ends for support in columns], dtype).T
    circular = of_kind(columns, "circle")
    return low, high, np.isfinite(low), np.isfinite(high), circular


def _inner_ends(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest number between two ends, and not zero for next to it."""
    tiny = jnp.finfo(low.dtype).tiny
    least, largest = np.nextafter(low, high), np.nextafter(high, low)
    return np.where(low == 0, tiny, least), np.where(high == 0, -tiny, largest)


def outside(columns: Columns, x: Any, np_: ModuleType = jnp) -> Any:
    """Which entries of x [..., D] are outside of their support; NaN are not."""
    low, high = np.array([(support.low, support.high) for support in columns], x.dtype).T
    lower, upper, whole = np.isfinite(low), np.isfinite(high), of_kind(columns, "integers")
    tiny = jnp.finfo(x.dtype).tiny  # what is less is zero on some devices
    at_end = (abs(x - low) < tiny) | (abs(high - x) < tiny) | (x == high)
    open_ended = (lower ^ upper) & of_kind(columns, "continuous")
    beyond = (lower | upper) & ((x < low) | (x > high) | (open_ended & at_end))
    off_grid = whole & (x != np_.floor(x)) & ~np_.isnan(x)
    return (beyond & ~of_kind(columns, "circle")) | off_grid


def rounded(columns: Columns, x: jax.Array) -> jax.Array:
    """The integer of each cell, in integer columns."""
    low, high = np.array([(support.low, support.high) for support in columns], x.dtype).T
    return jnp.where(of_kind(columns, "integers"), jnp.clip(jnp.floor(x), low, high), x)


def cell_points(columns: Columns) -> np.ndarray:
    """Points [NUM_CELL_POINTS, D] of the unit cell in integer columns, and 0 in all others.

    They are a Latin hypercube: in each column they are spread evenly.
    """
    order = np.random.default_rng(0)
    places = [order.permutation(NUM_CELL_POINTS) for _ in columns]
    points = (np.stack(places, axis=1) + 0.5) / NUM_CELL_POINTS
    return np.where(of_kind(columns, "integers"), points, 0.0)

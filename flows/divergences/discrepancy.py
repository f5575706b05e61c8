"""The maximum mean discrepancy of two sets of draws, its p-value, and the energy distance."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows import _checks
from flows.divergences.estimate import Estimate


def mmd(
    x: Any,
    y: Any,
    *,
    bandwidth: float | None = None,
    key: jax.Array | None = None,
    num_permutations: int = 0,
) -> Estimate:
    r"""Squared maximum mean discrepancy with the kernel exp(-|x - y|^2 / (2 h^2)), unbiased.

    E k(x, x') + E k(y, y') - 2 E k(x, y), no point paired with itself: 0 on average for equal
    distributions, where it may be negative. Source: Gretton et al. 2012, JMLR 13.

    Args:
        x: Draws [N, D].
        y: Draws [M, D].
        bandwidth: h; by default the median distance between the pooled draws.
        key: Random key for the permutations.
        num_permutations: How many relabellings of the pooled draws the p-value of "they are
            equally distributed" is made from; 0 for none. Its least value is 1 / (number + 1).

    Returns:
        An `Estimate`. Its standard error is the asymptotic one for distributions that differ; for
        equal ones it is too small, and the p-value is what counts.

    Raises:
        TypeError: x or y holds no floating-point numbers, or `key` is no random key.
        ValueError: Wrong shapes, fewer than 2 rows, non-finite values, or `key` is missing.

    Cost: (N + M)^2 kernel values, in memory, and as many operations a permutation.

    Examples:
        >>> import flows, jax
        >>> x, y = jax.random.normal(jax.random.key(0), (2, 500, 3))
        >>> apart = flows.divergences.mmd(x, y + 1, key=jax.random.key(1), num_permutations=99)
        >>> bool(apart.p_value <= 0.05)
        True
    """
    x, y = _checks.two_tables(x, y)
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth!r}.")
    z = jnp.concatenate([x, y])
    squared = _distances(z) ** 2
    if bandwidth is None:
        above = np.triu_indices(len(z), 1)
        bandwidth = float(jnp.sqrt(jnp.median(squared[above])))
        if not bandwidth > 0:
            raise ValueError("bandwidth is needed: most of the draws are equal.")
    kernel = jnp.exp(-squared / (2 * bandwidth**2))
    return _discrepancy(kernel, len(x), key, num_permutations, "mmd")


def energy_distance(
    x: Any, y: Any, *, key: jax.Array | None = None, num_permutations: int = 0
) -> Estimate:
    """Energy distance 2 E|x - y| - E|x - x'| - E|y - y'|, unbiased, in the units of x.

    The squared maximum mean discrepancy with the kernel -|x - y|; no bandwidth to choose. Source:
    Szekely & Rizzo 2013, J. Stat. Plan. Inference 143. Arguments, returns, errors and cost are
    those of `mmd`.
    """
    x, y = _checks.two_tables(x, y)
    kernel = -_distances(jnp.concatenate([x, y]))
    return _discrepancy(kernel, len(x), key, num_permutations, "energy_distance")


@jax.jit
def _distances(z: jax.Array) -> jax.Array:
    """|z_i - z_j| [n, n], some rows at a time, so that no digits cancel."""
    row = lambda point: jnp.sqrt(((z - point) ** 2).sum(axis=-1))
    return jax.lax.map(row, z, batch_size=64)


def _discrepancy(
    kernel: jax.Array, n: int, key: jax.Array | None, num_permutations: int, method: str
) -> Estimate:
    """E k(x, x') + E k(y, y') - 2 E k(x, y) of the first n points x and the others y."""
    total = len(kernel)
    kernel = kernel - jnp.diag(jnp.diagonal(kernel))
    is_x = (jnp.arange(total) < n).astype(kernel.dtype)
    gap = _gap(kernel, is_x)
    value = _statistic(gap, is_x)
    variance = sum(4 * part.var(ddof=1) / len(part) for part in (gap[:n], gap[n:]))
    p_value = None
    if num_permutations:
        if key is None:
            raise ValueError("key is needed for the permutations.")
        count = _checks.positive_int("num_permutations", num_permutations)
        keys = jax.random.split(_checks.prng_key("key", key), count)
        p_value = (1 + (_permuted(kernel, is_x, keys) >= value).sum()) / (count + 1)
    return Estimate(value, jnp.sqrt(variance), total, method, p_value)


def _gap(kernel: jax.Array, is_x: jax.Array) -> jax.Array:
    """For each point the mean kernel with others of its kind less that with the other kind."""
    n, m = is_x.sum(), (1 - is_x).sum()
    product = lambda labels: jnp.matmul(kernel, labels, precision=jax.lax.Precision.HIGHEST)
    to_x, to_y = product(is_x), product(1 - is_x)
    return jnp.where(is_x > 0, to_x / (n - 1) - to_y / m, to_y / (m - 1) - to_x / n)


def _statistic(gap: jax.Array, is_x: jax.Array) -> jax.Array:
    return (gap * is_x).sum() / is_x.sum() + (gap * (1 - is_x)).sum() / (1 - is_x).sum()


@jax.jit
def _permuted(kernel: jax.Array, is_x: jax.Array, keys: jax.Array) -> jax.Array:
    """The statistic for labels in random order, one for each key."""

    def statistic(key: jax.Array) -> jax.Array:
        labels = jax.random.permutation(key, is_x)
        return _statistic(_gap(kernel, labels), labels)

    return jax.lax.map(statistic, keys, batch_size=64)

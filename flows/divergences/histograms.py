"""Divergences between histograms: rows of probabilities that add up to 1."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import rel_entr, xlogy

from flows import _checks
from flows.divergences.excess import log_excess

TOLERANCE = 1e-4  # of the sum of a histogram


def histogram_kl(p: jax.Array, q: jax.Array) -> jax.Array:
    """KL(p || q) = sum_i p_i log(p_i / q_i) in nats, of histograms.

    By definition 0 log 0 = 0, and inf where q_i = 0 < p_i: nothing is added to the counts. Added up
    are p_i log(p_i / q_i) - p_i + q_i: no term is negative, and no digits cancel near p = q.

    Args:
        p: Probabilities [..., bins].
        q: Probabilities [..., bins], broadcast against `p`.

    Returns:
        [...]. May be used inside `jit` (where values cannot be checked) and differentiated.

    Raises:
        ValueError: The numbers of bins differ, or a histogram is negative, not finite or not
            normalised.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> p, q = jnp.array([1.0, 0.0]), jnp.array([0.5, 0.5])
        >>> round(float(flows.divergences.histogram_kl(p, q)), 4)
        0.6931
    """
    p, q = _histograms("p", p), _histograms("q", q)
    _same_bins(p, q)
    return _terms(p, q).sum(axis=-1)


def histogram_js(p: jax.Array, q: jax.Array) -> jax.Array:
    """Jensen-Shannon divergence (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2, in nats.

    Between 0 and log 2. Arguments, returns and errors are those of `histogram_kl`.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> p, q = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
        >>> round(float(flows.divergences.histogram_js(p, q)), 4)
        0.6931
    """
    p, q = _histograms("p", p), _histograms("q", q)
    _same_bins(p, q)
    middle = (p + q) / 2
    terms = _terms(p, middle) + _terms(q, middle)
    return jnp.clip(terms.sum(axis=-1) / 2, 0.0, jnp.log(2.0))


def _terms(p: jax.Array, q: jax.Array) -> jax.Array:
    """Computes p log(p / q) - p + q, elementwise."""
    near = jnp.abs(q - p) < 0.5 * p
    ratio = jnp.where(near, q - p, 0.0) / jnp.where(near, p, 1.0)
    return jnp.where(near, p * log_excess(ratio), rel_entr(p, q) - p + q)


def pairwise_kl(p: jax.Array, q: jax.Array | None = None, *, block_size: int = 1024) -> np.ndarray:
    """KL(p_i || q_j) in nats for all pairs of two sets of histograms.

    sum_k p_ik log p_ik - sum_k p_ik log q_jk: one matrix product, and a second one that finds the
    pairs with mass of p where q has none, which are inf. Zeros as in `histogram_kl`.

    Args:
        p: Probabilities [N, bins].
        q: Probabilities [M, bins]; by default p itself.
        block_size: Rows of p computed at a time.

    Returns:
        A NumPy array [N, M]; nothing else of that size is made. In float32 its absolute error is
        about 1e-6; of p with itself the diagonal is exactly 0.

    Raises:
        ValueError: As `histogram_kl`, or the arrays are not matrices.

    Cost: 4 N M bins floating-point operations, half of them where q has no zeros.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> flows.divergences.pairwise_kl(jnp.array([[0.5, 0.5], [1.0, 0.0]]))
        array([[0.       ,       inf],
               [0.6931472, 0.       ]], dtype=float32)
    """
    p = _histograms("p", p)
    other = p if q is None else _histograms("q", q)
    for name, value in (("p", p), ("q", other)):
        if value.ndim != 2:
            raise ValueError(f"{name} must have shape [histograms, bins], got {value.shape}.")
    _same_bins(p, other)
    _checks.positive_int("block_size", block_size)
    is_empty = other == 0
    log_q = jnp.log(jnp.where(is_empty, 1.0, other)).T
    empty = is_empty.astype(p.dtype).T if bool(is_empty.any()) else None
    result = np.empty((len(p), len(other)), p.dtype)
    for first in range(0, len(p), block_size):
        block = slice(first, first + block_size)
        result[block] = _block(p[block], log_q, empty)
    if q is None:
        np.fill_diagonal(result, 0.0)
    return result


@jax.jit
def _block(p: jax.Array, log_q: jax.Array, empty: jax.Array | None) -> jax.Array:
    product = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    value = xlogy(p, p).sum(axis=-1, keepdims=True) - product(p, log_q)
    value = jnp.maximum(value, 0.0)  # what is below is rounding
    return value if empty is None else jnp.where(product(p, empty) > 0, jnp.inf, value)


def _histograms(name: str, value: Any) -> jax.Array:
    array = _checks.floats(value, name)
    if array.ndim < 1:
        raise ValueError(f"{name} must have shape [..., bins], got a number.")
    if not _checks.is_concrete(array):
        return array
    rows = np.atleast_2d(np.asarray(array)).reshape(-1, array.shape[-1])
    _checks.finite(name, rows)
    if (rows < 0).any():
        raise ValueError(f"{name} has negative entries; the lowest is {rows.min():g}.")
    sums = rows.sum(axis=-1)
    off = np.flatnonzero(np.abs(sums - 1) > TOLERANCE)
    if off.size:
        raise ValueError(
            f"{name} must hold probabilities: {off.size} of its {len(rows)} histograms do not add "
            f"up to 1; number {off[0]} adds up to {sums[off[0]]:g}. Divide each by its sum."
        )
    return array


def _same_bins(p: jax.Array, q: jax.Array) -> None:
    if p.shape[-1] != q.shape[-1]:
        raise ValueError(
            f"p and q must have the same bins, got {p.shape[-1]} and {q.shape[-1]} of them."
        )

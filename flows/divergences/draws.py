"""Draws from a distribution, independent or evenly spread, and log densities at them."""

import functools
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from tensorflow_probability.substrates.jax import distributions as tfd

from flows import _checks
from flows.divergences.gaussians import as_gaussian

SAMPLING = ("independent", "antithetic", "sobol")
RANDOMISATIONS = 64  # of the Sobol points: their spread gives the standard error


JUMPING = (
    distrax.MixtureSameFamily, distrax.MixtureOfTwo, distrax.Bernoulli, distrax.Categorical,
    distrax.OneHotCategorical, distrax.Multinomial, distrax.Quantized,
)  # fmt: skip


class Draws(NamedTuple):
    """Draws from p, which may be differentiated.

    Attributes:
        x: The draws [n, ..., *event].
        log_p: log p at them [n, ...].
        weight: 1 [n, ...], with the derivative d log p where x itself has none (the score
            function): the mean of `weight * f(x)` has the right gradient for any p.
        groups: Number of groups of which the means are independent.
    """

    x: jax.Array
    log_p: jax.Array
    weight: jax.Array
    groups: int


def draw(p: Any, q: Any, key: jax.Array | None, num_samples: int, sampling: str) -> Draws:
    """Draws from p, with axes put in so that they broadcast against the batch shape of q.

    Raises:
        TypeError: `key` is no random key, or `num_samples` no int.
        ValueError: `key` is missing, there are fewer than 2 samples, or p does not know the
            `sampling` asked for.
    """
    if key is None:
        raise ValueError(
            f"key is needed: the answer is estimated from draws of {p.name}. Pass "
            "key=jax.random.key(0); in place of the `kl_divergence` of distrax or TFP, which takes "
            "none, call flows.divergences.kl(p, q, key=...)."
        )
    key = _checks.prng_key("key", key)
    if _checks.positive_int("num_samples", num_samples) < 2:
        raise ValueError("num_samples must be at least 2, got 1.")
    _checks.one_of("sampling", sampling, SAMPLING)
    if sampling == "independent":
        x, log_p, weight = _weighted_sample(p, key, num_samples)
        groups = len(x)
    else:
        noise, groups = _noise(p, key, num_samples, sampling)
        x, log_p = _from_normals(p, noise, sampling)
        weight = jnp.ones_like(log_p)
    if not _is_reparameterized(p):
        x = jax.lax.stop_gradient(x)
        log_p = p.log_prob(x)
        weight = jnp.exp(log_p - jax.lax.stop_gradient(log_p))
    new = range(1, 1 + max(0, len(q.batch_shape) - len(p.batch_shape)))
    x, log_p, weight = (jnp.expand_dims(a, tuple(new)) for a in (x, log_p, weight))
    return Draws(x, log_p, weight, groups)


def _weighted_sample(p: Any, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    if hasattr(p, "weighted_sample"):
        x, log_p, weight = p.weighted_sample(seed=key, sample_shape=(n,))
        if getattr(p, "support", None) is not None:
            log_p = p.log_prob(x)  # of the draws as they are rounded next to an end
        return x, log_p, weight
    if isinstance(p, tfd.Distribution):
        x, log_p = p.experimental_sample_and_log_prob(n, seed=key)
    else:
        x, log_p = p.sample_and_log_prob(seed=key, sample_shape=(n,))
    return x, log_p, jnp.ones_like(log_p)


def _is_reparameterized(p: Any) -> bool:
    """Whether the draws of p follow its parameters: those of mixtures and of counts do not."""
    if isinstance(p, tfd.Distribution):
        return p.reparameterization_type == tfd.FULLY_REPARAMETERIZED
    if hasattr(p, "is_reparameterized"):
        return p.is_reparameterized
    if isinstance(p, JUMPING):
        return False
    if hasattr(p, "distribution"):
        return _is_reparameterized(p.distribution)
    return bool(jnp.issubdtype(p.dtype, jnp.floating))


def _from_normals(p: Any, noise: jax.Array, sampling: str) -> tuple[jax.Array, jax.Array]:
    """What standard normals [..., D] become in p, and their log densities."""
    gaussian = as_gaussian(p)
    if gaussian is not None:
        x = gaussian.from_normals(noise).reshape(*noise.shape[:-1], *p.event_shape)
        return x, p.log_prob(x)
    try:
        return p.from_normals(noise)
    except (AttributeError, NotImplementedError):
        raise ValueError(
            f"sampling={sampling!r} needs a p whose draws follow standard normals: a Gaussian, or "
            f"a flow on a normal base; {p.name} is neither."
        ) from None


def _noise(p: Any, key: jax.Array, n: int, sampling: str) -> tuple[jax.Array, int]:
    """Standard normals [groups * size, *batch, D] in groups, and the number of groups."""
    shape = (*p.batch_shape, max(1, int(np.prod(p.event_shape))))
    if sampling == "antithetic":
        half = jax.random.normal(key, (-(-n // 2), *shape))
        return jnp.stack([half, -half], axis=1).reshape(-1, *shape), len(half)
    log2_size = max(1, int(np.ceil(np.log2(n / RANDOMISATIONS))))
    keys = jax.random.split(key, RANDOMISATIONS)
    points = jax.vmap(scrambled_sobol, (0, None, None))(keys, log2_size, int(np.prod(shape)))
    return ndtri(points).reshape(-1, *shape), RANDOMISATIONS


def scrambled_sobol(key: jax.Array, log2_size: int, num_dims: int) -> jax.Array:
    """2**log2_size points in the open unit cube [2**log2_size, num_dims], spread evenly.

    Each point alone is uniform, so that means over them are unbiased. Sobol points (directions of
    Joe & Kuo, from `scipy.stats.qmc`) with a random lower triangular matrix over their bits and a
    random digital shift: Matousek 1998, J. Complexity 14.
    """
    return _scrambled(key, jnp.asarray(_sobol(log2_size, num_dims)))


@jax.jit
def _scrambled(key: jax.Array, points: jax.Array) -> jax.Array:
    num_dims = points.shape[1]
    matrix_key, shift_key = jax.random.split(key)
    bits = 30  # of scipy's points
    place = jnp.uint32(1) << jnp.arange(bits - 1, -1, -1, dtype=jnp.uint32)  # highest bit first
    # Row b: the bits of a point that make bit b of the scrambled one, itself and some higher ones.
    rows = jax.random.bits(matrix_key, (num_dims, bits), jnp.uint32)
    rows = (rows & ~(2 * place - 1)) & jnp.uint32(2**bits - 1) | place
    shift = jax.random.bits(shift_key, (num_dims,), jnp.uint32) >> (32 - bits)

    def scrambled(bit: jax.Array) -> jax.Array:
        return (jax.lax.population_count(points & rows[:, bit]) & 1) * place[bit]

    scramble = lambda bit, total: total + scrambled(bit)
    points = jax.lax.fori_loop(0, bits, scramble, jnp.zeros_like(points)) ^ shift
    kept = min(bits, jnp.finfo(jnp.result_type(float)).nmant)  # so that none is rounded to 1
    return ((points >> (bits - kept)) + 0.5) / 2.0**kept


@functools.lru_cache(maxsize=8)
def _sobol(log2_size: int, num_dims: int) -> np.ndarray:
    from scipy.stats import qmc

    points = qmc.Sobol(num_dims, scramble=False, bits=30).random_base2(log2_size)
    return (points * 2**30).astype(np.uint32)

"""Supports of whole vectors and matrices, for the parameters of a model."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from tensorflow_probability.substrates.jax import bijectors as tfb

Map = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class VectorSupport:
    """Where a vector, or a matrix, may lie: use `simplex`, `ordered` or `correlation_cholesky`.

    Attributes:
        name: What it is called.
        rank: Number of the last axes that belong to one vector (1) or matrix (2).
        num_free: Of a vector of K numbers, or a K by K matrix, how many are free.
        from_real: Maps real numbers [..., num_free] onto it, and gives log|det| [...] of its free
            coordinates.
        to_real: The inverse, and its log|det|.
    """

    name: str
    rank: int
    num_free: Callable[[int], int]
    from_real: Map
    to_real: Map

    def __str__(self) -> str:
        return self.name


def _to_simplex(u: jax.Array) -> tuple[jax.Array, jax.Array]:
    r"""Breaks a stick: x_k is a share v_k of what is left, v_k = sigmoid(u_k - log(K - k)).

    Of u = 0 all shares are equal. In logarithms, so that no share is lost for being small.
    Source: Stan reference manual, "Unit simplex".
    """
    z = u - jnp.log(jnp.arange(u.shape[-1], 0, -1, dtype=u.dtype))
    left = jnp.cumsum(jax.nn.log_sigmoid(-z), axis=-1)  # after each break
    before = jnp.concatenate([jnp.zeros_like(left[..., :1]), left[..., :-1]], axis=-1)
    log_x = jnp.concatenate([before + jax.nn.log_sigmoid(z), left[..., -1:]], axis=-1)
    log_det = (log_x[..., :-1] + jax.nn.log_sigmoid(-z)).sum(axis=-1)
    return jnp.maximum(jnp.exp(log_x), jnp.finfo(u.dtype).tiny), log_det


def _from_simplex(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    left = jnp.cumsum(x[..., ::-1], axis=-1)[..., ::-1]  # before each break
    log_x, log_left = jnp.log(x[..., :-1]), jnp.log(left)
    z = log_x - log_left[..., 1:]
    log_det = -(log_x + log_left[..., 1:] - log_left[..., :-1]).sum(axis=-1)
    return z + jnp.log(jnp.arange(z.shape[-1], 0, -1, dtype=x.dtype)), log_det


def _by(bijector: tfb.Bijector, rank: int) -> tuple[Map, Map]:
    """The two maps of a TFP bijector from vectors to vectors (rank 1) or matrices (rank 2)."""
    return (
        lambda u: (bijector.forward(u), bijector.forward_log_det_jacobian(u, event_ndims=1)),
        lambda x: (bijector.inverse(x), bijector.inverse_log_det_jacobian(x, event_ndims=rank)),
    )


simplex = VectorSupport("simplex", 1, lambda k: k - 1, _to_simplex, _from_simplex)
ordered = VectorSupport("ordered", 1, lambda k: k, *_by(tfb.Ascending(), 1))
correlation_cholesky = VectorSupport(
    "correlation_cholesky", 2, lambda k: k * (k - 1) // 2, *_by(tfb.CorrelationCholesky(), 2)
)

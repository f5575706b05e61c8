"""Affine maps of the whole vector."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flows import _checks, _columns
from flows._buffers import Buffer
from flows.bijectors.base import Bijector

ROWS_PER_COVARIANCE = 5  # for each of its entries: with fewer, columns are scaled only

# In full precision on every device, for the inverse is.
product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class TriangularAffine(Bijector):
    r"""The map y = loc + L x, with L lower triangular and a positive diagonal.

    With `loc` and `L` the mean and the Cholesky factor of a covariance, it colours white noise.
    It is kept as the diagonal's logarithm and the strictly lower part of L / diag(L) row by row.

    Args:
        loc: [event_size].
        scale_tril: L [event_size, event_size].
        trainable: Whether `loc` and `L` are parameters (`nnx.Param`) or constants (`Buffer`).

    Cost: D^2 in both directions; the inverse is a triangular solve.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> double = flows.bijectors.TriangularAffine(jnp.array([1.0, 0.0]), 2 * jnp.eye(2))
        >>> double.forward(jnp.ones(2)).tolist()
        [3.0, 2.0]
    """

    is_affine_triangular = True

    def __init__(self, loc: Any, scale_tril: Any, *, trainable: bool = True):
        size = jnp.shape(loc)[-1]
        if jnp.shape(loc) != (size,) or jnp.shape(scale_tril) != (size, size):
            raise ValueError(
                "loc and scale_tril must have shapes [D] and [D, D], got "
                f"{jnp.shape(loc)} and {jnp.shape(scale_tril)}."
            )
        super().__init__(size)
        if not isinstance(scale_tril, jax.core.Tracer):
            values = np.asarray(scale_tril)
            if (np.diagonal(values) <= 0).any() or np.triu(values, 1).any():
                raise ValueError(
                    "scale_tril must be lower triangular with a positive diagonal, got "
                    f"{values.tolist()}."
                )
        self.trainable = trainable
        variable = nnx.Param if trainable else Buffer
        kept = _kept(*map(jnp.asarray, (loc, scale_tril)))
        self.loc, self.log_diagonal, self.lower = map(variable, kept)

    @property
    def scale_tril(self) -> jax.Array:
        """L [event_size, event_size]."""
        unit = jnp.tril(self._read(self.lower), -1) + jnp.eye(self.event_size)
        return jnp.exp(self._read(self.log_diagonal))[:, None] * unit

    def _read(self, variable: nnx.Variable) -> jax.Array:
        return variable.constant() if isinstance(variable, Buffer) else variable[...]

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        y = self._read(self.loc) + product(x, self.scale_tril.T)
        return y, jnp.broadcast_to(self._read(self.log_diagonal).sum(), x.shape[:-1])

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        centred = (y - self._read(self.loc)).reshape(-1, self.event_size)
        x = jax.scipy.linalg.solve_triangular(self.scale_tril, centred.T, lower=True).T
        log_det = -self._read(self.log_diagonal).sum()
        return x.reshape(y.shape), jnp.broadcast_to(log_det, y.shape[:-1])


@jax.jit
def _kept(loc: jax.Array, scale_tril: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What `TriangularAffine` keeps."""
    diagonal = jnp.diagonal(scale_tril)
    return loc, jnp.log(diagonal), jnp.tril(scale_tril / diagonal[:, None], -1)


class LULinear(Bijector):
    r"""The map y = loc + L U x, with L unit lower and U upper triangular with a positive diagonal.

    Starts as the identity. Between layers it mixes the coordinates as a learnable alternative to
    permutations. Source: Oliva et al. 2018, arXiv:1801.09819; Durkan et al. 2019, arXiv:1906.04032.

    Args:
        event_size: Size of the vectors, D.

    Cost: 2 D^2 for each point in both directions; the inverse is two triangular solves.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> flows.bijectors.LULinear(2).forward(jnp.array([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """

    def __init__(self, event_size: int):
        super().__init__(event_size)
        self.loc = nnx.Param(jnp.zeros(event_size))
        self.log_diagonal = nnx.Param(jnp.zeros(event_size))
        self.off_diagonal = nnx.Param(jnp.zeros((event_size, event_size)))

    def factors(self) -> tuple[jax.Array, jax.Array]:
        """L and U, each [D, D]."""
        off = self.off_diagonal[...]
        lower = jnp.tril(off, -1) + jnp.eye(self.event_size, dtype=off.dtype)
        return lower, jnp.triu(off, 1) + jnp.diag(jnp.exp(self.log_diagonal[...]))

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        lower, upper = self.factors()
        y = self.loc[...] + product(product(x, upper.T), lower.T)
        return y, jnp.broadcast_to(self.log_diagonal[...].sum(), x.shape[:-1])

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        lower, upper = self.factors()
        columns = (y - self.loc[...]).reshape(-1, self.event_size).T
        columns = jax.scipy.linalg.solve_triangular(lower, columns, lower=True, unit_diagonal=True)
        x = jax.scipy.linalg.solve_triangular(upper, columns).T.reshape(y.shape)
        return x, jnp.broadcast_to(-self.log_diagonal[...].sum(), y.shape[:-1])


class Orthogonal(Bijector):
    r"""The rotation y = Q x, a product of Householder reflections I - 2 v v^T / v^T v.

    The reflections come in pairs that start equal, so that Q starts as the identity; D of them
    reach every rotation. Source: Tomczak & Welling 2016, arXiv:1611.09630.

    Args:
        event_size: Size of the vectors, D.
        num_reflections: Number of reflections, even; by default D, or D + 1 if that is odd.
        rngs: Source of the initial directions.

    Raises:
        ValueError: `num_reflections` is odd.

    Cost: num_reflections^2 D to make Q, and D^2 for each point, in both directions.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> from flax import nnx
        >>> identity = flows.bijectors.Orthogonal(2, rngs=nnx.Rngs(0))
        >>> identity.forward(jnp.array([1.0, 2.0])).round(4).tolist()
        [1.0, 2.0]
    """

    def __init__(self, event_size: int, *, num_reflections: int | None = None, rngs: nnx.Rngs):
        super().__init__(event_size)
        if num_reflections is None:
            num_reflections = event_size + event_size % 2
        if _checks.positive_int("num_reflections", num_reflections) % 2:
            raise ValueError(f"num_reflections must be even, got {num_reflections}.")
        pairs = jax.random.normal(rngs.params(), (num_reflections // 2, event_size))
        self.directions = nnx.Param(jnp.repeat(pairs, 2, axis=0))

    def matrix(self) -> jax.Array:
        """Q [D, D]."""
        return product_of_reflections(self.directions[...])

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return product(x, self.matrix().T), jnp.zeros(x.shape[:-1], x.dtype)

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return product(y, self.matrix()), jnp.zeros(y.shape[:-1], y.dtype)


def product_of_reflections(directions: jax.Array) -> jax.Array:
    """The matrix [D, D] of reflections I - 2 v v^T / v^T v along directions v [N, D]."""
    tiny = jnp.finfo(directions.dtype).tiny
    largest = jax.lax.stop_gradient(jnp.abs(directions).max(axis=1, keepdims=True))
    v = directions / jnp.maximum(largest, tiny)
    v = v * jax.lax.rsqrt(jnp.maximum((v**2).sum(axis=1, keepdims=True), tiny))
    # All at once, I - V^T T^-1 V (Joffrain et al. 2006, ACM Trans. Math. Software 32:169).
    number, size = v.shape
    triangular = jnp.triu(product(v, v.T), 1) + jnp.eye(number, dtype=v.dtype) / 2
    solved = jax.scipy.linalg.solve_triangular(triangular, v)
    return jnp.eye(size, dtype=v.dtype) - product(v.T, solved)


def reflections(matrix: jax.Array) -> jax.Array:
    """Directions [D, D] whose reflections make an orthogonal matrix, but for signs of columns."""
    below, _ = jnp.linalg.qr(matrix, mode="raw")
    return jnp.triu(below, 1) + jnp.eye(len(matrix), dtype=matrix.dtype)


def whitening(
    x: Any,
    event_size: int | None = None,
    to_real: Callable[[np.ndarray, int], np.ndarray] | None = None,
    plain: Any = True,
) -> TriangularAffine:
    """The fixed affine map from white noise to the mean and covariance of the rows of x.

    Of fewer than ROWS_PER_COVARIANCE D^2 rows the variances are taken only: there full whitening
    blows up directions that hold little but noise, and costs likelihood
    (`benchmarks/small_tables.md`).

    Columns that take few values, such as counts, are taken with the uniform noise that
    `flows.fit(dequantize=True)` adds to them: without it, one-hot columns have no inverse
    covariance, and any noise would be blown up.

    Args:
        x: Finite data [rows, event_size], in memory or a `numpy.memmap`, read a block at a time.
        event_size: The number of columns needed, if it is known.
        to_real: Maps a block of rows, and the number of the first, to those to whiten.
        plain: Which columns it leaves as they are [event_size].

    Raises:
        TypeError: x does not hold numbers.
        ValueError: NaN or infinite values, a wrong shape, or a constant column.
    """
    x = _checks.array("standardize_with", x)
    _checks.inspect_table("standardize_with", x, event_size, integers=True, constants=False)
    loc, covariance = _columns.moments(x, lambda rows: rows.T @ rows, to_real)
    steps = np.where(plain, _columns.steps_between_values(x), 0.0)
    loc = loc + steps / 2
    covariance = covariance + np.diag(steps**2 / 12)
    scale = np.sqrt(np.diagonal(covariance))
    # Columns that repeat one another leave the correlation singular: a ridge of 1e-6 keeps the
    # map invertible in float32, and the layers behind it learn what it leaves.
    correlation = covariance / np.outer(scale, scale)
    if len(x) < ROWS_PER_COVARIANCE * len(loc) ** 2:
        correlation = np.eye(len(loc))
    factor = np.linalg.cholesky(correlation + 1e-6 * np.eye(len(loc)))
    dtype = jnp.result_type(float)
    return TriangularAffine(
        jnp.asarray(loc, dtype), jnp.asarray(scale[:, None] * factor, dtype), trainable=False
    )


def column_moments(name: str, context: Any, num_columns: int | None) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of each column of a context; 1 for columns that are constant."""
    context = _checks.array(name, context)
    constant = _checks.inspect_table(name, context, num_columns, integers=True)
    loc, variance = _columns.moments(context, lambda rows: np.square(rows).sum(axis=0))
    dtype = jnp.result_type(float)
    scale = np.sqrt(np.where(constant, 1.0, variance))
    return jnp.asarray(loc, dtype), jnp.asarray(scale, dtype)

"""Affine maps of the whole vector."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flows import _checks, _columns
from flows.bijectors.base import Bijector, Buffer


class TriangularAffine(Bijector):
    r"""The map y = loc + L x, with L lower triangular and a positive diagonal.

    With `loc` and `L` the mean and the Cholesky factor of a covariance, it colours white noise.
    It is kept as the diagonal's logarithm and the strictly lower part of L / diag(L) row by row.

    Args:
        loc: [event_size].
        scale_tril: L [event_size, event_size].
        trainable: Whether `loc` and `L` are parameters (`nnx.Param`) or constants (`Buffer`).

    Cost: D^2 in both directions; the inverse is a triangular solve.

    Example:
        >>> import jax.numpy as jnp
        >>> TriangularAffine(jnp.array([1.0, 0.0]), 2 * jnp.eye(2)).forward(jnp.ones(2)).tolist()
        [3.0, 2.0]
    """

    is_affine_triangular = True

    def __init__(self, loc: jax.Array, scale_tril: jax.Array, *, trainable: bool = True):
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
        diagonal = jnp.diagonal(scale_tril)
        self.loc = variable(jnp.asarray(loc))
        self.log_diagonal = variable(jnp.log(diagonal))
        self.lower = variable(jnp.tril(scale_tril / diagonal[:, None], -1))

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
        y = self._read(self.loc) + x @ self.scale_tril.T
        return y, jnp.broadcast_to(self._read(self.log_diagonal).sum(), x.shape[:-1])

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        centred = (y - self._read(self.loc)).reshape(-1, self.event_size)
        x = jax.scipy.linalg.solve_triangular(self.scale_tril, centred.T, lower=True).T
        log_det = -self._read(self.log_diagonal).sum()
        return x.reshape(y.shape), jnp.broadcast_to(log_det, y.shape[:-1])


def whitening(x: Any, event_size: int | None = None) -> TriangularAffine:
    """The fixed affine map from white noise to the mean and covariance of the rows of x.

    Columns that take few values, such as counts, are taken with the uniform noise that
    `flows.fit(dequantize=True)` adds to them: without it, one-hot columns have no inverse
    covariance, and any noise would be blown up.

    Args:
        x: Finite data [rows, event_size], in memory or a `numpy.memmap`, read a block at a time.
        event_size: The number of columns needed, if it is known.

    Raises:
        TypeError: x does not hold numbers.
        ValueError: NaN or infinite values, a wrong shape, or a constant column.
    """
    x = np.asarray(x)
    _checks.inspect_table("standardize_with", x, event_size, integers=True, constants=False)
    loc, covariance = _columns.moments(x, lambda rows: rows.T @ rows)
    steps = _columns.steps_between_values(x)
    loc = loc + steps / 2
    covariance = covariance + np.diag(steps**2 / 12)
    scale = np.sqrt(np.diagonal(covariance))
    # Columns that repeat one another leave the correlation singular: a ridge of 1e-6 keeps the
    # map invertible in float32, and the layers behind it learn what it leaves.
    correlation = covariance / np.outer(scale, scale)
    factor = np.linalg.cholesky(correlation + 1e-6 * np.eye(len(loc)))
    dtype = jnp.result_type(float)
    return TriangularAffine(
        jnp.asarray(loc, dtype), jnp.asarray(scale[:, None] * factor, dtype), trainable=False
    )


def column_moments(name: str, context: Any, num_columns: int | None) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of each column of a context; 1 for columns that are constant."""
    context = np.asarray(context)
    constant = _checks.inspect_table(name, context, num_columns, integers=True)
    loc, variance = _columns.moments(context, lambda rows: np.square(rows).sum(axis=0))
    dtype = jnp.result_type(float)
    scale = np.sqrt(np.where(constant, 1.0, variance))
    return jnp.asarray(loc, dtype), jnp.asarray(scale, dtype)

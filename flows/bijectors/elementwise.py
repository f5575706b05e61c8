"""Maps that act on each coordinate alone."""

import jax
import jax.numpy as jnp
from flax import nnx

from flows.bijectors.base import Bijector
from flows.bijectors.transformers import Affine, Transformer, require_transformer


class Elementwise(Bijector):
    """The map y_i = T(x_i; theta_i) with free, learnable parameters; elementwise affine by default.

    Args:
        event_size: Size of the vectors.
        transformer: The univariate map T, affine by default.

    Cost: negligible in both directions.

    Example:
        >>> import jax.numpy as jnp
        >>> Elementwise(2).forward(jnp.array([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """

    def __init__(self, event_size: int, transformer: Transformer | None = None):
        super().__init__(event_size)
        self.transformer = Affine() if transformer is None else transformer
        require_transformer("transformer", self.transformer)
        self.params = nnx.Param(jnp.zeros((event_size, self.transformer.num_params)))

    @property
    def is_affine_triangular(self) -> bool:
        return self.transformer.is_affine

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        y, log_det = self.transformer.forward_and_log_det(x, self.params[...])
        return y, jnp.broadcast_to(log_det, x.shape).sum(axis=-1)

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        x, log_det = self.transformer.inverse_and_log_det(y, self.params[...])
        return x, jnp.broadcast_to(log_det, y.shape).sum(axis=-1)

"""Maps that act on each coordinate alone."""

import jax
import jax.numpy as jnp
from flax import nnx

from flows.bijectors.base import Bijector, Buffer, require_bijector
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


class StandardizedContext(Bijector):
    """A conditional bijector whose context is standardised first, (context - loc) / scale.

    Args:
        bijector: A bijector with a context.
        loc: Means of the context columns [context_size].
        scale: Standard deviations of the context columns [context_size].
    """

    def __init__(self, bijector: Bijector, loc: jax.Array, scale: jax.Array):
        require_bijector("bijector", bijector)
        super().__init__(bijector.event_size, bijector.context_size)
        self.bijector = bijector
        self.loc = Buffer(loc)
        self.scale = Buffer(scale)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of the conditional bijector."""
        return self.bijector.batch_shape

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self.bijector._forward_and_log_det(x, self.standardize(context))

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return self.bijector._inverse_and_log_det(y, self.standardize(context))

    def standardize(self, context: jax.Array | None) -> jax.Array:
        """The context as the inner bijector sees it."""
        assert context is not None  # the public methods have checked it
        return (context - self.loc.constant()) / self.scale.constant()

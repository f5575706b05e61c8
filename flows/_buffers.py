"""Arrays that are part of a module and are not trained."""

import jax
from flax import nnx


class Buffer(nnx.Variable):
    """A constant array: part of a module's state, saved with it, never trained.

    Buffers are floating-point, so that `jax.grad` over a whole flow works; reading one through
    `constant` stops the gradient, so that it is exactly zero.
    """

    def constant(self) -> jax.Array:
        """The array, with its gradient stopped."""
        return jax.lax.stop_gradient(self[...])

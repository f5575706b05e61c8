"""Masked autoregressive layers: IAF in the forward direction, MAF in the inverse one."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from flows import _checks
from flows.bijectors.base import Bijector
from flows.bijectors.fixed_point import METHODS, inverse_parameters
from flows.bijectors.transformers import Affine, Transformer, require_transformer
from flows.conditioners import MaskedMLP


class MaskedAutoregressive(Bijector):
    r"""The map y_i = T(x_i; theta_i(x_0 .. x_{i-1})) with a masked network theta.

    Its Jacobian is lower triangular, so log|det J| = sum_i log dT/dx_i. One class, two flows:

    - as it stands, from noise to data, it is an IAF layer: sampling is parallel
      (Kingma et al. 2016, arXiv:1606.04934);
    - `Inverse(MaskedAutoregressive(..., transformer=Inverted(T)))` is a MAF layer,
      y_i = T(x_i; theta_i(y_0 .. y_{i-1})): density is parallel
      (Papamakarios et al. 2017, arXiv:1705.07057).

    Cost: forward is one network pass; inverse costs about two (blocked forward substitution), in a
    sequence of D short steps. Gradients through it take about twice the time and the memory of
    gradients through forward.

    Args:
        event_size: D, the number of coordinates; 1 is allowed.
        hidden_sizes: Width of each hidden layer of the network.
        context_size: Size of the context, or None.
        transformer: The univariate map T, affine by default.
        residual: Whether the network's hidden layers are residual.
        activation: The network's activation: "relu", "gelu", "silu" or "tanh".
        inverse: How the inverse is computed. "blocked" is forward substitution; "jacobi" repeats
            forward passes until nothing moves, at most D of them; "auto" is "blocked".
        rngs: Source of the initial weights.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = MaskedAutoregressive(3, rngs=nnx.Rngs(0))
        >>> y, log_det = layer.forward_and_log_det(jnp.ones((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))
    """

    def __init__(
        self,
        event_size: int,
        hidden_sizes: Sequence[int] = (64, 64),
        *,
        context_size: int | None = None,
        transformer: Transformer | None = None,
        residual: bool = False,
        activation: str = "silu",
        inverse: str = "auto",
        rngs: nnx.Rngs,
    ):
        super().__init__(event_size, context_size)
        self.transformer = Affine() if transformer is None else transformer
        require_transformer("transformer", self.transformer)
        self.conditioner = MaskedMLP(
            event_size,
            self.transformer.num_params,
            hidden_sizes,
            context_size=context_size,
            residual=residual,
            activation=activation,
            rngs=rngs,
        )
        self.hidden_sizes = self.conditioner.hidden_sizes
        self.residual = residual
        self.activation = activation
        self.method = _checks.one_of("inverse", inverse, METHODS)

    @property
    def is_affine_triangular(self) -> bool:
        return self.transformer.is_affine

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        y, log_det = self.transformer.forward_and_log_det(x, self.conditioner(x, context))
        return y, log_det.sum(axis=-1)

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        # Points in rows, and one dtype for all: what the solver works with.
        dtype = jnp.result_type(y, *jax.tree.leaves(self.conditioner))
        network, transformer, y, context = jax.tree.map(
            lambda a: a.astype(dtype), (self.conditioner, self.transformer, y, context)
        )
        if context is not None:
            if context.ndim > 1:
                context = jnp.broadcast_to(context, (*y.shape[:-1], context.shape[-1]))
            context = context.reshape(-1, context.shape[-1])
        points = y.reshape(-1, self.event_size)
        theta = inverse_parameters(self.method, network, transformer, points, context)
        x, log_det = transformer.inverse_and_log_det(
            y, theta.reshape(*y.shape, transformer.num_params)
        )
        return x, log_det.sum(axis=-1)

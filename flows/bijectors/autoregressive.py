"""Masked autoregressive layers: IAF in the forward direction, MAF in the inverse one."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from flows.bijectors.base import Bijector
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

    Cost: forward is one network pass; inverse is a sequence of D passes.

    Args:
        event_size: D, the number of coordinates; 1 is allowed.
        hidden_sizes: Width of each hidden layer of the network.
        context_size: Size of the context, or None.
        transformer: The univariate map T, affine by default.
        residual: Whether the network's hidden layers are residual.
        activation: The network's activation: "relu", "gelu", "silu" or "tanh".
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

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        y, log_det = self.transformer.forward_and_log_det(x, self.conditioner(x, context))
        return y, log_det.sum(axis=-1)

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        def solve_next(x: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
            params = self.conditioner(x, context)[..., i, :]  # x_0 .. x_{i-1} are known
            x_i, log_det_i = self.transformer.inverse_and_log_det(y[..., i], params)
            return x.at[..., i].set(x_i), log_det_i

        dtype = jnp.result_type(y, *jax.tree.leaves(self.conditioner))
        start = jnp.zeros(y.shape, dtype)
        x, log_det = jax.lax.scan(solve_next, start, jnp.arange(self.event_size))
        return x, log_det.sum(axis=0)

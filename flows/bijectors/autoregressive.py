"""Masked autoregressive layers: IAF in the forward direction, MAF in the inverse one."""

from collections.abc import Callable
from typing import Any

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
        context_size: Size of the context, or None.
        transformer: The univariate map T, affine by default.
        conditioner: Makes the network theta, called as `conditioner(event_size, num_params,
            context_size=..., rngs=..., **network)`; the network maps x [..., D] and context
            [..., context_size] or None to [..., D, num_params], whose entries i may depend on the
            entries of x before i alone: this is not checked.
        inverse: How the inverse is computed. "blocked" is forward substitution; "jacobi" repeats
            forward passes until nothing moves, at most D of them; "auto" is "blocked", or "jacobi"
            for a network that is no `flows.conditioners.MaskedMLP`.
        rngs: Source of the initial weights.
        **network: Options of the network: by default those of `flows.conditioners.MaskedMLP`,
            such as `hidden_sizes`.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = flows.bijectors.MaskedAutoregressive(3, rngs=nnx.Rngs(0))
        >>> y, log_det = layer.forward_and_log_det(jnp.ones((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))
    """

    def __init__(
        self,
        event_size: int,
        *,
        context_size: int | None = None,
        transformer: Transformer | None = None,
        conditioner: Callable[..., Any] = MaskedMLP,
        inverse: str = "auto",
        rngs: nnx.Rngs,
        **network: Any,
    ):
        super().__init__(event_size, context_size)
        self.transformer = Affine() if transformer is None else transformer
        require_transformer("transformer", self.transformer)
        self.conditioner = conditioner(
            event_size, self.transformer.num_params, context_size=context_size, rngs=rngs, **network
        )
        self.method = _checks.one_of("inverse", inverse, METHODS)
        if type(self.conditioner) is not MaskedMLP:  # a subclass may compute something else
            if inverse == "blocked":
                raise ValueError(
                    'inverse="blocked" needs a conditioner that makes flows.conditioners.MaskedMLP,'
                    f" got a {type(self.conditioner).__name__}."
                )
            self.method = "jacobi"

    @property
    def is_affine_triangular(self) -> bool:
        return self.transformer.is_affine

    def parameters(self, x: jax.Array, context: jax.Array | None) -> jax.Array:
        """theta(x) [..., D, num_params]."""
        params = self.conditioner(x, context)
        size = self.event_size, self.transformer.num_params
        if params.shape[-2:] != size:
            raise ValueError(
                f"conditioner must give parameters [..., {size[0]}, {size[1]}] for {self.name}, "
                f"got shape {params.shape}."
            )
        return jnp.broadcast_to(params, (*x.shape[:-1], *size))

    @property
    def univariate(self) -> tuple[Transformer, int]:
        return self.transformer, self.event_size

    def parameters_at(
        self, x: jax.Array, y: jax.Array, context: jax.Array | None
    ) -> list[jax.Array]:
        if hasattr(self.conditioner, "attempts"):
            return self.conditioner.attempts(x, context)
        return [self.parameters(x, context)]

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        y, log_det = self.transformer.forward_and_log_det(x, self.parameters(x, context))
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

"""The contract of every bijector, stated once."""

import abc

import distrax
import jax
import jax.numpy as jnp

from flows import _checks
from flows._recipes import Recorded
from flows.bijectors.compiled import compiled
from flows.bijectors.transformers.base import Transformer


class Bijector(Recorded, distrax.Bijector):
    """An invertible map of vectors [..., event_size], both an nnx module and a distrax bijector.

    Every subclass keeps this contract:

    - events are the last axis; all axes before it are batch axes, and log-determinants have the
      batch shape, broadcast against the batch shape of the context;
    - learnable arrays are `nnx.Param`, constant ones `Buffer`, everything else is static;
    - what is given to the constructor decides all else, so that `flows.save`, which records it,
      can make the bijector again;
    - a layer that learns starts at or near the identity.

    Subclasses implement `_forward_and_log_det(x, context)` and `_inverse_and_log_det(y, context)`;
    the public methods check shapes first, and are compiled: a call must not change the bijector.
    A bijector made of others calls theirs without the check, and says which its `parts` are: all
    that asks about structure asks these.

    Args:
        event_size: Size of the vectors.
        context_size: Size of the context vectors, or None if the map takes no context.
    """

    def __init__(self, event_size: int, context_size: int | None = None):
        super().__init__(event_ndims_in=1)
        self.event_size = _checks.positive_int("event_size", event_size)
        self.context_size = (
            None if context_size is None else _checks.positive_int("context_size", context_size)
        )

    @property
    def is_permutation(self) -> bool:
        """Whether it only changes the order of the coordinates."""
        return False

    @property
    def is_affine_triangular(self) -> bool:
        """Whether y_i = m_i + s_i x_i, where m_i and s_i depend on coordinates before i alone."""
        return False

    @property
    def parts(self) -> "tuple[Bijector, ...]":
        """The bijectors that it is made of; as in a composition the last one acts first."""
        return ()

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch shape of the contexts bound in it; () without one."""
        return jnp.broadcast_shapes((), *(part.batch_shape for part in self.parts))

    def composed_of(self) -> "tuple[Bijector, ...]":
        """The bijectors without parts that it composes, without the contexts bound to them."""
        return tuple(layer for part in self.parts for layer in part.composed_of()) or (self,)

    @abc.abstractmethod
    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Computes y = f(x) and log|det J(f)(x)|; x has the full batch shape."""

    @abc.abstractmethod
    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Computes x = f^-1(y) and log|det J(f^-1)(y)|; y has the full batch shape."""

    @property
    def univariate(self) -> tuple[Transformer, int] | None:
        """T, if y_i = T(x_i; theta_i) for the last K coordinates and y_i = x_i for the rest; and K.

        Then `parameters_at` gives theta.
        """
        return None

    def parameters_at(
        self, x: jax.Array, y: jax.Array, context: jax.Array | None
    ) -> list[jax.Array]:
        """Theta [..., K, num_params] where y = f(x), after attempts at it if there are any."""
        raise NotImplementedError(f"{self.name} has no univariate maps.")

    def forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Computes y = f(x; context) and log|det J(f)(x)|.

        Args:
            x: Points [..., event_size].
            context: Vectors [..., context_size] whose batch shape broadcasts against that of x.

        Returns:
            y [..., event_size] and the log-determinants [...].

        Raises:
            TypeError: `x` or `context` is no array of real numbers.
            ValueError: The last axis of `x` or `context` has the wrong size, their batch shapes do
                not agree, or a context is missing where one is needed or given where none is used.
        """
        return self._compiled_forward(
            _checks.floats(x, "x"), None if context is None else _checks.floats(context, "context")
        )

    def inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Computes x = f^-1(y; context) and log|det J(f^-1)(y)|; see `forward_and_log_det`."""
        return self._compiled_inverse(
            _checks.floats(y, "y"), None if context is None else _checks.floats(context, "context")
        )

    @compiled
    def _compiled_forward(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        x, context = self._check("x", x, context)
        return self._require_batch(x, *self._forward_and_log_det(x, context))

    @compiled
    def _compiled_inverse(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        y, context = self._check("y", y, context)
        return self._require_batch(y, *self._inverse_and_log_det(y, context))

    def forward(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        """Computes y = f(x; context)."""
        return self.forward_and_log_det(x, context)[0]

    def inverse(self, y: jax.Array, context: jax.Array | None = None) -> jax.Array:
        """Computes x = f^-1(y; context)."""
        return self.inverse_and_log_det(y, context)[0]

    def forward_log_det_jacobian(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        """Computes log|det J(f)(x)|."""
        return self.forward_and_log_det(x, context)[1]

    def inverse_log_det_jacobian(self, y: jax.Array, context: jax.Array | None = None) -> jax.Array:
        """Computes log|det J(f^-1)(y)|."""
        return self.inverse_and_log_det(y, context)[1]

    def _check(
        self, name: str, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Checks sizes and broadcasts x to the batch shape that it shares with contexts."""
        if x.ndim < 1 or x.shape[-1] != self.event_size:
            raise ValueError(
                f"{name} must have shape [..., {self.event_size}] for {self.name}, "
                f"got shape {x.shape}."
            )
        _checks.context_wanted("context", context is not None, self.context_size)
        if context is None:
            return self._in_batch(x, ()), None
        if context.ndim < 1 or context.shape[-1] != self.context_size:
            raise ValueError(
                f"context must have shape [..., {self.context_size}], got shape {context.shape}."
            )
        return self._in_batch(x, context.shape[:-1]), context

    def _in_batch(self, x: jax.Array, of_context: tuple[int, ...]) -> jax.Array:
        shapes = x.shape[:-1], self.batch_shape, of_context
        try:
            batch = jnp.broadcast_shapes(*shapes)
        except ValueError as error:
            raise ValueError(
                "points and contexts must have batch shapes that broadcast, got "
                f"{' and '.join(str(shape) for shape in shapes if shape)}."
            ) from error
        return jnp.broadcast_to(x, (*batch, self.event_size))

    def _require_batch(
        self, given: jax.Array, out: jax.Array, log_det: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Raises unless what a subclass computed is one vector and one number for each given."""
        batch = given.shape[:-1]
        if out.shape != given.shape or log_det.shape not in ((), batch):
            raise ValueError(
                f"{self.name} must map {given.shape} to {given.shape} and log-determinants "
                f"{batch}, summed over the event; got {out.shape} and {log_det.shape}."
            )
        return out, jnp.broadcast_to(log_det, batch)


def require_bijector(name: str, value: object) -> None:
    """Raises unless `value` is a `flows` bijector.

    A raw distrax container is refused here, because `nnx` cannot see the parameters inside one:
    an optimizer over it would silently train nothing.
    """
    if not isinstance(value, Bijector):
        raise TypeError(
            f"{name} must be a flows.bijectors.Bijector, got {type(value).__module__}."
            f"{type(value).__name__}. Inside distrax containers nnx cannot see parameters and "
            "training would silently do nothing: use flows.bijectors.Chain, "
            "flows.bijectors.Inverse and flows.Flow, and subclass flows.bijectors.Bijector for a "
            "map of your own."
        )

"""Two blocks of coordinates, the second of which is mapped given the first."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flows.bijectors.base import Bijector, require_bijector


@dataclasses.dataclass(frozen=True)
class TwoBlocks:
    """Which coordinates are in which of two blocks.

    Attributes:
        columns: Those of the first.
        others: Those of the second.
    """

    columns: tuple[int, ...]
    others: tuple[int, ...]

    @classmethod
    def of(cls, columns: Sequence[int], first_size: int, second_size: int) -> "TwoBlocks":
        """The blocks of `first_size` columns, and of `second_size` others.

        Raises:
            ValueError: `columns` are not so many, or not different, or out of range.
        """
        size = first_size + second_size
        first = tuple(int(column) for column in columns)
        second = tuple(i for i in range(size) if i not in first)
        if (len(first), len(second)) != (first_size, second_size):
            raise ValueError(
                f"columns must be {first_size} of the {size} coordinates, got {list(columns)}."
            )
        return cls(first, second)

    @property
    def order(self) -> np.ndarray:
        """Where the coordinates are when one block stands behind the other."""
        return np.argsort([*self.columns, *self.others])

    def split(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The two blocks of x [..., D]."""
        return x[..., np.array(self.columns)], x[..., np.array(self.others)]

    def joined(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """The inverse of `split`."""
        return jnp.concatenate([first, second], axis=-1)[..., self.order]


class Blocks(Bijector):
    r"""The map y_A = f(x_A; c), y_B = g(x_B; features(y_A), c) of two blocks of coordinates.

    With it p(y) = p(y_A) p(y_B | y_A), whatever the layers of f and g: angles and numbers, say.

    Args:
        columns: The coordinates A; B are all others.
        first: f, with the context c or without.
        second: g, whose context is features(y_A) and, where there is one, c behind it.
        features: Maps y_A [...] to what g sees of it [..., F], such as `flows.conditioners.circle`.

    Cost: the sum of the two, in either direction.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> from flax import nnx
        >>> from flows import conditioners
        >>> from flows.bijectors import Coupling, Elementwise
        >>> second = Coupling(2, context_size=2, rngs=nnx.Rngs(0))
        >>> blocks = flows.bijectors.Blocks([1], Elementwise(1), second, conditioners.circle)
        >>> blocks.forward(jnp.ones((5, 3))).shape
        (5, 3)
    """

    def __init__(
        self,
        columns: Sequence[int],
        first: Bijector,
        second: Bijector,
        features: Callable[[jax.Array], jax.Array],
    ):
        require_bijector("first", first)
        require_bijector("second", second)
        super().__init__(first.event_size + second.event_size, first.context_size)
        self.blocks = TwoBlocks.of(columns, first.event_size, second.event_size)
        self.first, self.second, self.features = first, second, features
        seen = jax.eval_shape(self._seen, jnp.zeros(first.event_size), None).shape[-1]
        wanted = seen + (first.context_size or 0)
        if second.context_size != wanted:
            raise ValueError(
                f"second must have context_size={wanted}, that of the features of first and its "
                f"context, got {second.context_size}."
            )

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return jnp.broadcast_shapes(self.first.batch_shape, self.second.batch_shape)

    def _seen(self, y: jax.Array, context: jax.Array | None) -> jax.Array:
        """The context of the second block."""
        features = self.features(y).reshape(*y.shape[:-1], -1)
        if context is None:
            return features
        context = jnp.broadcast_to(context, (*y.shape[:-1], context.shape[-1]))
        return jnp.concatenate([features, context.astype(features.dtype)], axis=-1)

    def _forward_and_log_det(
        self, x: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        x_first, x_second = self.blocks.split(x)
        first, log_det = self.first._forward_and_log_det(x_first, context)
        second, log_det_second = self.second._forward_and_log_det(
            x_second, self._seen(first, context)
        )
        return self.blocks.joined(first, second), log_det + log_det_second

    def _inverse_and_log_det(
        self, y: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        y_first, y_second = self.blocks.split(y)
        first, log_det = self.first._inverse_and_log_det(y_first, context)
        second, log_det_second = self.second._inverse_and_log_det(
            y_second, self._seen(y_first, context)
        )
        return self.blocks.joined(first, second), log_det + log_det_second

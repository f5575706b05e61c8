"""One transformer after another."""

import functools
import itertools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from flows.bijectors.transformers.base import Reference, Transformer, require_transformer


class Composed(Transformer):
    """The map T_1(T_2(... T_n(x; p_n) ...; p_2); p_1): the last is applied first, as in `Chain`.

    Its parameters are those of T_1, then those of T_2, and so on.

    Args:
        transformers: The maps, at least one; all on the real line, or all on the circle.

    Cost: the sum of its parts'.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> from flows.bijectors import Affine
        >>> T = flows.bijectors.Composed([Affine(), Affine()])
        >>> y, log_det = T.forward_and_log_det(jnp.array(1.0), jnp.array([0.5, 0.0, 0.25, 0.0]))
        >>> float(y), float(log_det)
        (1.75, 0.0)
    """

    def __init__(self, transformers: Sequence[Transformer]):
        for i, transformer in enumerate(transformers):
            require_transformer(f"transformers[{i}]", transformer)
        if len({transformer.reference.log_density for transformer in transformers}) != 1:
            raise ValueError(
                "transformers must be at least one, all on the real line or all on the circle, got "
                f"{[type(transformer).__name__ for transformer in transformers]}."
            )
        self.transformers = nnx.List(transformers)

    @property
    def num_params(self) -> int:
        return sum(transformer.num_params for transformer in self.transformers)

    @property
    def is_affine(self) -> bool:
        return all(transformer.is_affine for transformer in self.transformers)

    @property
    def reference(self) -> Reference:  # type: ignore[override]
        return self.transformers[0].reference

    def forward_and_log_det(self, x: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_dets = []
        for transformer, own in reversed(self._with_params(params)):
            x, log_det = transformer.forward_and_log_det(x, own)
            log_dets.append(log_det)
        return x, functools.reduce(operator.add, log_dets)

    def inverse_and_log_det(self, y: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_dets = []
        for transformer, own in self._with_params(params):
            y, log_det = transformer.inverse_and_log_det(y, own)
            log_dets.append(log_det)
        return y, functools.reduce(operator.add, log_dets)

    def _with_params(self, params: jax.Array) -> list[tuple[Transformer, jax.Array]]:
        """Each map with its own parameters."""
        sizes = [transformer.num_params for transformer in self.transformers]
        parts = jnp.split(params, list(itertools.accumulate(sizes[:-1])), axis=-1)
        return list(zip(self.transformers, parts, strict=True))

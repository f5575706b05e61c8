"""The objective of density fitting."""

import dataclasses
from typing import Any

import jax

from flows.conditioners import compute_in
from flows.distributions import Flow


def negative_log_likelihood(flow: Flow, batch: Any, key: jax.Array) -> jax.Array:
    """-w log p(x | c) for a batch (x, c or None, w or None)."""
    del key
    x, context, weights = batch
    loss = -(flow if context is None else flow.condition(context)).log_prob(x)
    return loss if weights is None else weights * loss


@dataclasses.dataclass(frozen=True)
class MaximumLikelihood:
    """The objective of `fit`.

    Attributes:
        widths: Of the uniform noise added to each column [D], fresh in every step; or None.
        compute_dtype: In which the conditioners compute; None for that of their parameters.
    """

    widths: jax.Array | None = None
    compute_dtype: Any = None

    def __call__(self, flow: Flow, batch: Any, key: jax.Array) -> jax.Array:
        x, context, weights = batch
        if self.widths is not None:
            x = x + self.widths * jax.random.uniform(key, x.shape, x.dtype)
        with compute_in(self.compute_dtype):
            return negative_log_likelihood(flow.dequantized(), (x, context, weights), key)

"""The objective of density fitting."""

import dataclasses
from typing import Any

import jax

from flows.conditioners import compute_in
from flows.distributions import Flow
from flows.supports import to_real


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
        jitter: Standard deviations of the normal noise added to each column [D], on the real line
            that supports are mapped to; or None.
        compute_dtype: In which the conditioners compute; None for that of their parameters.
    """

    widths: jax.Array | None = None
    jitter: jax.Array | None = None
    compute_dtype: Any = None

    def __call__(self, flow: Flow, batch: Any, key: jax.Array) -> jax.Array:
        x, context, weights = batch
        if self.widths is not None:
            x = x + self.widths * jax.random.uniform(key, x.shape, x.dtype)
        density, log_det = flow.dequantized(), 0.0
        if self.jitter is not None:
            if density.support is not None:
                x, log_det = to_real(density.support, x)
                density = density.unconstrained()
            normal_key = jax.random.fold_in(key, 1)
            x = x + self.jitter * jax.random.normal(normal_key, x.shape, x.dtype)
        with compute_in(self.compute_dtype):
            loss = negative_log_likelihood(density, (x, context, weights), key)
        return loss - log_det if weights is None else loss - weights * log_det

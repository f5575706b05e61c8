"""Values and rows that repeat: the noise for the ones, and a warning of the others."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows import _checks
from flows._columns import sample_of
from flows.supports import Columns, of_kind, unconstrained

COPIES = 0.1  # the share of rows that may repeat others


def noise_widths(
    dequantize: Any, steps: np.ndarray, columns: Columns | None = None
) -> jax.Array | None:
    """Widths [D] of the noise that `fit` adds; warns of columns that need some and get none."""
    whole = np.zeros(len(steps), bool) if columns is None else of_kind(columns, "integers")
    steps = np.where(whole, 1.0, steps)
    if dequantize is None:
        widths = np.where(whole, 1.0, 0.0)
    elif dequantize is True:
        widths = steps
    else:
        _checks.numbers("dequantize", np.asarray(dequantize))
        widths = np.asarray(dequantize, float)
        if widths.shape not in {(), steps.shape} or not (widths >= 0).all():
            raise ValueError(
                "dequantize must be True, or a width of at least 0, or one for each of the "
                f"{len(steps)} columns, got {dequantize!r}."
            )
        widths = np.broadcast_to(widths, steps.shape)
        refused = np.flatnonzero(whole & (widths != 1) & (widths != 0))
        if refused.size:
            raise ValueError(
                f"dequantize is {widths[refused[0]]:g} for column {refused[0]}, whose support is "
                "integers: noise there is 1 wide."
            )
        widths = np.where(whole, 1.0, widths)
    bare = np.flatnonzero((steps > 0) & (widths == 0))
    if bare.size:
        warnings.warn(
            f"x column {bare[0]} takes few distinct values, {steps[bare[0]]:g} apart or more "
            f"({bare.size} such columns): its density can run away to infinity. Pass "
            "dequantize=True, or the widths of the noise to add, or drop the column.",
            stacklevel=4,
        )
    return jnp.asarray(widths) if widths.any() else None


def jitter_of(
    jitter: Any, x: Any, columns: Columns | None, weights: Any = None
) -> jax.Array | None:
    """Standard deviations [D] of the noise that is `jitter` times those of the columns of x.

    Those of angles are sqrt(-2 log R), with R the length of the mean direction, and 1 at most.
    """
    if jitter is None:
        return None
    _checks.positive("jitter", jitter)
    sample = sample_of(x)
    share = None if weights is None else sample_of(np.asarray(weights)[:, None])[:, 0]
    if columns is not None:
        sample = unconstrained(columns, sample)
    sample = sample.astype(np.float64)
    mean = np.average(sample, axis=0, weights=share)
    scale = np.sqrt(np.average((sample - mean) ** 2, axis=0, weights=share))
    if columns is not None:
        direction = abs(np.average(np.exp(1j * sample), axis=0, weights=share))
        turned = np.minimum(np.sqrt(-2 * np.log(np.clip(direction, 1e-3, 1))), 1)
        scale = np.where(of_kind(columns, "circle"), turned, scale)
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(
            f"jitter is a multiple of the columns' standard deviations, and these are {scale} in "
            "the rows looked at (of an iterable the first batch)."
        )
    return jnp.asarray(jitter * scale, jnp.result_type(float))


def warn_of_copies(x: Any, context: Any) -> None:
    """Warns if many rows repeat others, told by a random projection."""
    values = np.asarray(x if context is None else np.concatenate([x, context], axis=1), float)
    projected = values @ np.random.default_rng(0).normal(size=values.shape[1])
    num_copies = len(x) - len(np.unique(projected))
    if num_copies > COPIES * len(x):
        warnings.warn(
            f"{num_copies} of the {len(x)} rows of x repeat others. Copies of one row fall into "
            "both the training and the held-out part, and hide overfitting: drop them, or pass "
            "validation rows of your own, or, if values were rounded, dequantize=widths.",
            stacklevel=4,
        )

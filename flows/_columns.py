"""What the columns of data are like, whether these are in memory or on disk."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from flows import _disk

SAMPLE = 10_000  # rows looked at to see how many values a column takes


def moments(
    x: Any,
    product: Callable[[np.ndarray], np.ndarray],
    mapped: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and second central moments of rows, read a block at a time, in float64.

    Args:
        x: Finite rows [N, D].
        product: Sums the products wanted over rows: `lambda rows: rows.T @ rows` for a covariance.
        mapped: Maps a block of rows, and the number of the first, to those wanted.

    Returns:
        The mean [D] and the moments, both divided by N.
    """
    # About the mean of the first block: offsets cost no digits, and where that block is unlike the
    # others they vary the more.
    total: Any = 0.0
    products: Any = 0.0
    for first, block in _disk.blocks(x):
        block = block.astype(np.float64) if mapped is None else mapped(block, first)
        if not first:
            origin = block.mean(axis=0)
        block -= origin
        total, products = total + block.sum(axis=0), products + product(block)
    mean = total / len(x)
    return origin + mean, products / len(x) - product(mean[None])


def sample_of(x: Any) -> np.ndarray:
    """At most SAMPLE rows, spread over all."""
    return _disk.take(x, np.arange(0, len(x), -(-len(x) // SAMPLE)), jnp.result_type(float))


def steps_between_values(x: Any) -> np.ndarray:
    """Smallest step between the values of columns [D] that take few; 0 for all other columns.

    A column with so few values that rows share them, such as counts, has no density: the
    likelihood grows without bound as a flow sharpens on them.
    """
    sample = sample_of(x)
    few = max(0.05 * len(sample), min(10, 0.5 * len(sample)))

    def step(column: np.ndarray) -> float:
        values = np.unique(column[np.isfinite(column)])
        if not 1 < len(values) < few:
            return 0.0
        steps = np.diff(values.astype(np.float64))
        steps = steps[steps > 4 * np.spacing(np.abs(values).max())]  # others are rounding
        return float(steps.min()) if len(steps) else 0.0

    return np.array([step(column) for column in sample.T])

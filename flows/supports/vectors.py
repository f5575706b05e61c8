"""Supports of whole vectors and matrices, for the parameters of a model."""

import dataclasses
from collections.abc import Callable
from typing import Any

from tensorflow_probability.substrates.jax import bijectors as tfb


@dataclasses.dataclass(frozen=True)
class VectorSupport:
    """Where a vector, or a matrix, may lie: use `simplex`, `ordered` or `correlation_cholesky`.

    Attributes:
        name: What it is called.
        make: Makes the TFP bijector from vectors of real numbers onto it.
        rank: Number of the last axes that belong to one vector (1) or matrix (2).
    """

    name: str
    make: Callable[[], Any]
    rank: int

    def __str__(self) -> str:
        return self.name


simplex = VectorSupport("simplex", tfb.IteratedSigmoidCentered, rank=1)
ordered = VectorSupport("ordered", tfb.Ascending, rank=1)
correlation_cholesky = VectorSupport("correlation_cholesky", tfb.CorrelationCholesky, rank=2)

"""Two independent distributions side by side."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from flows.bijectors.blocks import TwoBlocks
from flows.distributions.bases import Distribution


class Product(Distribution):
    """Two independent distributions side by side: p(x) = p(x_A) p(x_B).

    Args:
        columns: The coordinates A of the first; the second has all others.
        first: Distribution of x_A.
        second: Distribution of x_B.

    Examples:
        >>> import flows, jax
        >>> from flows.distributions import Product
        >>> product = Product([2], flows.CircularUniform(1), flows.StandardNormal(2))
        >>> product.sample(seed=jax.random.key(0)).shape
        (3,)
    """

    def __init__(self, columns: Sequence[int], first: Distribution, second: Distribution):
        super().__init__(first.event_size + second.event_size)
        self.blocks = TwoBlocks.of(columns, first.event_size, second.event_size)
        self.first, self.second = first, second

    @property
    def space(self) -> Any:
        parts = (self.first, self.second)
        spaces = [(d.space,) * d.event_size if isinstance(d.space, str) else d.space for d in parts]
        return tuple(np.concatenate(spaces)[self.blocks.order].tolist())

    def from_normals(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        noise = self._points("noise", noise)
        first, second = self.blocks.split(noise)
        first, log_first = self.first.from_normals(first)
        second, log_second = self.second.from_normals(second)
        return self.blocks.joined(first, second), log_first + log_second

    def widened(self, factor: float) -> Distribution:
        parts = (part.widened(factor) for part in (self.first, self.second))
        return Product(self.blocks.columns, *parts)

    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        keys = jax.random.split(key)
        first = self.first.sample(seed=keys[0], sample_shape=n)
        return self.blocks.joined(first, self.second.sample(seed=keys[1], sample_shape=n))

    @property
    def is_reparameterized(self) -> bool:
        return self.first.is_reparameterized and self.second.is_reparameterized

    def weighted_sample(
        self, *, seed: jax.Array, sample_shape: tuple[int, ...] = ()
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        first, second = (
            part.weighted_sample(seed=key, sample_shape=sample_shape)
            for part, key in zip((self.first, self.second), jax.random.split(seed), strict=True)
        )
        return (
            self.blocks.joined(first[0], second[0]), first[1] + second[1], first[2] * second[2],
        )  # fmt: skip

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density at value [..., event_size]."""
        first, second = self.blocks.split(self._points("value", value))
        return self.first.log_prob(first) + self.second.log_prob(second)

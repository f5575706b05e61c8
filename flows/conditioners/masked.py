"""The masked multilayer perceptron (MADE): the conditioner of autoregressive bijectors."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flows import _checks
from flows.conditioners.mlp import MLP, product

SPLIT_WIDTH, SPLIT_BATCH = 512, 64
"""Fan-in and fan-out, and number of points, from which a product is made in two halves.

The first half of the outputs sees only the first half of the inputs, so a quarter of the product
is saved; where it is small, two products cost more than that.
"""


class MaskedMLP(MLP):
    r"""An MLP [..., D] -> [..., D, P] whose output i depends on inputs 0 .. i-1 only.

    Input i has degree i + 1; a hidden unit of degree m sees the units before it of degree <= m;
    output i sees the hidden units of degree <= i. The context has degree 0: all may see it.
    Hidden units are sorted by degree, so every masked weight matrix is block triangular.

    Source: Germain et al. 2015, MADE, arXiv:1502.03509 (masks); Nash & Durkan 2019,
    arXiv:1904.05626 (residual blocks that keep the degrees).

    Args:
        event_size: D, the number of coordinates.
        num_params: P, the number of outputs for each coordinate.
        hidden_sizes: Width of each hidden layer; any widths, also below D.
        context_size: Size of the context, or None for no context.
        rngs: Source of the initial weights.
        **options: As in `MLP`.

    Cost: one pass, parallel over batch and coordinates.
    """

    def __init__(
        self,
        event_size: int,
        num_params: int,
        hidden_sizes: Sequence[int] = (64, 64),
        *,
        context_size: int | None = None,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        super().__init__(
            event_size - 1,  # no output sees the last coordinate
            event_size * num_params,
            hidden_sizes,
            context_size=context_size,
            rngs=rngs,
            **options,
        )
        self.event_size = event_size
        self.num_params = num_params

    def options(self) -> dict[str, Any]:
        """All that it was made with, its sizes and random weights aside."""
        sizes = ("event_size", "num_params", "context_size", "rngs")
        return {name: value for name, value in self.recipe.arguments() if name not in sizes}

    def degrees(self) -> list[np.ndarray]:
        """The degrees of the inputs, of each hidden layer's units and of the outputs, sorted."""
        size = self.event_size
        lowest = 0 if self.context_size or size == 1 else 1  # degree 0 sees the context alone
        inputs = np.repeat(np.arange(1, size), self.num_features)
        hidden = [lowest + np.arange(n) * (size - lowest) // n for n in self.hidden_sizes]
        outputs = np.repeat(np.arange(size), self.num_params)
        return [inputs, *hidden, outputs]

    def masks(self) -> list[np.ndarray]:
        """The mask [fan_in, fan_out] of each layer: true where the degree does not fall."""
        degrees = self.degrees()
        return [before[:, None] <= after for before, after in itertools.pairwise(degrees)]

    def linear(self, layer: int, x: jax.Array) -> jax.Array:
        """Applies the masked affine map of one layer."""
        mask = self.masks()[layer]
        small = _checks.at_most(math.prod(x.shape[:-1]), SPLIT_BATCH - 1)
        split = min(mask.shape) >= SPLIT_WIDTH and not small
        multiply = _masked_product(mask, num_parts=2 if split else 1)
        return multiply(x, self.layers[layer].kernel[...]) + self.layers[layer].offset()

    def hidden(self, x: jax.Array, context: jax.Array | None = None) -> list[jax.Array]:
        """As `MLP.hidden`, for x [..., D]."""
        return super().hidden(x[..., :-1], context)

    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        """Maps x [..., D] (and context [..., context_size]) to parameters [..., D, P]."""
        out = super().__call__(x, context)
        return out.reshape(*out.shape[:-1], self.event_size, self.num_params)


def _masked_product(
    mask: np.ndarray, num_parts: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """x, kernel -> x @ where(mask, kernel, 0) for a block triangular mask, a part at a time.

    The masked weights are not kept for the gradient but made again: a write of their size less,
    which at batch 1 is half the gradient's time.
    """

    @jax.checkpoint
    def multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
        parts = []
        for part in np.array_split(np.arange(mask.shape[1]), num_parts):
            columns = slice(part[0], part[-1] + 1)
            rows = slice(0, int(mask[:, columns].any(axis=1).sum()))  # those that are not all zero
            part_of_kernel = jnp.where(mask[rows, columns], kernel[rows, columns], 0)
            parts.append(product(x[..., rows], part_of_kernel))
        return jnp.concatenate(parts, axis=-1)

    return multiply

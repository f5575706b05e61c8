"""What the loop asks of a source of batches, and what sources share."""

import dataclasses
import math
from collections.abc import Generator
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from flows.training.shuffle import shuffled

NEVER = 2**31 - 1  # steps
BLOCK_BYTES = 2**24  # about what a block of batches from disk or an iterable may hold
BLOCK_BATCHES = 64

Blocks = Generator[tuple[Any, float] | None, None, None]


class Source(Protocol):
    """Where batches come from: arrays in memory, arrays on disk, an iterable, or nowhere."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches between two looks at the validation data."""

    @property
    def example(self) -> Any:
        """The shapes and dtypes of a batch; None without data."""

    def fingerprint(self) -> Any:
        """What can be told of the data without reading all of it, as arrays."""

    def blocks(self, first: int) -> Blocks:
        """The blocks from step `first` on, each with the step at which it ends.

        A block is a pytree with a method `batch(step)`, to be called inside the compiled loop.
        None stands for one that is still on its way.
        """


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Nothing:
    """For objectives that draw what they need: the source, and its only block."""

    @property
    def steps_per_epoch(self) -> int:
        return NEVER

    @property
    def example(self) -> None:
        return None

    def fingerprint(self) -> None:
        return None

    def blocks(self, first: int) -> Blocks:
        yield self, math.inf

    def batch(self, step: jax.Array) -> None:
        return None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
    """The batches of successive steps: arrays [batches, batch_size, ...]."""

    arrays: Any
    first: jax.Array

    def batch(self, step: jax.Array) -> Any:
        return jax.tree.map(lambda array: array[step - self.first], self.arrays)


def batches_per_block(example: Any) -> int:
    """How many batches like this one make a block."""
    size = sum(math.prod(array.shape) * array.dtype.itemsize for array in jax.tree.leaves(example))
    return max(1, min(BLOCK_BATCHES, BLOCK_BYTES // max(size, 1)))


def rows_of_step(key: jax.Array, num_rows: int, batch_size: int, step: jax.Array) -> jax.Array:
    """The rows [batch_size] of a step: each epoch has an order of its own, less its remainder."""
    steps = num_rows // batch_size
    positions = step % steps * batch_size + jnp.arange(batch_size)
    return shuffled(jax.random.fold_in(key, step // steps), num_rows, positions)


def require_rows(batch_size: int, num_rows: int) -> None:
    """Raises ValueError if a batch would need more rows than there are."""
    if batch_size > num_rows:
        raise ValueError(f"batch_size is {batch_size}, more than the {num_rows} rows of data.")

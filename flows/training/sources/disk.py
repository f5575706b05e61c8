"""Arrays larger than memory: the rows of a few batches are read at a time, ahead of need."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flows import _checks
from flows._disk import take
from flows.training.sources.base import (
    Block,
    Blocks,
    batches_per_block,
    require_rows,
    rows_of_step,
)
from flows.training.sources.stream import ahead

SAMPLE = 4096  # rows that a checkpoint is compared by


@dataclasses.dataclass(frozen=True)
class OnDisk:
    """Arrays on disk.

    Attributes:
        arrays: Pytree of arrays with equal leading axes, such as `numpy.memmap`.
        num_rows: Number of rows to train on.
        select: Maps positions 0 .. num_rows - 1 to rows of the arrays.
    """

    arrays: Any
    num_rows: int
    select: Callable[[jax.Array], jax.Array] = lambda positions: positions

    def read(self, rows: np.ndarray) -> Any:
        """The given rows of all arrays, read in the order in which they lie on disk."""
        return jax.tree.map(lambda array: take(array, rows, jnp.result_type(float)), self.arrays)


class FromDisk:
    """The source that reads an `OnDisk`."""

    def __init__(self, data: OnDisk, key: jax.Array, batch_size: int, num_steps: int, mesh: Mesh):
        _checks.num_rows("data", data.arrays)
        require_rows(batch_size, data.num_rows)
        self.data, self.num_steps = data, num_steps
        self.steps_per_epoch = data.num_rows // batch_size
        dtype = jnp.result_type(float)
        self.example = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), dtype), data.arrays
        )
        self.num_batches = batches_per_block(self.example)
        self.sharding = NamedSharding(mesh, PartitionSpec(None, "data"))

        @jax.jit
        def rows_of_block(start):
            rows = functools.partial(rows_of_step, key, data.num_rows, batch_size)
            return data.select(jax.vmap(rows)(start + jnp.arange(self.num_batches)))

        self.rows_of_block = rows_of_block

    def fingerprint(self) -> Any:
        rows = np.linspace(0, self.data.num_rows - 1, SAMPLE).astype(int)
        return self.data.num_rows, self.data.read(np.asarray(self.data.select(jnp.asarray(rows))))

    def blocks(self, first: int) -> Blocks:
        starts = range(first, self.num_steps, self.num_batches)
        for found in ahead((self._read(start) for start in starts), 1):
            yield found[0] if found else None

    def _read(self, start: int) -> tuple[Block, int]:
        rows = np.asarray(self.rows_of_block(start))

        def place(array):
            return jax.make_array_from_callback(
                (*rows.shape, *array.shape[1:]),
                self.sharding,
                lambda index: take(array, rows[index[:2]], jnp.result_type(float)),  # type: ignore[index]
            )

        block = Block(jax.tree.map(place, self.data.arrays), jnp.asarray(start))
        return block, start + self.num_batches

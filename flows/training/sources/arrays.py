"""Arrays in memory, shuffled on the device."""

import dataclasses
import functools
import math
from typing import Any

import jax
from jax.sharding import Mesh

from flows import _checks
from flows.training.sharding import replicate, split_batch
from flows.training.sources.base import Blocks, require_rows, rows_of_step


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["arrays", "key"],
    meta_fields=["batch_size", "mesh"],
)
@dataclasses.dataclass(frozen=True)
class InMemory:
    """Arrays with equal leading axes: the source, and its only block."""

    arrays: Any
    key: jax.Array
    batch_size: int
    mesh: Mesh

    @classmethod
    def open(cls, arrays: Any, key: jax.Array, batch_size: int, mesh: Mesh) -> "InMemory":
        """Puts the arrays on all devices of the mesh."""
        require_rows(batch_size, _checks.num_rows("data", arrays))
        return cls(replicate(arrays, mesh), replicate(key, mesh), batch_size, mesh)

    @property
    def num_rows(self) -> int:
        return len(jax.tree.leaves(self.arrays)[0])

    @property
    def steps_per_epoch(self) -> int:
        return self.num_rows // self.batch_size

    @property
    def example(self) -> Any:
        return jax.eval_shape(self.batch, 0)

    def fingerprint(self) -> Any:
        return self.arrays

    def blocks(self, first: int) -> Blocks:
        yield self, math.inf

    def batch(self, step: jax.Array) -> Any:
        rows = rows_of_step(self.key, self.num_rows, self.batch_size, step)
        return split_batch(jax.tree.map(lambda array: array[rows], self.arrays), self.mesh)

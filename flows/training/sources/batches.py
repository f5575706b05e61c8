"""An iterable of batches, trained on as they come."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flows import _checks
from flows.training.sharding import smallest
from flows.training.sources.base import Block, Blocks, batches_per_block
from flows.training.sources.stream import NOTHING, Begun, again, ahead


@dataclasses.dataclass(frozen=True)
class Batches:
    """An iterable of batches, each a pytree of arrays [batch_size, ...].

    Attributes:
        iterable: Begun again whenever it is exhausted; one that then gives nothing, such as an
            iterator, ends the run. What came before an error is trained on.
        steps_per_epoch: Batches between two looks at the validation data.
        convert: Applied to each batch: checks it, and returns numpy arrays.
    """

    iterable: Iterable
    steps_per_epoch: int
    convert: Callable[[Any], Any] = lambda batch: batch


class FromBatches:
    """The source that draws from a `Batches`."""

    def __init__(self, data: Batches, num_steps: int, mesh: Mesh):
        self.stream = Begun(data.iterable)
        if self.stream.first is NOTHING:
            raise ValueError("data is an iterable of batches, but gives none.")
        self.first_batch = data.convert(self.stream.first)
        _checks.num_rows("the first batch of data", self.first_batch)
        self.convert, self.num_steps = data.convert, num_steps
        self.steps_per_epoch = data.steps_per_epoch
        self.example = _shapes(self.first_batch)
        self.num_batches = batches_per_block(self.example)
        self.sharding = NamedSharding(mesh, PartitionSpec(None, "data"))

    def fingerprint(self) -> Any:
        return self.first_batch

    def blocks(self, first: int) -> Blocks:
        left = itertools.islice(again(self.stream), first, self.num_steps)
        for some in ahead((self._converted(batch) for batch in left), self.num_batches):
            if not some:
                yield None
            while some:
                number = smallest(len(some))
                yield Block(self._place(some[:number]), jnp.asarray(first)), first + number
                first, some = first + number, some[number:]

    def _converted(self, batch: Any) -> Any:
        batch = self.convert(batch)
        if _shapes(batch) != self.example:
            raise ValueError(
                f"data gives a batch of {_shapes(batch)} after one of {self.example}: all must be "
                "alike."
            )
        return batch

    def _place(self, some: list[Any]) -> Any:
        padded = some + some[-1:] * (self.num_batches - len(some))  # so that all blocks are alike

        def put(*arrays):
            stacked = np.stack(arrays)
            return jax.make_array_from_callback(stacked.shape, self.sharding, stacked.__getitem__)

        return jax.tree.map(put, *padded)


def _shapes(batch: Any) -> Any:
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), batch)

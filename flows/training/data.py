"""Where batches come from: arrays in memory, arrays on disk, or an iterable of batches.

The loop asks a source for `blocks(first)`: pytrees with a method `batch(step)`, to be called inside
the compiled loop, each with the step at which it ends.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Generator, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flows import _checks
from flows._disk import take
from flows.training.sharding import replicate, smallest, split_batch
from flows.training.shuffle import shuffled
from flows.training.stream import NOTHING, Begun, again, ahead

NEVER = 2**31 - 1  # steps
BLOCK_BYTES = 2**24  # about what a block of batches from disk or an iterable may hold
BLOCK_BATCHES = 64
SAMPLE = 4096  # rows on disk that a checkpoint is compared by


@dataclasses.dataclass(frozen=True)
class OnDisk:
    """Arrays larger than memory: the rows of a few batches are read at a time, ahead of need.

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


@dataclasses.dataclass(frozen=True)
class Source:
    """What the loop draws from: see the module.

    Attributes:
        steps_per_epoch: Batches between two looks at the validation data.
        example: The shapes and dtypes of a batch; None without data.
        fingerprint: Returns what can be told of the data without reading all of it, as arrays.
        blocks: Returns the blocks from a step on, or None where the next is still on its way.
    """

    steps_per_epoch: int
    example: Any
    fingerprint: Callable[[], Any]
    blocks: Callable[[int], Generator[Any, None, None]]


def source(data: Any, key: jax.Array, batch_size: int, num_steps: int, mesh: Mesh) -> Source:
    """The source for a pytree of arrays, an `OnDisk`, a `Batches`, or None for no data."""
    if data is None:
        return Source(NEVER, None, lambda: None, lambda first: _endless(NoData()))
    if isinstance(data, Batches):
        return _of_batches(data, num_steps, mesh)
    on_disk = isinstance(data, OnDisk)
    num_rows = _checks.num_rows("data", data.arrays if on_disk else data)
    num_rows = data.num_rows if on_disk else num_rows
    if batch_size > num_rows:
        raise ValueError(f"batch_size is {batch_size}, more than the {num_rows} rows of data.")
    if on_disk:
        return _of_disk(data, key, batch_size, num_steps, mesh)
    block = InMemory(replicate(data, mesh), replicate(key, mesh), batch_size, mesh)
    example = jax.eval_shape(block.batch, 0)
    return Source(num_rows // batch_size, example, lambda: data, lambda first: _endless(block))


def _endless(block: Any) -> Generator[tuple[Any, float], None, None]:
    yield block, math.inf


def rows_of_step(key: jax.Array, num_rows: int, batch_size: int, step: jax.Array) -> jax.Array:
    """The rows [batch_size] of a step: each epoch has an order of its own, less its remainder."""
    steps = num_rows // batch_size
    positions = step % steps * batch_size + jnp.arange(batch_size)
    return shuffled(jax.random.fold_in(key, step // steps), num_rows, positions)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoData:
    """For objectives that draw what they need."""

    def batch(self, step: jax.Array) -> None:
        return None


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["arrays", "key"],
    meta_fields=["batch_size", "mesh"],
)
@dataclasses.dataclass(frozen=True)
class InMemory:
    """Arrays on the device, shuffled there."""

    arrays: Any
    key: jax.Array
    batch_size: int
    mesh: Mesh

    @property
    def num_rows(self) -> int:
        return len(jax.tree.leaves(self.arrays)[0])

    def batch(self, step: jax.Array) -> Any:
        rows = rows_of_step(self.key, self.num_rows, self.batch_size, step)
        return split_batch(jax.tree.map(lambda array: array[rows], self.arrays), self.mesh)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
    """The batches of successive steps: arrays [batches, batch_size, ...]."""

    arrays: Any
    first: jax.Array

    def batch(self, step: jax.Array) -> Any:
        return jax.tree.map(lambda array: array[step - self.first], self.arrays)


def _of_disk(data: OnDisk, key: jax.Array, batch_size: int, num_steps: int, mesh: Mesh) -> Source:
    dtype = jnp.result_type(float)
    example = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), dtype), data.arrays
    )
    num_batches = _num_batches(example)

    @jax.jit
    def rows_of_block(start):
        rows = functools.partial(rows_of_step, key, data.num_rows, batch_size)
        return data.select(jax.vmap(rows)(start + jnp.arange(num_batches)))

    def read(start: int) -> tuple[Block, int]:
        rows = np.asarray(rows_of_block(start))

        def place(array):
            return jax.make_array_from_callback(
                (*rows.shape, *array.shape[1:]),
                NamedSharding(mesh, PartitionSpec(None, "data")),
                lambda index: take(array, rows[index[:2]], dtype),  # type: ignore[index]
            )

        return Block(jax.tree.map(place, data.arrays), jnp.asarray(start)), start + num_batches

    def blocks(first: int) -> Generator[Any, None, None]:
        for found in ahead((read(start) for start in range(first, num_steps, num_batches)), 1):
            yield found[0] if found else None

    def fingerprint() -> Any:
        rows = np.linspace(0, data.num_rows - 1, SAMPLE).astype(int)
        return data.num_rows, data.read(np.asarray(data.select(jnp.asarray(rows))))

    return Source(data.num_rows // batch_size, example, fingerprint, blocks)


def _of_batches(data: Batches, num_steps: int, mesh: Mesh) -> Source:
    stream = Begun(data.iterable)
    if stream.first is NOTHING:
        raise ValueError("data is an iterable of batches, but gives none.")
    first_batch = data.convert(stream.first)
    _checks.num_rows("the first batch of data", first_batch)
    example = _shapes(first_batch)
    num_batches = _num_batches(example)

    def convert(batch: Any) -> Any:
        batch = data.convert(batch)
        if _shapes(batch) != example:
            raise ValueError(
                f"data gives a batch of {_shapes(batch)} after one of {example}: all must be alike."
            )
        return batch

    def place(some: list[Any]) -> Any:
        padded = some + some[-1:] * (num_batches - len(some))  # so that all blocks are alike
        sharding = NamedSharding(mesh, PartitionSpec(None, "data"))

        def put(*arrays):
            stacked = np.stack(arrays)
            return jax.make_array_from_callback(stacked.shape, sharding, stacked.__getitem__)

        return jax.tree.map(put, *padded)

    def blocks(first: int) -> Generator[Any, None, None]:
        left = itertools.islice(again(stream), first, num_steps)
        for some in ahead((convert(batch) for batch in left), num_batches):
            if not some:
                yield None
            while some:
                number = smallest(len(some))
                yield Block(place(some[:number]), jnp.asarray(first)), first + number
                first, some = first + number, some[number:]

    return Source(data.steps_per_epoch, example, lambda: first_batch, blocks)


def _shapes(batch: Any) -> Any:
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), batch)


def _num_batches(example: Any) -> int:
    """How many batches make a block."""
    size = sum(math.prod(array.shape) * array.dtype.itemsize for array in jax.tree.leaves(example))
    return max(1, min(BLOCK_BATCHES, BLOCK_BYTES // max(size, 1)))

"""Where batches come from: arrays in memory, arrays on disk, or an iterable of batches.

The loop asks a source for `blocks(first)`: pytrees with a method `batch(step)`, to be called inside
the compiled loop, each with the step at which it ends.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flows._disk import take
from flows.training.sharding import replicate, split_batch
from flows.training.shuffle import shuffled

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
        iterable: Begun again whenever it is exhausted; an iterator, which cannot be, ends the run.
        steps_per_epoch: Batches between two looks at the validation data.
        convert: Applied to each batch: checks it, and returns numpy arrays.
    """

    iterable: Iterable
    steps_per_epoch: int
    convert: Callable[[Any], Any] = lambda batch: batch


@dataclasses.dataclass(frozen=True)
class Source:
    """What the loop draws from: see the module."""

    steps_per_epoch: int
    blocks: Callable[[int], Generator[tuple[Any, float], None, None]]


def source(data: Any, key: jax.Array, batch_size: int, num_steps: int, mesh: Mesh) -> Source:
    """The source for a pytree of arrays, an `OnDisk`, a `Batches`, or None for no data."""
    if data is None:
        return Source(NEVER, lambda first: _endless(NoData()))
    if isinstance(data, Batches):
        stream = functools.partial(_blocks_of_batches, data, num_steps, mesh)
        return Source(data.steps_per_epoch, stream)
    num_rows = data.num_rows if isinstance(data, OnDisk) else len(jax.tree.leaves(data)[0])
    if batch_size > num_rows:
        raise ValueError(f"batch_size is {batch_size}, more than the {num_rows} rows of data.")
    if isinstance(data, OnDisk):
        stream = functools.partial(_blocks_on_disk, data, key, batch_size, num_steps, mesh)
        return Source(num_rows // batch_size, stream)
    block = InMemory(replicate(data, mesh), replicate(key, mesh), batch_size, mesh)
    return Source(num_rows // batch_size, lambda first: _endless(block))


def known(data: Any) -> Any:
    """What can be told of data without reading all of it, as a pytree of arrays."""
    if isinstance(data, OnDisk):
        rows = np.linspace(0, data.num_rows - 1, SAMPLE).astype(int)
        return data.num_rows, data.read(np.asarray(data.select(jnp.asarray(rows))))
    return data.steps_per_epoch if isinstance(data, Batches) else data


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


def _blocks_on_disk(
    data: OnDisk, key: jax.Array, batch_size: int, num_steps: int, mesh: Mesh, first: int
) -> Generator[Any, None, None]:
    dtype = jnp.result_type(float)
    row = jax.tree.map(lambda array: array[:1], data.arrays)
    num_batches = _num_batches(row, batch_size)

    @jax.jit
    def rows_of_block(start):
        rows = functools.partial(rows_of_step, key, data.num_rows, batch_size)
        return data.select(jax.vmap(rows)(start + jnp.arange(num_batches)))

    def make(start: int) -> tuple[Block, int]:
        rows = np.asarray(rows_of_block(start))

        def place(array):
            return jax.make_array_from_callback(
                (*rows.shape, *array.shape[1:]),
                NamedSharding(mesh, PartitionSpec(None, "data")),
                lambda index: take(array, rows[index[:2]], dtype),  # type: ignore[index]
            )

        return Block(jax.tree.map(place, data.arrays), jnp.asarray(start)), start + num_batches

    return _ahead(map(make, range(first, num_steps, num_batches)))


def _blocks_of_batches(
    data: Batches, num_steps: int, mesh: Mesh, first: int
) -> Generator[Any, None, None]:
    def place(array):
        sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def make():
        left = map(data.convert, itertools.islice(_again(data.iterable), first, num_steps))
        example = next(left, None)
        if example is None:
            return
        num_batches = _num_batches(example, 1)
        batches = itertools.chain([example], left)
        start = first
        while some := list(itertools.islice(batches, num_batches)):
            padded = some + [some[-1]] * (num_batches - len(some))  # so that all blocks are alike
            arrays = jax.tree.map(lambda *arrays: np.stack(arrays), *padded)
            yield Block(jax.tree.map(place, arrays), jnp.asarray(start)), start + len(some)
            start += len(some)

    return _ahead(make())


def _again(iterable: Iterable) -> Iterator:
    """Its items, over and over; of an iterator just once."""
    iterator = None
    while iterator is not iterable:
        iterator, item = iter(iterable), None
        for item in iterator:
            yield item
        if item is None:
            return  # there are none, or no more


def _num_batches(arrays: Any, batch_size: int) -> int:
    """How many batches of `batch_size` times these arrays make a block."""
    size = batch_size * sum(array.nbytes for array in jax.tree.leaves(arrays))
    return max(1, min(BLOCK_BATCHES, BLOCK_BYTES // max(size, 1)))


def _ahead(blocks: Iterator) -> Generator[Any, None, None]:
    """Makes each item in a thread, while the one before it is in use; gives None while waiting."""
    precise = jnp.result_type(float) == jnp.float64  # a setting that may be of this thread alone

    def make() -> Any:
        with jax.enable_x64(precise):
            return next(blocks, None)

    pool = ThreadPoolExecutor(1)
    try:
        coming = pool.submit(make)
        while True:
            while not wait([coming], timeout=0.3).done:
                yield None
            block = coming.result()
            if block is None:
                return
            coming = pool.submit(make)
            yield block
    finally:
        pool.shutdown(wait=False, cancel_futures=True)

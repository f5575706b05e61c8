"""Where batches come from."""

from typing import Any

import jax
from jax.sharding import Mesh

from flows.training.sources.arrays import InMemory
from flows.training.sources.base import NEVER, Nothing, Source
from flows.training.sources.batches import Batches, FromBatches
from flows.training.sources.disk import FromDisk, OnDisk
from flows.training.sources.stream import NOTHING, Begun


def source(data: Any, key: jax.Array, batch_size: int, num_steps: int, mesh: Mesh) -> Source:
    """The source for a pytree of arrays, an `OnDisk`, a `Batches`, or None for no data."""
    if data is None:
        return Nothing()
    if isinstance(data, Batches):
        return FromBatches(data, num_steps, mesh)
    if isinstance(data, OnDisk):
        return FromDisk(data, key, batch_size, num_steps, mesh)
    return InMemory.open(data, key, batch_size, mesh)

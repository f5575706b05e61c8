"""Devices: the batch is split over the mesh axis "data", large weights over "model"."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def resolve(mesh: Mesh | None, batch_size: int) -> Mesh:
    """The mesh to train on: the one given, or all devices that can share a batch equally.

    Raises:
        TypeError: `mesh` is no mesh.
        ValueError: It has no axis "data", or the batch cannot be split over it.
    """
    if mesh is None:
        shared = batch_size % jax.device_count() == 0 or jax.process_count() > 1
        devices = jax.devices() if shared else jax.local_devices()[:1]
        mesh = Mesh(np.array(devices), ("data",))
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}.")
    if "data" not in mesh.axis_names or set(mesh.axis_names) - {"data", "model"}:
        raise ValueError(
            f'mesh must have an axis "data" and may have one "model", got {mesh.axis_names}.'
        )
    if batch_size % mesh.shape["data"]:
        raise ValueError(
            f"batch_size must be a multiple of the {mesh.shape['data']} devices along the mesh's "
            f'axis "data", got {batch_size}.'
        )
    # Ours are the shardings of a few arrays; the compiler finds those of all others.
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A pytree of arrays and random keys on every device of the mesh."""

    def put(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            numbers = put(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
        return _put(leaf, NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(put, tree)


def place(state: Any, mesh: Mesh) -> Any:
    """The state of training on the mesh: weights are split over "model" where they can be."""
    return jax.tree.map(lambda leaf: _put(leaf, _of_parameter(leaf, mesh)), state)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    whole = np.asarray(leaf)  # the same in every process
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def keep_parameters(params: Any, mesh: Mesh) -> Any:
    """Holds parameters, inside a compiled function, to the sharding that `place` gave them."""
    if mesh.devices.size == 1:
        return params
    return jax.tree.map(
        lambda leaf: jax.lax.with_sharding_constraint(leaf, _of_parameter(leaf, mesh)), params
    )


def _of_parameter(leaf: jax.Array, mesh: Mesh) -> NamedSharding:
    model = mesh.shape.get("model", 1)
    if model > 1 and jnp.ndim(leaf) >= 2 and leaf.shape[-1] % model == 0:
        return NamedSharding(mesh, PartitionSpec(*[None] * (leaf.ndim - 1), "model"))
    return NamedSharding(mesh, PartitionSpec())


def split_batch(batch: Any, mesh: Mesh) -> Any:
    """Splits a batch, inside a compiled function, by its first axis over "data"."""
    if mesh.devices.size == 1:
        return batch
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), batch)


def gather(tree: Any, mesh: Mesh) -> Any:
    """A copy of a pytree as ordinary arrays on one local device.

    On the default device they are not bound to it, as new arrays are not: what was compiled for
    the module before it was trained is used after it.
    """
    copies = jax.tree.map(lambda leaf: leaf.addressable_data(0), _copy_on(mesh)(tree))
    if mesh.local_devices[0] != jnp.zeros(()).device:
        return copies
    return jax.tree.map(_unbound, copies)


def _unbound(leaf: jax.Array) -> jax.Array:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf if is_key else jax.device_put(np.asarray(leaf))


@functools.lru_cache
def _copy_on(mesh: Mesh) -> Callable[[Any], Any]:
    copy = functools.partial(jax.tree.map, jnp.copy)
    return jax.jit(copy, out_shardings=NamedSharding(mesh, PartitionSpec()))


def of_first_process(*values: float) -> list[float]:
    """The values that the first process has, in every process."""
    if jax.process_count() == 1:
        return list(values)
    return multihost_utils.broadcast_one_to_all(np.array(values, np.float64)).tolist()


def smallest(value: int) -> int:
    """The smallest of the values that the processes have."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.process_allgather(np.array(value)).min())

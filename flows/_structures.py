"""Pytrees of parameters: the names of their numbers, and batches of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.tree_util import keystr, tree_flatten, tree_flatten_with_path, tree_leaves_with_path

from flows import _checks


def names_of(structure: Any) -> tuple[str, ...]:
    """A name for each number of a pytree of arrays, or of their shapes.

    Example:
        >>> import numpy as np
        >>> names_of({"mu": np.zeros(()), "w": np.zeros((1, 2))})
        ('mu', 'w[0, 0]', 'w[0, 1]')
    """
    names = []
    for path, leaf in tree_leaves_with_path(structure):
        for index in np.ndindex(leaf.shape):
            numbers = f"[{', '.join(map(str, index))}]" if index else ""
            names.append(path_name(path) + numbers)
    return tuple(names)


def path_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf, such as "site" or "group.scale"; "theta" where it is the whole."""
    return keystr(path, simple=True, separator=".") or "theta"


def selected(value: Any, like: Any) -> Any:
    """The parts of `value` that `like` has, where they are told by name.

    Raises:
        ValueError: One is missing.
    """
    if not isinstance(like, Mapping):
        return value
    given = list(value) if isinstance(value, Mapping) else type(value).__name__
    missing = [key for key in like if key not in given]
    if missing:
        raise ValueError(f"parameters must hold {', '.join(map(str, like))}, got {given}.")
    return {key: selected(value[key], part) for key, part in like.items()}


def batched(value: Any, like: Any) -> tuple[Any, tuple[int, ...]]:
    """The parts of `value` that `like` has, as [n, *shape] each, and their batch shape, of n.

    Raises:
        ValueError: A part is missing, or of another shape.
    """
    value = selected(value, like)
    wanted, treedef = tree_flatten_with_path(like)
    leaves, given = tree_flatten(value)
    structure: Any = treedef
    if given != structure:
        raise ValueError(f"parameters must have the structure {structure}, got {given}.")
    leaves = [_checks.floats(leaf) for leaf in leaves]
    batch = leaves[0].shape[: leaves[0].ndim - len(wanted[0][1].shape)]
    for leaf, (path, of) in zip(leaves, wanted, strict=True):
        if leaf.shape != (*batch, *of.shape):
            raise ValueError(
                f"{path_name(path)} must have shape [..., {', '.join(map(str, of.shape))}] with "
                f"the same batch shape in front as the others, {batch}, got {leaf.shape}."
            )
    flat = [leaf.reshape(-1, *of.shape) for leaf, (_, of) in zip(leaves, wanted, strict=True)]
    return structure.unflatten(flat), batch

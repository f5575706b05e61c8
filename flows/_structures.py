"""Pytrees of parameters: the names of their numbers, and batches of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path, tree_leaves, tree_leaves_with_path

from flows import _checks


def names_of(structure: Any) -> tuple[str, ...]:
    """A name for each number of a pytree of arrays, or of their shapes.

    Examples:
        >>> import numpy as np
        >>> from flows._structures import names_of
        >>> names_of({"mu": np.zeros(()), "w": np.zeros((1, 2))})
        ('mu', 'w[0, 0]', 'w[0, 1]')
    """
    names = []
    for path, leaf in tree_leaves_with_path(structure):
        for index in np.ndindex(leaf.shape):
            numbers = f"[{', '.join(map(str, index))}]" if index else ""
            names.append(path_name(path) + numbers)
    return tuple(names)


def columns_of(values: Any) -> np.ndarray:
    """The numbers of a pytree of arrays [n, ..] as columns [n, K], in the order of their names."""
    leaves = [np.asarray(leaf) for leaf in tree_leaves(values)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def path_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf, such as "site" or "group.scale"; "theta" where it is the whole."""
    return keystr(path, simple=True, separator=".") or "theta"


def require_names(structure: Any) -> None:
    """Raises if two leaves have one name, such as {"a.b": .., "a": {"b": ..}}."""
    names = [path_name(path) for path, _ in tree_leaves_with_path(structure)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two parameters have one name, {twice[0]!r}: rename one.")


def part_at(tree: Any, path: tuple[Any, ...]) -> Any:
    """The part of a tree at the path of another; its other parts do not matter.

    Raises:
        LookupError, AttributeError or TypeError: There is none.
    """
    for entry in path:
        key = key_of(entry)
        named = hasattr(entry, "name") and not isinstance(tree, Mapping)
        tree = getattr(tree, key) if named else tree[key]
    return tree


def key_of(entry: Any) -> Any:
    """What an entry of a path is called: a key, a place or a name."""
    return next(getattr(entry, name) for name in ("key", "idx", "name") if hasattr(entry, name))


def selected(value: Any, like: Any) -> Any:
    """The parts of `value` that `like` has, in its structure.

    Raises:
        ValueError: One is missing.
    """
    wanted, treedef = tree_flatten_with_path(like)
    structure: Any = treedef
    sequences = isinstance(like, list | tuple) and isinstance(value, list | tuple)
    if sequences and len(value) != len(like):
        raise ValueError(f"parameters must have {len(like)} parts, got {len(value)}.")
    try:
        return structure.unflatten([part_at(value, path) for path, _ in wanted])
    except (LookupError, AttributeError, TypeError):
        names = ", ".join(path_name(path) for path, _ in wanted)
        given = list(value) if isinstance(value, Mapping) else type(value).__name__
        raise ValueError(f"parameters must hold {names}, got {given}.") from None


def batched(value: Any, like: Any) -> tuple[Any, tuple[int, ...]]:
    """The parts of `value` that `like` has, as [n, *shape] each, and their batch shape, of n.

    Raises:
        ValueError: A part is missing, or of another shape.
    """
    wanted, treedef = tree_flatten_with_path(like)
    structure: Any = treedef
    leaves = [_checks.floats(leaf) for leaf in structure.flatten_up_to(selected(value, like))]
    batch = leaves[0].shape[: leaves[0].ndim - len(wanted[0][1].shape)]
    for leaf, (path, of) in zip(leaves, wanted, strict=True):
        if leaf.shape != (*batch, *of.shape):
            raise ValueError(
                f"{path_name(path)} must have shape [..., {', '.join(map(str, of.shape))}] with "
                f"the same batch shape in front as the others, {batch}, got {leaf.shape}."
            )
    flat = [leaf.reshape(-1, *of.shape) for leaf, (_, of) in zip(leaves, wanted, strict=True)]
    return structure.unflatten(flat), batch

"""Functions that compare by what they compute, so that an equal one does not compile again."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.extend


class _Text:
    """A jaxpr and the structure of its output; equal if they read the same."""

    def __init__(self, closed: Any, out_tree: Any):
        self.jaxpr = closed.jaxpr
        self.out_tree = out_tree
        self.text = f"{closed.jaxpr} -> {out_tree}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Text) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return self.text


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["constants"], meta_fields=["operations"]
)
@dataclasses.dataclass(frozen=True)
class Program:
    """A traced function as a pytree: the arrays it closes over are leaves.

    `jax.jit` compiles a function again for every new object that it is given, such as the
    optimizer of a second `optax.adam(1e-3)`. A `Program` hits the cache if it is made of the same
    operations on arrays of the same shapes.
    """

    constants: list[jax.Array]
    operations: _Text

    def __call__(self, *args: Any) -> Any:
        closed = jax.extend.core.ClosedJaxpr(self.operations.jaxpr, self.constants)
        out = jax.extend.core.jaxpr_as_fun(closed)(*jax.tree.leaves(args))
        return jax.tree.unflatten(self.operations.out_tree, out)


def trace(function: Callable, *args: Any) -> Program:
    """Traces a function for arguments of these shapes; nothing is computed.

    Example:
        >>> import jax
        >>> make = lambda rate: trace(lambda x: rate * x, 1.0)
        >>> jax.tree.structure(make(0.1)) == jax.tree.structure(make(0.1))
        True
        >>> jax.tree.structure(make(0.1)) == jax.tree.structure(make(0.2))
        False
    """
    fresh = lambda *args: function(*args)  # JAX remembers what it traced, but closures change
    closed, out = jax.make_jaxpr(fresh, return_shape=True)(*args)
    return Program(list(closed.consts), _Text(closed, jax.tree.structure(out)))

"""Functions that compare by what they compute, so that an equal one does not compile again."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend
import numpy as np

JAXPRS = (jax.extend.core.ClosedJaxpr, jax.extend.core.Jaxpr)  # one class from jax 0.12 on


class _Operations:
    """A jaxpr and the structure of its output; equal if they read the same, what is hidden too."""

    def __init__(self, closed: Any, out_tree: Any):
        self.jaxpr = closed.jaxpr
        self.out_tree = out_tree
        hidden = list(_hidden(_params(closed)))
        self.functions = [value for value in hidden if not isinstance(value, str)]
        digests = [value for value in hidden if isinstance(value, str)]
        self.text = f"{closed.jaxpr} -> {out_tree} {digests}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Operations):
            return NotImplemented
        return self.text == other.text and self.functions == other.functions

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
    operations: _Operations

    def __call__(self, *args: Any) -> Any:
        closed = jax.extend.core.ClosedJaxpr(self.operations.jaxpr, self.constants)
        out = jax.extend.core.jaxpr_as_fun(closed)(*jax.tree.leaves(args))
        return jax.tree.unflatten(self.operations.out_tree, out)


def _hidden(value: Any) -> Iterator[Any]:
    """What a jaxpr does not print: digests of arrays within inner jaxprs, and Python functions."""
    if isinstance(value, JAXPRS):
        for constant in map(np.asarray, getattr(value, "consts", ())):
            content = f"{constant.dtype}{constant.shape}".encode() + constant.tobytes()
            yield hashlib.sha256(content).hexdigest()
        yield from _hidden(_params(value))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _hidden(part)
    elif callable(value) and not isinstance(value, type):
        yield value


def _params(jaxpr: Any) -> list[Any]:
    return [value for equation in jaxpr.eqns for value in equation.params.values()]


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
    return Program(list(closed.consts), _Operations(closed, jax.tree.structure(out)))

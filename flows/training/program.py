"""Functions that compare by what they compute, so that an equal one does not compile again."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

JAXPRS = (jax.extend.core.ClosedJaxpr, jax.extend.core.Jaxpr)  # one class from jax 0.12 on


CUSTOM = ("custom_jvp_call", "custom_vjp_call")  # have a derivative that a jaxpr does not show


class _Operations:
    """A jaxpr and the structure of its output; equal if they read the same, what is hidden too."""

    def __init__(self, closed: Any, out_tree: Any):
        self.jaxpr = closed.jaxpr
        self.out_tree = out_tree
        hidden = list(_hidden(closed.jaxpr))
        self.text = f"{closed.jaxpr} -> {out_tree}"
        if any(name in self.text for name in CUSTOM):
            try:
                derivative = _derivative(closed)
            except Exception:  # there is none: then only the same rules are equal
                hidden += _rules(closed.jaxpr)
            else:
                self.text += f" {derivative.jaxpr}"
                hidden += [_digest(constant) for constant in derivative.consts]
                hidden += _hidden(derivative.jaxpr)
        self.functions = [value for value in hidden if not isinstance(value, str)]
        self.text += f" {[value for value in hidden if isinstance(value, str)]}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Operations):
            return NotImplemented
        return self.text == other.text and self.functions == other.functions

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> Any:
        raise TypeError(
            "A traced function, as a target holds, cannot be pickled, nor copied deeply. Of a "
            "posterior keep posterior.flow (flows.save, or pickle), and make the target anew."
        )


def _derivative(closed: Any) -> Any:
    """The jaxpr of the derivative, backwards, with the constants of the function as arguments."""
    arguments = [*closed.jaxpr.constvars, *closed.jaxpr.invars]
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in arguments]
    smooth = [jnp.issubdtype(shape.dtype, jnp.floating) for shape in shapes]

    def pullback(values: list[jax.Array]) -> Any:
        def function(some: list[jax.Array]) -> list[jax.Array]:
            rest = iter(some)
            all_ = [next(rest) if s else v for s, v in zip(smooth, values, strict=True)]
            number = len(closed.jaxpr.constvars)
            inner = jax.extend.core.ClosedJaxpr(closed.jaxpr, all_[:number])
            out = jax.extend.core.jaxpr_as_fun(inner)(*all_[number:])
            return [value for value in out if jnp.issubdtype(value.dtype, jnp.floating)]

        out, back = jax.vjp(function, [v for s, v in zip(smooth, values, strict=True) if s])
        return back(jax.tree.map(jnp.ones_like, out))

    return jax.make_jaxpr(pullback)(shapes)


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


def _hidden(jaxpr: Any) -> Iterator[Any]:
    """What a jaxpr does not print: digests of arrays within inner jaxprs, and Python functions."""
    for equation in jaxpr.eqns:
        for value in _flat(list(equation.params.values())):
            if isinstance(value, JAXPRS):
                yield from map(_digest, getattr(value, "consts", ()))
                yield from _hidden(getattr(value, "jaxpr", value))
            elif equation.primitive.name not in CUSTOM and callable(value):
                yield value


def _rules(jaxpr: Any) -> Iterator[Any]:
    """The derivatives that are given by Python functions."""
    for equation in jaxpr.eqns:
        for value in _flat(list(equation.params.values())):
            if isinstance(value, JAXPRS):
                yield from _rules(getattr(value, "jaxpr", value))
            elif equation.primitive.name in CUSTOM and not isinstance(value, bool | int):
                yield value


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for part in value:
            yield from _flat(part)
    elif not isinstance(value, type):
        yield value


def _digest(constant: Any) -> str:
    array = np.asarray(constant)
    content = f"{array.dtype}{array.shape}".encode() + array.tobytes()
    return hashlib.sha256(content).hexdigest()


def trace(function: Callable, *args: Any) -> Program:
    """Traces a function for arguments of these shapes; nothing is computed.

    Examples:
        >>> import flows, jax
        >>> make = lambda rate: flows.training.trace(lambda x: rate * x, 1.0)
        >>> jax.tree.structure(make(0.1)) == jax.tree.structure(make(0.1))
        True
        >>> jax.tree.structure(make(0.1)) == jax.tree.structure(make(0.2))
        False
    """
    fresh = lambda *args: function(*args)  # JAX remembers what it traced, but closures change
    closed, out = jax.make_jaxpr(fresh, return_shape=True)(*args)
    return Program(list(closed.consts), _Operations(closed, jax.tree.structure(out)))

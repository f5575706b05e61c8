"""Public methods are compiled once, and then are as fast outside `jax.jit` as inside it."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax

from flows.conditioners import compute_dtype, compute_in


def compiled(method: Callable | None = None, *, static: tuple[int, ...] = ()) -> Any:
    """Compiles a method of an `nnx.Module` once for each structure of the module and each shape.

    The module is an argument of the compiled function: new weights never trace again. Inside a
    caller's own `jit`, `vmap` or `grad` the method's operations become the caller's. (Without it
    every call outside `jit` would trace and compile each `lax.scan` anew.)

    Args:
        method: Takes arrays, or None, by position.
        static: Positions of those arguments (from 0, without `self`) that are no arrays.
    """
    if method is None:
        return functools.partial(compiled, static=static)

    @functools.partial(
        jax.jit, static_argnums=(0, *(2 + position for position in static)), inline=True
    )
    def call(dtype: Any, module: Any, *args: Any) -> Any:
        before = jax.tree.leaves(module)
        with compute_in(dtype):  # what was compiled for one dtype is not used for another
            out = method(module, *args)
        after = jax.tree.leaves(module)
        if len(before) != len(after) or any(map(operator.is_not, before, after)):
            raise TypeError(
                f"{type(module).__name__}.{method.__name__} must not change the module: its state "
                "would be lost, for it is compiled."
            )
        return out

    @functools.wraps(method)
    def compiled_method(self: Any, *args: Any) -> Any:
        return call(compute_dtype(), self, *args)

    return compiled_method

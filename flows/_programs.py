"""Programs that compile faster, or that serve many shapes: most run for less than they compile."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows import _checks

QUICK = {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": True}
ONCE = {"xla_cpu_use_fusion_emitters": False}  # loops a fifth slower, and known before this jax:
WITHOUT_ONCE = (0, 11)
LEAST_DRAWN = 4096  # numbers at once
DISABLED = "jax_disable_most_optimizations"  # even less is wanted


def quick_jit(function: Callable | None = None, *, once: bool = False, **options: Any) -> Any:
    """As `jax.jit`, but that LLVM leaves out what training and searches do not run faster for.

    The figures are in `benchmarks/compilation.md`. On other devices, inside a caller's own `jit` or
    `grad`, and with JAX_DISABLE_MOST_OPTIMIZATIONS, it is `jax.jit`.

    Args:
        function: What to compile.
        once: Whether it is run a few times only, and may be slower.
        **options: Those of `jax.jit`.
    """
    if function is None:
        return functools.partial(quick_jit, once=once, **options)
    plain: Any = jax.jit(function, **options)
    known = once and jax.__version_info__[:2] < WITHOUT_ONCE
    quick: Any = jax.jit(function, compiler_options=QUICK | (ONCE if known else {}), **options)

    def call(*args: Any, **kwargs: Any) -> Any:
        return (quick if _wanted() and not _tracing(args, kwargs) else plain)(*args, **kwargs)

    program: Any = functools.update_wrapper(call, function)
    program._cache_size = lambda: plain._cache_size() + quick._cache_size()  # as `jax.jit` has it
    return program


def _wanted() -> bool:
    """Asked at each call: an import starts no backend."""
    return jax.default_backend() == "cpu" and not jax.config.read(DISABLED)


def _tracing(*args: Any) -> bool:
    """Whether the call is part of a caller's program: JAX refuses options there."""
    return not all(map(_checks.is_concrete, [jnp.zeros(()), *jax.tree.leaves(args)]))


def normals(key: jax.Array, shape: tuple[int, ...]) -> Any:
    """What `jax.random.normal` draws; outside `jit` on the host, by one program for many shapes.

    (Number i of a stream does not depend on how many are drawn, so that more do no harm.)
    """
    size = math.prod(shape)
    if _tracing(key):
        return _normals(key, size).reshape(shape)
    more = LEAST_DRAWN * 4 ** math.ceil(math.log(max(size / LEAST_DRAWN, 1), 4))
    return np.asarray(_normals(key, more))[:size].reshape(shape)


@quick_jit(once=True, static_argnames="size")
def _normals(key: jax.Array, size: int) -> jax.Array:
    # Behind the barrier they are rounded as anywhere: no later factor is drawn into them.
    return jax.lax.optimization_barrier(jax.random.normal(key, (size,)))

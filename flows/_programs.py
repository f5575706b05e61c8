"""`jax.jit` that compiles faster on a CPU: most programs take longer to compile than to run."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flows import _checks

QUICK = {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": True}
ONCE = {"xla_cpu_use_fusion_emitters": False}  # loops a fifth slower, and known before this jax:
WITHOUT_ONCE = (0, 11)
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

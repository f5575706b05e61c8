"""Checks of what users pass in: each error names the argument, what came and what was needed."""

import warnings
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows import _disk


def positive_int(name: str, value: Any) -> int:
    """Returns `value` as an int, or raises if it is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int of at least 1, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
    return int(value)


def floats(value: Any) -> jax.Array:
    """Returns `value` as a floating-point array."""
    array = jnp.asarray(value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def is_concrete(value: Any) -> bool:
    """Whether the numbers in `value` are known, and not those of a program being traced."""
    return not isinstance(value, jax.core.Tracer)


def one_of(name: str, value: Any, options: Collection[str]) -> Any:
    """Returns `value` if it is one of `options`."""
    if value not in options:
        raise ValueError(f"{name} must be one of {sorted(options)}, got {value!r}.")
    return value


def prng_key(name: str, value: Any) -> jax.Array:
    """Returns `value` as a typed JAX key; old-style uint32 keys are accepted, seeds are not."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value
    if isinstance(value, jax.Array | np.ndarray) and value.dtype == np.uint32:
        return jax.random.wrap_key_data(jnp.asarray(value))
    raise TypeError(f"{name} must be a JAX random key such as jax.random.key(0), got {value!r}.")


def pair(name: str, value: Any) -> tuple[Any, Any]:
    """Splits `x` or `(x, context)` into x and a context that may be None."""
    if not isinstance(value, tuple):
        return value, None
    if len(value) != 2:
        raise ValueError(f"{name} as a tuple must be (x, context), got {len(value)} entries.")
    return value


def table(
    name: str, value: Any, num_columns: int | None = None, *, integers: bool = False
) -> jax.Array:
    """Returns `value` as a finite floating-point array [rows, columns], or raises.

    Args:
        name: What the caller calls the argument.
        value: Anything `numpy.asarray` understands.
        num_columns: The number of columns needed, if it is known.
        integers: Whether integers and bools are welcome (as in a context) and converted.

    Raises:
        TypeError: The values are not floating-point numbers.
        ValueError: Wrong rank, no rows, wrong number of columns, or NaN or infinite values.
    """
    array = np.asarray(value)
    _require_table(name, array, num_columns, integers)
    with np.errstate(over="ignore"):
        kept = array.astype(jnp.result_type(float))  # what overflows here is reported below
    finite(name, kept)
    _warn_of_lost_digits(name, array, kept)
    return jnp.asarray(kept)


def two_tables(x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    """Returns draws x [N, D] and y [M, D] as `table` does; at least two of each."""
    x = table("x", x)
    y = table("y", y, x.shape[1])
    for name, value in (("x", x), ("y", y)):
        if len(value) < 2:
            raise ValueError(f"{name} must have at least 2 rows, got {len(value)}.")
    return x, y


def table_on_disk(
    name: str, array: np.ndarray, num_columns: int | None = None, *, integers: bool = False
) -> None:
    """As `table` and `not_constant` for an array larger than memory, read a block at a time."""
    _require_table(name, array, num_columns, integers)
    low, high = np.full(array.shape[1], np.inf), np.full(array.shape[1], -np.inf)
    for first, block in _disk.blocks(array):
        with np.errstate(over="ignore"):
            kept = block.astype(jnp.result_type(float))
        finite(name, kept, first)
        if not first:
            _warn_of_lost_digits(name, block, kept)
        low, high = np.minimum(low, kept.min(axis=0)), np.maximum(high, kept.max(axis=0))
    not_constant(name, np.stack([low, high]))


def _require_table(name: str, array: np.ndarray, num_columns: int | None, integers: bool) -> None:
    whole = array.dtype == bool or jnp.issubdtype(array.dtype, jnp.integer)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or (integers and whole)):
        raise TypeError(
            f"{name} must hold floating-point numbers, got dtype {array.dtype}. A density over "
            "integers has no upper bound: convert with .astype(float), and add noise to counts "
            "(`flows.fit` does, with dequantize=True)."
        )
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape [rows, columns], got shape {array.shape}.")
    if num_columns is not None and array.shape[1] != num_columns:
        raise ValueError(f"{name} must have {num_columns} columns, got shape {array.shape}.")
    if not array.shape[0]:
        raise ValueError(f"{name} is empty: its shape is {array.shape}.")


def _warn_of_lost_digits(name: str, array: np.ndarray, kept: np.ndarray) -> None:
    """Warns of columns whose variation is lost to rounding in `kept`."""
    if kept.dtype == array.dtype or not jnp.issubdtype(array.dtype, jnp.floating):
        return
    spread = np.std(array, axis=0, dtype=np.float64)
    step = np.spacing(np.abs(kept).max(axis=0)).astype(np.float64)
    coarse = np.flatnonzero((spread > 0) & (spread < 100 * step))
    if coarse.size:
        warnings.warn(
            f"{name} column {coarse[0]} varies by {spread[coarse[0]]:.3g} only, and {kept.dtype} "
            f"keeps steps of {step[coarse[0]]:.3g} there ({coarse.size} such columns): subtract "
            "an offset first, or set jax_enable_x64.",
            stacklevel=4,
        )


def not_constant(name: str, array: Any) -> None:
    """Raises if a column of `array` [rows, columns] holds one value only."""
    array = np.asarray(array)
    constant = np.flatnonzero(array.max(axis=0) == array.min(axis=0))
    if constant.size:
        raise ValueError(
            f"{name} is constant in column {constant[0]} ({constant.size} such columns): it has no "
            "density. Drop these columns."
        )


def finite(name: str, array: np.ndarray, first_row: int = 0) -> None:
    """Raises if `array` [rows, ...] has NaN or infinite entries, and says how many and where."""
    bad = ~np.isfinite(array)
    if bad.any():
        first = first_row + int(np.nonzero(bad.reshape(len(array), -1).any(axis=1))[0][0])
        raise ValueError(
            f"{name} has {int(bad.sum())} non-finite values (NaN or inf as {array.dtype}); "
            f"the first is in row {first}."
        )


def same_length(name: str, array: Any, x_name: str, x: Any) -> None:
    """Raises if two arrays differ in their number of rows."""
    if len(array) != len(x):
        raise ValueError(
            f"{name} has {len(array)} rows and {x_name} has {len(x)}; they must be equal."
        )


def context_wanted(name: str, given: bool, context_size: int | None) -> None:
    """Raises if a context is missing where one is needed, or given where none is used."""
    if given and context_size is None:
        raise ValueError(
            f"{name} was given, but this flow takes none: build it with context_size=..."
        )
    if not given and context_size is not None:
        raise ValueError(
            f"{name} is missing: this flow was built with context_size={context_size}."
        )

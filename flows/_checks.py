"""Checks of what users pass in: each error names the argument, what came and what was needed."""

import warnings
from collections.abc import Collection
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows import _disk

STEPS_KEPT = 350  # of rounding, in the range of a column: fewer spoil it


def positive_int(name: str, value: Any, least: int = 1) -> int:
    """Returns `value` as an int, or raises if it is not a whole number of at least 1 (`least`)."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int of at least {least}, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")
    return int(value)


def positive(name: str, value: Any) -> float:
    """Returns `value` as a float, or raises if it is not a positive and finite number."""
    if isinstance(value, bool) or not isinstance(value, Real | np.number | jax.Array):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    number = float(value)
    if not 0 < number < np.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}.")
    return number


def floats(value: Any, name: str = "value") -> jax.Array:
    """Returns `value` as a floating-point array."""
    given = frame_values(name, value) if is_frame(value) else value
    try:
        array = jnp.asarray(given)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{name} must be an array of numbers, got {value!r:.80}.") from error
    numbers(name, array)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def is_concrete(value: Any) -> bool:
    """Whether the numbers in `value` are known, and not those of a program being traced."""
    return not isinstance(value, jax.core.Tracer)


def at_most(size: Any, limit: int) -> bool:
    """Whether a size is at most `limit`; a symbolic one (`jax.export`) stands for a large one."""
    try:
        return bool(size <= limit)
    except jax.errors.InconclusiveDimensionOperation:
        return False


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


def is_frame(value: Any) -> bool:
    """Whether it is a frame of pandas, polars or the like."""
    return all(hasattr(value, name) for name in ("columns", "shape", "to_numpy"))


def column(frame: Any, i: int) -> np.ndarray:
    """The values of a column of a frame."""
    return np.asarray(frame.iloc[:, i] if hasattr(frame, "iloc") else frame[:, i])


def array(name: str, value: Any) -> np.ndarray:
    """An array of what users give for one: arrays are left as they are, also on disk.

    Raises:
        TypeError: It is a function.
    """
    if callable(value):
        raise TypeError(f"{name} must be an array, got the function {value!r}: call it.")
    return frame_values(name, value) if is_frame(value) else np.asarray(value)


def frame_values(name: str, value: Any) -> np.ndarray:
    """The values of a frame [rows, columns].

    Raises:
        TypeError: A column does not hold numbers; the error names it.
    """
    columns = [column(value, i) for i in range(value.shape[1])]
    for label, values in zip(value.columns, columns, strict=True):
        numbers(f"{name} column {label!r}", values)
    return np.stack(columns, axis=1)


def table(
    name: str,
    value: Any,
    num_columns: int | None = None,
    *,
    integers: bool = False,
    constants: bool = True,
) -> jax.Array:
    """Returns `value` as a finite floating-point array [rows, columns], or raises.

    Args:
        name: What the caller calls the argument.
        value: Anything `numpy.asarray` understands.
        num_columns: The number of columns needed, if it is known.
        integers: Whether integers and bools are welcome (as in a context) and converted.
        constants: Whether columns that hold one value only are welcome.

    Raises:
        TypeError: The values are not floating-point numbers.
        ValueError: Wrong rank, no rows, wrong number of columns, unwelcome constant columns, or
            NaN or infinite values.
    """
    values = array(name, value)
    inspect_table(name, values, num_columns, integers=integers, constants=constants)
    return jnp.asarray(values.astype(jnp.result_type(float)))


def inspect_table(
    name: str,
    array: np.ndarray,
    num_columns: int | None = None,
    *,
    integers: bool = False,
    constants: bool = True,
) -> np.ndarray:
    """As `table`, but reads the array, perhaps on disk, a block at a time and leaves it there.

    Returns:
        Which columns are constant [columns].
    """
    _require_table(name, array, num_columns, integers)
    dtype = jnp.result_type(float)
    low, high = np.full(array.shape[1], np.inf), np.full(array.shape[1], -np.inf)
    rounded = np.zeros(array.shape[1], bool)
    num_bad = 0
    for first, block in _disk.blocks(array):
        with np.errstate(over="ignore"):
            kept = block.astype(dtype)  # what overflows here is reported below
        bad = ~np.isfinite(kept)
        if not num_bad and bad.any():
            first_bad = first + int(bad.any(axis=1).argmax())
        num_bad += int(bad.sum())
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        rounded |= (kept != block).any(axis=0)
    if num_bad:
        _raise_non_finite(name, num_bad, first_bad, dtype)
    _warn_of_lost_digits(name, low, high, rounded)
    constant = low.astype(dtype) == high.astype(dtype)
    if len(array) == 1 and not constants:
        raise ValueError(f"{name} must have at least 2 rows, got 1.")
    if constant.any() and not constants:
        raise ValueError(
            f"{name} is constant in column {constant.argmax()} ({constant.sum()} such columns): "
            "it has no density. Drop these columns."
        )
    return constant


def two_tables(x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    """Returns draws x [N, D] and y [M, D] as `table` does; at least two of each."""
    x = table("x", x)
    y = table("y", y, x.shape[1])
    for name, value in (("x", x), ("y", y)):
        if len(value) < 2:
            raise ValueError(f"{name} must have at least 2 rows, got {len(value)}.")
    return x, y


def _require_table(name: str, array: np.ndarray, num_columns: int | None, integers: bool) -> None:
    numbers(name, array)
    if not (integers or jnp.issubdtype(array.dtype, jnp.floating)):
        raise TypeError(
            f"{name} must hold floating-point numbers, got dtype {array.dtype}. A density over "
            "integers has no upper bound. Counts need a flow with support=flows.supports.integers, "
            "or .astype(float) and noise (`flows.fit` adds it, with dequantize=True)."
        )
    if array.ndim != 2:
        advice = f": for one column pass {name}[:, None]" if array.ndim == 1 else ""
        raise ValueError(
            f"{name} must have shape [rows, columns], got shape {array.shape}{advice}."
        )
    if num_columns is not None and array.shape[1] != num_columns:
        raise ValueError(f"{name} must have {num_columns} columns, got shape {array.shape}.")
    if not array.shape[0]:
        raise ValueError(f"{name} is empty: its shape is {array.shape}.")


def numbers(name: str, array: np.ndarray | jax.Array) -> None:
    """Raises unless the dtype of `array` is that of real numbers or bools."""
    real = (jnp.floating, jnp.integer, jnp.bool_)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in real):
        raise TypeError(
            f"{name} must hold floating-point numbers, got dtype {array.dtype}: encode text, dates "
            "and the like as numbers or drop them first, then convert with .astype(float)."
        )


def warn_of_lost_digits(name: str, array: np.ndarray) -> None:
    """Warns of columns of `array` [rows, columns] whose variation is lost to rounding."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = (array.astype(jnp.result_type(float)) != array).any(axis=0)
        _warn_of_lost_digits(name, array.min(axis=0), array.max(axis=0), rounded)


def _warn_of_lost_digits(name: str, low: np.ndarray, high: np.ndarray, rounded: np.ndarray) -> None:
    """Warns of columns between `low` and `high` that are `rounded`, and to few values."""
    dtype = jnp.result_type(float)
    low, high = low.astype(np.float64), high.astype(np.float64)
    step = np.spacing(np.maximum(abs(low), abs(high)).astype(dtype)).astype(np.float64)
    coarse = np.flatnonzero(rounded & (low < high) & (high - low < STEPS_KEPT * step))
    if coarse.size:
        column = coarse[0]
        warnings.warn(
            f"{name} column {column} varies by {high[column] - low[column]:.3g} only, and {dtype} "
            f"keeps steps of {step[column]:.3g} there ({coarse.size} such columns): subtract an "
            "offset first, or set jax_enable_x64.",
            stacklevel=5,
        )


def finite(name: str, array: np.ndarray) -> None:
    """Raises if `array` [rows, ...] has NaN or infinite entries, and says how many and where."""
    bad = ~np.isfinite(array)
    if bad.any():
        first = int(bad.reshape(len(array), -1).any(axis=1).argmax())
        _raise_non_finite(name, int(bad.sum()), first, array.dtype)


def _raise_non_finite(name: str, number: int, first: int, dtype: Any) -> None:
    raise ValueError(
        f"{name} has {number} non-finite values (NaN or inf as {dtype}); "
        f"the first is in row {first}."
    )


def num_rows(name: str, tree: Any) -> int:
    """The length that all arrays of a pytree share, at least 1, or raises."""
    shapes = [np.shape(array) for array in jax.tree.leaves(tree)]
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"{name} must hold arrays with equal leading axes of at least one row, got shapes "
            f"{shapes}."
        )
    return lengths.pop()


def same_length(name: str, array: Any, x_name: str, x: Any) -> None:
    """Raises if two arrays differ in their number of rows."""
    if len(array) != len(x):
        raise ValueError(
            f"{name} has {len(array)} rows and {x_name} has {len(x)}; they must be equal."
        )


def same_columns(name: str, frame: Any, x_name: str, x: Any) -> None:
    """Raises if two frames differ in their columns, or the order of them."""
    if is_frame(frame) and is_frame(x) and list(frame.columns) != list(x.columns):
        raise ValueError(
            f"{name} has the columns {list(frame.columns)} and {x_name} has {list(x.columns)}: "
            "frames are read by position, so both must have the same, in the same order."
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

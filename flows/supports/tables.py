"""Tables of data, in memory or on disk, and their supports."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.special

from flows import _disk
from flows.supports.columns import Columns, of_kind
from flows.supports.kinds import real
from flows.supports.maps import outside, to_real


def require_inside(name: str, table: Any, columns: Columns | None) -> None:
    """Raises if rows [N, D], perhaps on disk, have values outside of their support."""
    if columns is None:
        return
    number = 0
    dtype = jnp.result_type(float)
    for first, block in _disk.blocks(table):
        _require_cells(name, block, columns, dtype)
        with np.errstate(over="ignore"):
            found = outside(columns, block.astype(dtype), np)
        if not number and found.any():
            row = int(found.any(axis=1).argmax())
            column = int(found[row].argmax())
            where, value = first + row, block[row, column]
        number += int(found.sum())
    if number:
        raise ValueError(
            f"{name} has {number} values outside of their support; the first is {value} in row "
            f"{where} and column {column}, whose support is {columns[column]} in {dtype}."
        )


def _require_cells(name: str, block: np.ndarray, columns: Columns, dtype: Any) -> None:
    """Raises if integers are so large that numbers hardly differ within their cells."""
    large = of_kind(columns, "integers") & (abs(block.astype(float)) * jnp.finfo(dtype).eps > 0.13)
    if large.any():
        column = int(large.any(axis=0).argmax())
        raise ValueError(
            f"{name} has integers of up to {abs(block[:, column]).max():.8g} in column {column}, "
            f"between which {dtype} has no room: subtract an offset, or set jax_enable_x64."
        )


def unconstrained(columns: Columns, block: np.ndarray, first: int = 0) -> np.ndarray:
    """Rows of a table, from row `first`, on the real line; integers somewhere in their cells."""
    noise = np.random.default_rng(first).random(block.shape)
    block = block.astype(np.float64) + np.where(of_kind(columns, "integers"), noise, 0.0)
    u, _ = to_real(columns, block.astype(jnp.result_type(float)), np, scipy.special)
    return np.where(unbounded(columns), block, u)  # with all digits where nothing is mapped


def unbounded(columns: Columns) -> np.ndarray:
    """Which columns [D] are real."""
    return np.array([support == real for support in columns])

"""Reading arrays larger than memory without keeping their pages."""

import mmap
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

BLOCK_ROWS = 2**14  # read at once where they lie side by side
PIECE_ROWS = 2**8  # where they are strewn: the system may map a megabyte around each


def blocks(array: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Successive blocks of rows, each with the number of its first row."""
    array = _on_host(array)
    for first in range(0, len(array), BLOCK_ROWS):
        yield first, np.array(array[first : first + BLOCK_ROWS])
        _release(array)


def take(array: Any, rows: np.ndarray, dtype: Any) -> np.ndarray:
    """The given rows (of any shape), read in the order in which they lie on disk."""
    array = _on_host(array)
    flat, where = np.unique(rows, return_inverse=True)
    values = np.empty((len(flat), *array.shape[1:]), dtype)
    for first in range(0, len(flat), PIECE_ROWS):
        piece = slice(first, first + PIECE_ROWS)
        values[piece] = array[flat[piece]]
        _release(array)
    return values[where.reshape(rows.shape)]


def _on_host(array: Any) -> Any:
    """The array, or a view of one of JAX: of that each piece would compile a program."""
    return np.asarray(array) if isinstance(array, jax.Array) else array


def _release(array: Any) -> None:
    """Lets the system have back the pages of a memory map, which count as ours otherwise."""
    while isinstance(array, np.ndarray):
        if getattr(array, "mode", None) == "c":
            return  # what was written to it exists in memory only
        array = array.base
    if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)

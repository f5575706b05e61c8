"""Draws as a frame of pandas or polars, with the columns of another."""

from typing import Any

import numpy as np

from flows import _checks


def as_frame(draws: Any, like: Any) -> Any:
    """A frame of draws with the columns of the frame that a flow was fitted to.

    Columns keep their type where draws fit it: those of integers and bools do if the flow has
    integer columns there (`flows.supports.integers`), and hold floating-point numbers otherwise.

    Args:
        draws: Draws [N, D] of a flow.
        like: A pandas or polars frame of D columns.

    Returns:
        A frame of the same library, of N rows.

    Raises:
        TypeError: `like` is no frame.
        ValueError: The numbers of columns differ.

    Examples:
        >>> import flows, jax
        >>> import pandas as pd
        >>> table = pd.DataFrame({"age": [31.0, 45.0, 27.0], "income": [2.1, 3.0, 1.7]})
        >>> draws = flows.StandardNormal(2).sample(seed=jax.random.key(0), sample_shape=10)
        >>> flows.as_frame(draws, like=table).columns.tolist()
        ['age', 'income']
    """
    if not _checks.is_frame(like):
        raise TypeError(f"like must be a pandas or polars frame, got {type(like).__name__}.")
    draws = np.asarray(draws)
    if draws.ndim != 2 or draws.shape[1] != like.shape[1]:
        raise ValueError(
            f"draws must have shape [rows, {like.shape[1]}] for the columns of like, got shape "
            f"{draws.shape}."
        )
    columns = {
        name: _as(_checks.column(like, i).dtype, draws[:, i]) for i, name in enumerate(like.columns)
    }
    if len(columns) < draws.shape[1]:
        raise ValueError(f"like must have columns of different names, got {list(like.columns)}.")
    return type(like)(columns)


def _as(dtype: np.dtype, values: np.ndarray) -> np.ndarray:
    """Values as another type, if none of them changes."""
    with np.errstate(invalid="ignore"):
        converted = values.astype(dtype)
    exact = np.issubdtype(dtype, np.floating) or np.array_equal(converted, values)
    return converted if exact else values

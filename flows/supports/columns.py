"""The supports of the columns of a table."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from flows.supports.kinds import ANGLES, Support, circle, integers, real
from flows.supports.vectors import VectorSupport

Columns = tuple[Support, ...]
"""The support of each column."""


def of_columns(support: Any, event_size: int) -> Columns | None:
    """The support of each column from what users give; None where all are real.

    Raises:
        TypeError: An entry is no support.
        ValueError: A sequence of another length than `event_size`.
    """
    if support is None:
        return None
    if isinstance(support, Sequence) and not isinstance(support, str):
        if len(support) != event_size:
            raise ValueError(
                f"support must have one entry for each of the {event_size} columns, got "
                f"{len(support)}."
            )
        columns = tuple(_one(f"support[{i}]", entry) for i, entry in enumerate(support))
    else:
        columns = (_one("support", support),) * event_size
    return None if set(columns) == {real} else columns


def _one(name: str, value: Any) -> Support:
    if value is circle or value is integers:
        value = value()
    if isinstance(value, VectorSupport):
        raise TypeError(
            f"{name} must be the support of one column, got {value}, a support of whole vectors: "
            "it is for the parameters of flows.targets.from_log_density."
        )
    if not isinstance(value, Support):
        raise TypeError(
            f"{name} must be one of flows.supports, such as flows.supports.positive or "
            f"flows.supports.interval(0, 1), got {value!r}."
        )
    return value


def above_base(columns: Columns | None, base_space: Any, event_size: int) -> Columns | None:
    """The supports of a flow on a base: those given, and else `ANGLES` where the base has angles.

    Raises:
        ValueError: The base has no angles where there are circles, or angles where there are none.
    """
    spaces = (base_space,) * event_size if isinstance(base_space, str) else base_space
    if columns is None and ANGLES.space in spaces:
        columns = tuple(ANGLES if space == ANGLES.space else real for space in spaces)
    for i, space in enumerate(spaces):
        support = real if columns is None else columns[i]
        wanted = ANGLES.space if support.kind == "circle" else "numbers"
        if space != wanted:
            raise ValueError(
                f"base must be over {wanted} for the support {support} of column {i}, and is over "
                f"{space}: flows.ncsf makes flows over angles."
            )
    return columns


def of_kind(columns: Columns, *kinds: str) -> np.ndarray:
    """Which columns [D] are of one of the kinds."""
    return np.array([support.kind in kinds for support in columns])


def space(columns: Columns) -> Any:
    """What the columns hold, as `flows.distributions.Distribution.space` says it."""
    spaces = tuple(support.space for support in columns)
    return spaces[0] if len(set(spaces)) == 1 else spaces


def dequantized(columns: Columns) -> Columns:
    """The same, with the cells of integers in place of the integers."""
    change = lambda s: dataclasses.replace(s, kind="dequantized") if s.kind == "integers" else s
    return tuple(map(change, columns))

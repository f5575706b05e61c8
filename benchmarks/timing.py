"""Timing calls side by side: in turn, so that a busy machine slows all of them alike."""

import math
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 9
AT_LEAST = 3  # rounds, however slow a call is
BUDGET_S = 3.0  # for one call, over all rounds
SHORTEST_S = 0.004  # a quicker call is repeated until it takes as long
PAUSE_S = 0.02  # before each measurement: idle threads of the library before may still spin


def alternate(calls: dict[str, Callable[[], Any]]) -> dict[str, dict[str, float]]:
    """Times calls that block until they are done, in rounds of changing order.

    Args:
        calls: The calls by name; each is made once first, to warm up.

    Returns:
        For each name the median, the lower and the upper quartile in milliseconds.
    """
    order = random.Random(0)
    names = list(calls)
    for call in calls.values():
        call()
    repeats = {name: math.ceil(SHORTEST_S / _seconds(calls[name], 1)) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(ROUNDS):
        order.shuffle(names)
        for name in names:
            if turn < AT_LEAST or sum(times[name]) * repeats[name] < BUDGET_S:
                times[name].append(_seconds(calls[name], repeats[name]))
    return {name: _summary(times[name]) for name in calls}


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    time.sleep(PAUSE_S)
    if repeats > 1:
        call()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _summary(seconds: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median_ms": 1e3 * median, "low_ms": 1e3 * low, "high_ms": 1e3 * high}

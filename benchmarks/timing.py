"""Timing calls side by side: in turn, so that a busy machine slows all of them alike."""

import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

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


def about() -> dict[str, Any]:
    """What was measured on, and with."""
    device = jax.devices()[0].device_kind
    versions = {"jax": jax.__version__, "python": platform.python_version()}
    return {"device": device, "cores": os.cpu_count(), **versions}


def in_turn(arguments: list[str], before: str | None, repeats: int) -> dict[str, list[Any]]:
    """Runs a script in fresh processes, in turn on this library and on another checkout of it.

    Args:
        arguments: The script and its arguments; the last line that it prints is JSON.
        before: Path of the other checkout; None for none.
        repeats: How often each.

    Returns:
        What was printed, of each run, by "now" and, with another checkout, "before".
    """
    checkouts = ({"before": before} if before else {}) | {"now": Path(__file__).parent.parent}
    found: dict[str, list[Any]] = {label: [] for label in checkouts}
    for _ in tqdm(range(repeats), desc=" ".join([Path(arguments[0]).stem, *arguments[2:]])):
        for label, path in checkouts.items():
            environment = os.environ | {"PYTHONPATH": str(path)}
            done = subprocess.run(
                [sys.executable, *arguments], env=environment, check=True, stdout=subprocess.PIPE
            )
            found[label].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def median_and_range(values: list[float]) -> dict[str, float]:
    """The median, the least and the greatest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


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

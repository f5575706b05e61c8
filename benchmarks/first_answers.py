"""How long the first answer takes, in a fresh process: all of it, importing, and compiling.

    python benchmarks/first_answers.py [--repeats 5] [--before PATH] [--cases NAME ...] [--show]

`--before` names another checkout of the library, which is then measured in turn with this one.
"Kept" is this one, where earlier processes have left their programs in JAX's compilation cache.
Writes results/first_answers.json and prints the table of docs/benchmarks.md.
"""

# ruff: noqa: E402

import time

START = time.perf_counter()

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from unittest import mock

import jax
import jax.numpy as jnp
import tables
from flax import nnx
from timing import about, in_turn, median_and_range

import flows

IMPORTED = time.perf_counter()
RESULT = tables.RESULTS / "first_answers.json"
FOLDER = "JAX_COMPILATION_CACHE_DIR"
EVENTS = {
    "compiling": "/jax/core/compile/backend_compile_duration",
    "lowering": "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "tracing": "/jax/core/compile/jaxpr_trace_duration",
}


def fit():
    """One epoch over 20,000 rows."""
    x = jax.random.normal(jax.random.key(0), (20_000, 7))
    flow = flows.maf(7, standardize_with=x, rngs=nnx.Rngs(0))
    return flows.fit(flow, x, key=jax.random.key(1), max_epochs=1, progress=False).flow


def posterior(event_size: int):
    """A correlated normal with one curved coordinate, by default settings."""

    def log_density(theta):
        rest = theta.at[0].add(-0.3 * theta[1] ** 2)
        return -0.5 * jnp.sum(rest**2) - 0.2 * jnp.sum(rest) ** 2

    return flows.fit_posterior(
        log_density, event_size=event_size, key=jax.random.key(0), progress=False
    ).flow


def distill():
    """A hundred steps."""
    teacher = flows.maf(7, rngs=nnx.Rngs(0))
    return flows.distill(teacher, key=jax.random.key(0), num_steps=100, progress=False).student


CASES: dict[str, Callable] = {
    "fit, one epoch": fit,
    "fit_posterior, D = 4": lambda: posterior(4),
    "fit_posterior, D = 10": lambda: posterior(10),
    "fit_posterior, D = 30": lambda: posterior(30),
    "fit_posterior, D = 100": lambda: posterior(100),
    "distill, 100 steps": distill,
}


def seconds_of(case: str) -> dict[str, float]:
    """Does it in this process, which should be fresh."""
    spans: dict[str, list[tuple[float, float]]] = {event: [] for event in EVENTS.values()}

    def listen(event: str, duration: float, **_) -> None:
        if event in spans:
            now = time.perf_counter()
            spans[event].append((now - duration, now))

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.block_until_ready(nnx.state(CASES[case]()))
    seconds = {"total": time.perf_counter() - START, "importing": IMPORTED - START}
    # Traces contain traces, and at times compilations: what is inside another counts once.
    seen: list[tuple[float, float]] = []
    for name, event in EVENTS.items():
        before = covered(seen)
        seen += spans[event]
        seconds[name] = covered(seen) - before
    return seconds


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    length, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length


def with_programs_kept(arguments: list[str], repeats: int) -> list[dict[str, float]]:
    """The same in processes that find the programs of one before them on disk."""
    with tempfile.TemporaryDirectory() as folder:
        kept = {FOLDER: folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        with mock.patch.dict(os.environ, kept):
            return in_turn(arguments, None, 1 + repeats)["now"][1:]


def main() -> None:
    """Measures, writes the JSON, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--before", help="path of another checkout")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--show", action="store_true", help="only print the stored result")
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return print(json.dumps(seconds_of(options.one)))
    if not options.show:
        rows = []
        for case in options.cases:
            arguments = [__file__, "--one", case]
            os.environ.pop(FOLDER, None)
            found = in_turn(arguments, options.before, options.repeats)
            found["kept"] = with_programs_kept(arguments, options.repeats)
            for label, runs in found.items():
                parts = {name: median_and_range([run[name] for run in runs]) for name in runs[0]}
                rows.append({"case": case, "flows": label, **parts})
        result = about() | {"repeats": options.repeats, "rows": rows}
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return print(tables.of_first_answers(tables.load("first_answers")))


if __name__ == "__main__":
    main()

"""What a single call costs, made eagerly and under `jax.jit`: densities and draws of a MAF.

    python benchmarks/calls.py [--repeats 5] [--before PATH] [--show]

`--before` names another checkout of the library, which is then measured in turn with this one.
Writes results/calls.json and prints the table of docs/benchmarks.md.
"""

import argparse
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import tables
from flax import nnx
from timing import about, alternate, in_turn, median_and_range

import flows

RESULT = tables.RESULTS / "calls.json"
SIZE = 8


def milliseconds() -> dict[str, dict[str, float]]:
    """Median milliseconds of each call, made in both ways."""
    flow = flows.maf(SIZE, rngs=nnx.Rngs(0))
    key = jax.random.key(0)
    cases = {
        "log_prob of 5 rows": (lambda flow, x: flow.log_prob(x), jax.random.normal(key, (5, SIZE))),
        "one draw": (lambda flow, key: flow.sample(seed=key), key),
        "100,000 draws": (lambda flow, key: flow.sample(seed=key, sample_shape=(100_000,)), key),
    }
    times = {}
    for name, (function, argument) in cases.items():
        ways = {"eager": function, "jit": jax.jit(function)}
        calls = {
            way: functools.partial(_finish, call, flow, argument) for way, call in ways.items()
        }
        times[name] = {way: time["median_ms"] for way, time in alternate(calls).items()}
    return times


def _finish(call: Callable, *arguments: Any) -> Any:
    return jax.block_until_ready(call(*arguments))


def main() -> None:
    """Measures, writes the JSON, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--before", help="path of another checkout")
    parser.add_argument("--show", action="store_true", help="only print the stored result")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return print(json.dumps(milliseconds()))
    if not options.show:
        found = in_turn([__file__, "--one"], options.before, options.repeats)
        rows = [
            {"call": call, "flows": label}
            | {way: median_and_range([run[call][way] for run in runs]) for way in ("eager", "jit")}
            for call in found["now"][0]
            for label, runs in found.items()
        ]
        result = about() | {"repeats": options.repeats, "rows": rows}
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return print(tables.of_calls(tables.load("calls")))


if __name__ == "__main__":
    main()

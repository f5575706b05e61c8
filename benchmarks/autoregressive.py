"""What both directions of an autoregressive flow cost: ours, our floor, the naive loop, others.

Needs the extra `bench`; peers that are not installed are left out. Writes
`results/autoregressive.json` as it goes, and prints tables of docs/benchmarks.md. On a GPU the same
script runs; `--batches 65536` asks for what fits there.
"""

import argparse
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tables
from peers import (
    PEERS,
    Compiled,
    NaiveAutoregressive,
    floor,
    our_flow,
    ours,
    through_the_substitution,
)
from timing import about, alternate, median_and_range
from tqdm import tqdm

SIZES = ((2, 64), (8, 128), (43, 512), (64, 512), (128, 1024), (784, 1568))
BATCHES = (1, 256, 1000)
LAYERS = (1, 5)
TURNS = 3  # of the ratios of our own
LONGEST_S = {"sample": 6.0, "sample gradient": 2.0}  # expected to take longer: left out
RESULT = tables.RESULTS / "autoregressive.json"


def measure(size: int, width: int, batch: int, num_layers: int) -> dict:
    """Times everything at one size."""
    x = np.random.default_rng(1).normal(size=(batch, size)).astype(np.float32)
    flow = our_flow(size, width, num_layers)
    calls = {"ours": ours(flow, batch, x), "floor": floor(size, width, num_layers, x)}
    calls |= {name: make(size, width, num_layers, batch, x) for name, make in PEERS.items()}
    parallel = {
        kind: alternate({name: c[kind] for name, c in calls.items()})
        for kind in ("log_prob", "gradient")
    }

    blocked = our_flow(size, width, num_layers, inverse="blocked")
    jacobi = our_flow(size, width, num_layers, inverse="jacobi")
    naive = our_flow(size, width, num_layers, layer=NaiveAutoregressive)
    with through_the_substitution():
        autodiff = ours(blocked, batch, x, only=("sample gradient",))
    kinds = "sample", "sample gradient"
    calls |= {
        "ours, jacobi": ours(jacobi, batch, x, only=kinds),
        "ours, naive": ours(naive, batch, x, only=kinds),
        "ours, autodiff": autodiff,
    }
    # All but ours take a pass for each coordinate: guess how long before making the call.
    expected = {
        name: size * parallel["log_prob"].get(name, parallel["log_prob"]["ours"])["median_ms"] / 1e3
        for name in ("ours, naive", *PEERS)
    }
    sequential = {
        kind: alternate({
            name: c[kind]
            for name, c in calls.items()
            if kind in c and expected.get(name, 0) < LONGEST_S[kind]
        })
        for kind in kinds
    }  # fmt: skip
    compiled = {
        f"{name}, {kind}": call
        for name, c in calls.items()
        for kind, call in c.items()
        if isinstance(call, Compiled)
    }
    return {
        "D": size, "H": width, "batch": batch, "layers": num_layers,
        **parallel, **sequential, **own_ratios(calls["ours"]),
        "a pass for each coordinate, s": expected,
        "compile s": {name: call.compile_s for name, call in compiled.items()},
        "temporary memory MB": {name: call.temporary_mb for name, call in compiled.items()},
        "roofline ms": roofline(size, width, batch, num_layers),
    }  # fmt: skip


def own_ratios(calls: dict[str, Compiled]) -> dict[str, dict]:
    """What sampling costs beside `log_prob`, and their gradients, each pair measured in turn.

    (Two minutes later a machine may be half as fast: medians of its own for each do not compare.)
    """
    ratios = {}
    for one, other in (("sample", "log_prob"), ("sample gradient", "gradient")):
        pairs = [alternate({kind: calls[kind] for kind in (one, other)}) for _ in range(TURNS)]
        values = [times[one]["median_ms"] / times[other]["median_ms"] for times in pairs]
        ratios[f"{one} / {other}"] = median_and_range(values)
    return ratios


def roofline(size: int, width: int, batch: int, num_layers: int) -> float:
    """The least one pass could take: its weights and activations moved, its products made."""
    weights = sum(mask.sum() for mask in _masks(size, width))
    products = 2 * batch * weights * num_layers
    moved = 4 * num_layers * (weights + 2 * batch * (2 * width + 3 * size))
    flops, bandwidth = machine()
    return float(1e3 * max(products / flops, moved / bandwidth))


def _masks(size: int, width: int) -> list[np.ndarray]:
    return our_flow(size, width, 1).bijector.layers.bijectors[0].bijector.conditioner.masks()


_MACHINE: list[float] = []


def machine() -> list[float]:
    """Measured once: float32 operations a second of a large product, bytes a second of a copy."""
    if not _MACHINE:
        a, b = jnp.ones((4096, 4096)), jnp.ones(2**26)
        times = alternate({
            "product": Compiled(lambda a: a @ a, a),
            "copy": Compiled(lambda b: b + 1, b),
        })  # fmt: skip
        _MACHINE.append(2 * 4096**3 / times["product"]["median_ms"] * 1e3)
        _MACHINE.append(8 * 2**26 / times["copy"]["median_ms"] * 1e3)
    return _MACHINE


def main() -> None:
    """Measures, writes the JSON, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--sizes", type=int, nargs="+", default=[d for d, _ in SIZES], help="D")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--show", action="store_true", help="only print what --result holds")
    options = parser.parse_args()
    if not options.show:
        run(options)
    rows = json.loads(options.result.read_text())["rows"]
    print(tables.of_ours(rows), tables.of_others(rows), sep="\n\n")


def run(options: argparse.Namespace) -> None:
    """Measures every case and writes the JSON after each."""
    rows: list[dict] = []
    cases = [
        (d, h, b, n) for n in options.layers for d, h in SIZES if d in options.sizes
        for b in options.batches
    ]  # fmt: skip
    for case in tqdm(cases):
        rows.append(measure(*case))
        flops, bandwidth = machine()
        summary = {
            **about(),
            "product, GFLOP/s": flops / 1e9,
            "copy, GB/s": bandwidth / 1e9,
            "rows": rows,
        }
        options.result.parent.mkdir(exist_ok=True)
        options.result.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()

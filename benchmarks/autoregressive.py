"""What both directions of an autoregressive flow cost: ours, our floor, the naive loop, others.

Needs the extra `bench`; peers that are not installed are left out (those on torch need
`pip install torch` first). Writes `results/autoregressive.json` as it goes, and prints the table
that the README shows. On a GPU the same script runs; `--batches 65536` asks for what fits there.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from peers import (
    PEERS,
    Compiled,
    NaiveAutoregressive,
    floor,
    our_flow,
    ours,
    through_the_substitution,
)
from timing import alternate
from tqdm import tqdm

SIZES = ((2, 64), (8, 128), (43, 512), (64, 512), (128, 1024), (784, 1568))
BATCHES = (1, 256, 1000)
LAYERS = (1, 5)
LONGEST_S = 6.0  # a sequential call expected to take longer is left out
RESULT = Path(__file__).parent / "results" / "autoregressive.json"
KINDS = "log_prob", "gradient", "sample", "sample gradient"


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

    # The naive loop takes a pass for each coordinate: guess before making the call.
    left_out = {
        name: expected
        for name in PEERS
        if (expected := size * parallel["log_prob"][name]["median_ms"] / 1e3) > LONGEST_S
    }
    kinds = "sample", "sample gradient"
    rivals = {name: c for name, c in calls.items() if name not in ("floor", *left_out)}
    rivals["ours, jacobi"] = ours(
        our_flow(size, width, num_layers, inverse="jacobi"), batch, x, only=kinds
    )
    if size * parallel["log_prob"]["ours"]["median_ms"] / 1e3 < LONGEST_S:
        naive = our_flow(size, width, num_layers, layer=NaiveAutoregressive)
        rivals["ours, naive"] = ours(naive, batch, x, only=kinds)
    with through_the_substitution():
        rivals["ours, autodiff"] = ours(flow, batch, x, only=("sample gradient",))
    sequential = {
        kind: alternate({name: c[kind] for name, c in rivals.items() if kind in c})
        for kind in kinds
    }
    compiled = {
        f"{name}, {kind}": call
        for name, c in (calls | rivals).items()
        for kind, call in c.items()
        if isinstance(call, Compiled)
    }
    return {
        "D": size, "H": width, "batch": batch, "layers": num_layers,
        **parallel, **sequential,
        "left out, expected s": left_out,
        "compile s": {name: call.compile_s for name, call in compiled.items()},
        "temporary memory MB": {name: call.temporary_mb for name, call in compiled.items()},
        "roofline ms": roofline(size, width, batch, num_layers),
    }  # fmt: skip


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


def table(rows: list[dict]) -> str:
    """Ratios of medians, in Markdown."""

    def ratio(row: dict, kind: str, name: str, below: tuple[str, str]) -> str:
        if name in row["left out, expected s"]:
            return "-"
        if name not in row[kind]:
            return ""
        value = row[kind][name]["median_ms"] / row[below[1]][below[0]]["median_ms"]
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"

    columns = {
        "sample / log_prob": ("sample", "ours", ("ours", "log_prob")),
        "gradient: sample / log_prob": ("sample gradient", "ours", ("ours", "gradient")),
    }
    for kind in ("log_prob", "gradient", "sample", "sample gradient"):
        rivals = ("floor", *PEERS) if kind in ("log_prob", "gradient") else PEERS
        for name in rivals:
            columns[f"{kind}: {name} / ours"] = (kind, name, ("ours", kind))
    for name in ("ours, naive", "ours, jacobi"):
        columns[f"sample: {name[6:]} / blocked"] = ("sample", name, ("ours", "sample"))
    columns["sample gradient: autodiff / implicit"] = (
        "sample gradient", "ours, autodiff", ("ours", "sample gradient")
    )  # fmt: skip
    heads = ["D, H", "batch", "layers", *columns]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [f"{row['D']}, {row['H']}", str(row["batch"]), str(row["layers"])]
        cells += [ratio(row, *column) for column in columns.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--sizes", type=int, nargs="+", default=[d for d, _ in SIZES], help="D")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    device = jax.devices()[0]
    rows: list[dict] = []
    cases = [
        (d, h, b, n) for n in options.layers for d, h in SIZES if d in options.sizes
        for b in options.batches
    ]  # fmt: skip
    for case in tqdm(cases):
        rows.append(measure(*case))
        flops, bandwidth = machine()
        summary = {
            "device": f"{device.device_kind}, {jax.local_device_count()} device",
            "jax": jax.__version__,
            "product, GFLOP/s": flops / 1e9,
            "copy, GB/s": bandwidth / 1e9,
            "rows": rows,
        }
        options.result.parent.mkdir(exist_ok=True)
        options.result.write_text(json.dumps(summary, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()

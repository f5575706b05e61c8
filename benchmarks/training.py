"""What training costs: ours, FlowJAX's `fit_to_data`, and plain loops around zuko and torch.

Needs the extra `bench`; zuko is left out if it is not installed. Writes `results/training.json` and
prints the tables of docs/benchmarks.md. Parts: epochs, starts, compilation, devices, memory,
precision.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tables
from flax import nnx
from timing import about
from tqdm import tqdm

import flows
from flows.density import MaximumLikelihood
from flows.training import train

RESULT = tables.RESULTS / "training.json"
CASES = ((2, 8, (50,), 18_000, 100), (2, 8, (50,), 18_000, 500), (43, 5, (512, 512), 18_000, 500))
ROUNDS = 5
MEMMAP_GB = 5.0
DEVICES = 1, 2, 4, 8

warnings.filterwarnings("ignore", module="flowjax")


def data(size: int, num_rows: int) -> np.ndarray:
    """A banana in every pair of coordinates."""
    x = np.random.default_rng(0).normal(size=(num_rows, size)).astype(np.float32)
    x[:, 1:] += 0.5 * x[:, :-1] ** 2
    return x


# Each returns a function that trains for a number of epochs, validation and shuffling included.


def ours(size, num_layers, hidden_sizes, num_rows, batch_size) -> Callable[[int], None]:
    """`flows.fit`."""
    x = data(size, round(num_rows / 0.9))
    flow = flows.maf(
        size, num_layers=num_layers, hidden_sizes=hidden_sizes, activation="relu", rngs=nnx.Rngs(0)
    )

    def fit(num_epochs: int) -> None:
        flows.fit(
            flow, x, key=jax.random.key(0), batch_size=batch_size, max_epochs=num_epochs,
            patience=None, progress=False,
        )  # fmt: skip

    return fit


def flowjax(size, num_layers, hidden_sizes, num_rows, batch_size) -> Callable[[int], None]:
    """FlowJAX, https://github.com/danielward27/flowjax."""
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow
    from flowjax.train import fit_to_data

    x = jnp.asarray(data(size, round(num_rows / 0.9)))
    flow = masked_autoregressive_flow(
        jax.random.key(0), base_dist=Normal(jnp.zeros(size)), flow_layers=num_layers,
        nn_width=hidden_sizes[0], nn_depth=len(hidden_sizes),
    )  # fmt: skip

    def fit(num_epochs: int) -> None:
        fit_to_data(
            jax.random.key(0), flow, x, batch_size=batch_size, max_epochs=num_epochs,
            max_patience=num_epochs + 1, val_prop=0.1, show_progress=False,
        )  # fmt: skip

    return fit


def zuko(size, num_layers, hidden_sizes, num_rows, batch_size) -> Callable[[int], None]:
    """zuko, https://github.com/probabilists/zuko, in the loop its users write."""
    import torch
    from zuko.flows import MAF

    x = torch.from_numpy(data(size, round(num_rows / 0.9)))
    train_rows, held_out = x[:num_rows], x[num_rows:]
    flow = MAF(size, transforms=num_layers, hidden_features=hidden_sizes)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)

    def fit(num_epochs: int) -> None:
        for _ in range(num_epochs):
            for rows in torch.randperm(num_rows).split(batch_size):
                optimizer.zero_grad()
                loss = -flow().log_prob(train_rows[rows]).mean()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
                optimizer.step()
            with torch.no_grad():
                -flow().log_prob(held_out).mean().item()

    return fit


PEERS = {
    make.__name__: make for make in (ours, flowjax, zuko) if make is ours
    or importlib.util.find_spec(make.__name__)
}  # fmt: skip


def seconds(call: Callable, *args) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    call(*args)
    return time.perf_counter() - start


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def epochs() -> list[dict]:
    """Seconds an epoch takes: the difference between a long and a short fit, in turn."""
    rows = []
    for case in tqdm(CASES, desc="epochs"):
        fits = {name: make(*case) for name, make in PEERS.items()}
        few, many = (2, 12) if case[0] == 2 else (1, 4)
        times: dict[str, list[float]] = {name: [] for name in fits}
        for fit in fits.values():
            fit(few)
        for _ in range(ROUNDS):
            for name, fit in fits.items():
                times[name].append((seconds(fit, many) - seconds(fit, few)) / (many - few))
        rows.append(
            dict(zip(("D", "layers", "hidden", "rows", "batch"), case, strict=True))
            | {name: quartiles(values) for name, values in times.items()}
        )
    return rows


def starts() -> dict[str, dict]:
    """Seconds of a repeated fit of one step of a batch of 100, all included."""
    fits = {name: make(2, 8, (50,), 100, 100) for name, make in PEERS.items()}
    times: dict[str, list[float]] = {name: [] for name in fits}
    for _ in range(ROUNDS + 1):
        for name, fit in fits.items():
            times[name].append(seconds(fit, 1))
    return {name: quartiles(values[1:]) for name, values in times.items()}


def compilation() -> dict[str, dict]:
    """Seconds of a first fit of one step, by the number of layers."""
    times: dict[str, list[float]] = {"2": [], "32": []}
    for _ in range(ROUNDS):
        for layers, values in times.items():
            fit = ours(2, int(layers), (50,), 100, 100)
            jax.clear_caches()
            values.append(seconds(fit, 1))
    return {layers: quartiles(values) for layers, values in times.items()}


def precision() -> dict:
    """Held-out log-likelihood after training with bfloat16 and with float32 products."""
    x, test = np.split(data(6, 40_000), [20_000])
    flow = flows.maf(6, rngs=nnx.Rngs(0))
    fit = lambda dtype: flows.fit(
        flow, x, key=jax.random.key(0), max_epochs=30, compute_dtype=dtype, progress=False
    ).flow.log_prob(test)
    exact, rough = np.asarray(fit(None)), np.asarray(fit(jnp.bfloat16))
    gap = rough - exact
    return {
        "float32": float(exact.mean()),
        "bfloat16": float(rough.mean()),
        "gap": float(gap.mean()),
        tables.SPREAD: float(gap.std() / np.sqrt(len(gap))),
    }


def devices() -> list[dict]:
    """Steps a second with 1,000 rows for each of several devices forced on this host."""
    rows = []
    for number in tqdm(DEVICES, desc="devices"):
        flags = f"--xla_force_host_platform_device_count={number}"
        out = _in_another_process("--one-device-count", str(number), XLA_FLAGS=flags)
        rows.append({"devices": number, "steps per second": float(out)})
    return rows


def _steps_per_second(number: int) -> float:
    x = data(8, 20_000)
    flow = flows.maf(8, hidden_sizes=(128, 128), rngs=nnx.Rngs(0))
    rates: list[float] = []
    train(
        flow, MaximumLikelihood(), (jnp.asarray(x), None, None), key=jax.random.key(0),
        optimizer=optax.adam(1e-3), batch_size=1000 * number, num_steps=400, progress=False,
        callback=lambda state: rates.append(state.steps_per_second),
    )  # fmt: skip
    return statistics.median(rates[1:])


def memory() -> dict[str, float]:
    """Peak resident memory in GB of a fit to a memory map, beyond that of a fit to few rows."""
    num_rows = int(MEMMAP_GB * 1e9 / 4 / 16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        x = np.lib.format.open_memmap(path, "w+", np.float32, (num_rows, 16))
        rng = np.random.default_rng(0)
        for part in tqdm(np.array_split(np.arange(num_rows), 50), desc="writing"):
            x[part[0] : part[-1] + 1] = rng.standard_normal((len(part), 16), np.float32)
        del x
        few, all_rows = (
            float(_in_another_process("--one-memmap", str(path), str(rows)))
            for rows in (20_000, num_rows)
        )
    return {"file": MEMMAP_GB, "few rows": few, "all rows": all_rows, "beyond": all_rows - few}


def _peak_memory(path: str, num_rows: int) -> float:
    """Fits for one epoch, looking at the resident memory all the while."""
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            peak[0] = max(peak[0], pages * os.sysconf("SC_PAGE_SIZE") / 1e9)

    watcher = threading.Thread(target=watch)
    watcher.start()
    x = np.load(path, mmap_mode="r")[:num_rows]
    flow = flows.maf(16, num_layers=2, hidden_sizes=(32,), rngs=nnx.Rngs(0))
    flows.fit(flow, x, key=jax.random.key(0), batch_size=8192, max_epochs=1)
    over.set()
    watcher.join()
    return peak[0]


def _in_another_process(*arguments: str, **environment: str) -> str:
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(
        command, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.splitlines()[-1]


PARTS = {part.__name__: part for part in (epochs, starts, compilation, devices, memory, precision)}


def main() -> None:
    """Measures the parts asked for, writes the JSON, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--show", action="store_true", help="only print what --result holds")
    parser.add_argument("--one-device-count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one-memmap", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_device_count:
        return print(_steps_per_second(options.one_device_count))
    if options.one_memmap:
        return print(_peak_memory(options.one_memmap[0], int(options.one_memmap[1])))
    result = json.loads(options.result.read_text()) if options.result.exists() else {}
    for name in [] if options.show else options.parts:
        result |= about()
        result[name] = PARTS[name]()
        options.result.write_text(json.dumps(result, indent=1) + "\n")
    if "epochs" in result:
        print(tables.of_epochs(result["epochs"]), end="\n\n")
    return print(tables.of_training(result))


if __name__ == "__main__":
    main()

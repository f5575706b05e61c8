"""What `flows.fit` does when things go wrong: tries each fault and says what came of it.

Writes `results/faults.json` and prints the table of docs/benchmarks.md.
"""

import _thread
import json
import re
import resource
import signal
import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import optax
import tables
from flax import nnx
from timing import about

import flows
from flows.training import checkpoints, on_host

RESULT = tables.RESULTS / "faults.json"
NUM_ROWS = 2000
checkpoints.SHARE = 1e9  # save at every look of the host,
on_host.SECONDS_PER_CHUNK = 0.02  # which looks often
GOOD = np.random.default_rng(0).normal(size=(NUM_ROWS, 2)) @ [[1.0, 0.5], [0.0, 1.0]]
Fit = Callable[..., flows.FitResult]


def fit(x=GOOD, **options) -> flows.FitResult:
    """A small fit."""
    flow = flows.maf(2, num_layers=2, hidden_sizes=(16,), rngs=nnx.Rngs(0))
    return flows.fit(
        flow, x, **{"key": jax.random.key(0), "max_epochs": 10, "progress": False} | options
    )


def spoiled(value: float, rows: slice) -> np.ndarray:
    """Data with some entries replaced."""
    x = GOOD.copy()
    x[rows, 0] = value
    return x


@contextmanager
def directory():
    """An empty directory."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as path:
        yield Path(path)


def full_disk():
    """No file of more than 200 bytes can be written."""
    with directory() as path:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))  # files larger than that fail
        try:
            return fit(checkpoint_dir=path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def read_only():
    """Not even root can write there."""
    return fit(checkpoint_dir="/proc/flows")


def corrupted():
    """Half of each file of the newest checkpoint is gone."""
    with directory() as path:
        fit(checkpoint_dir=path)
        newest = max(path.glob("[0-9]*"), key=lambda p: int(p.name))
        for file in newest.rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        return fit(checkpoint_dir=path)


def changed_data():
    """The same directory, other data."""
    with directory() as path:
        fit(checkpoint_dir=path)
        return fit(GOOD + 1, checkpoint_dir=path)


def ctrl_c():
    """Ctrl-C at the first look of the host."""
    return fit(max_epochs=100_000, patience=None, callback=lambda state: _thread.interrupt_main())


def raising_callback():
    """An error in the user's own code."""

    def callback(state):
        raise RuntimeError("mine")

    return fit(callback=callback)


FAULTS: dict[str, Callable[[], flows.FitResult]] = {
    "none": fit,
    "3 rows are NaN": lambda: fit(spoiled(np.nan, slice(7, 10))),
    "1 value is infinite": lambda: fit(spoiled(np.inf, slice(7, 8))),
    "1 value is 1e30": lambda: fit(spoiled(1e30, slice(7, 8))),
    "every row twice": lambda: fit(np.repeat(GOOD, 2, axis=0)),
    "20 rows, each 100 times": lambda: fit(np.repeat(GOOD[:20], 100, axis=0)),
    "a column of integers": lambda: fit(np.round(GOOD * [1, 2])),
    "the same with dequantize=True": lambda: fit(np.round(GOOD * [1, 2]), dequantize=True),
    "a constant column": lambda: fit(GOOD * [1, 0]),
    "columns 1e6 apart in scale": lambda: fit(GOOD * [1, 1e6]),
    "3 rows of data": lambda: fit(GOOD[:3]),
    "1 row of data": lambda: fit(GOOD[:1]),
    "learning rate 1e3": lambda: fit(optimizer=optax.adam(1e3)),
    "disk full while checkpointing": full_disk,
    "checkpoint_dir cannot be written": read_only,
    "newest checkpoint truncated": corrupted,
    "other data on resume": changed_data,
    "Ctrl-C": ctrl_c,
    "a callback that raises": raising_callback,
}


def outcome(fault: Callable[[], flows.FitResult]) -> str:
    """What came of it, in a line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = fault()
        except Exception as error:
            kept = (
                "; `.module` is a flow"
                if isinstance(getattr(error, "module", 0), flows.Flow)
                else ""
            )
            said = [f"{type(error).__name__}: {error}{kept}"]
        else:
            loss = np.nanmin(result.history["validation"], initial=np.inf)
            said = [f"{result.stop_reason}, validation loss {loss:.3g}"]
    said += sorted({f"warning: {warning.message}" for warning in caught})[:1]
    text = ". ".join(said).replace("\n", " ").replace("|", "\\|")
    text = re.sub(rf"{tempfile.gettempdir()}/\w+", "DIR", text)
    return re.sub(r"(OUT_OF_RANGE:).*", r"\1 ...", text)


def main() -> None:
    """Tries them all, writes the JSON, prints the table."""
    result = about() | {"faults": {name: outcome(fault) for name, fault in FAULTS.items()}}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(tables.of_faults(result))


if __name__ == "__main__":
    main()

"""Density of five real tables in equal time on one core, beside FlowJAX and zuko.

    python benchmarks/density.py [--tables NAME ...] [--fits NAME ...] [--seconds S] [--seeds N]
                                 [--data FOLDER] [--show]

Needs the extra `bench` and the tables (see `tables_of_data.py`). Every fit gets the same seconds,
compiling aside, and the same rows, networks (two hidden layers), batches and number of layers.
Epochs are what fits into the time; the learning rate then falls by a cosine, and the epoch that is
best on validation is scored on the test rows. Ours run with their defaults (a peak of 6e-3), the
others at a peak of 1e-3, twice FlowJAX's default. Results are
added to results/density.json, fit by fit, of which density_chart.py draws docs/figures/density.png.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

if __name__ == "__main__":  # before JAX and torch start their threads
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
import optax
import tables
import tables_of_data
from flax import nnx
from tables_of_data import Table
from timing import about

import flows

RESULT = tables.RESULTS / "density.json"
LAYERS, PEAK = 5, 1e-3


class Fitted(NamedTuple):
    """A fit: log densities of the test rows, and what it was like on the way."""

    log_prob: np.ndarray
    seconds: float
    validation: list[float]  # log-likelihood after each epoch


def ours(
    make: Callable[..., flows.Flow],
    learning_rate: float | None = None,
    members: int = 1,
    **options: Any,
) -> Callable[..., Fitted]:
    """Fits one of our flows, or an even mixture of several, with the defaults of `flows.fit`."""

    def fit(table: Table, seed: int, epochs: int) -> Fitted:
        fits = [one(table, members * seed + i, epochs) for i in range(members)]
        log_prob = np.logaddexp.reduce([each.log_prob for each in fits]) - np.log(members)
        return Fitted(log_prob, sum(each.seconds for each in fits), fits[0].validation)

    def one(table: Table, seed: int, epochs: int) -> Fitted:
        flow = make(
            table.train.shape[1], num_layers=LAYERS, hidden_sizes=(table.width,) * 2,
            standardize_with=table.train, rngs=nnx.Rngs(seed), **options,
        )  # fmt: skip
        start = time.perf_counter()
        result = flows.fit(
            flow, table.train, validation=table.validation, batch_size=table.batch,
            max_epochs=epochs, key=jax.random.key(seed), patience=None, progress=False,
            learning_rate=learning_rate,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        log_prob = in_blocks(jax.jit(lambda x: result.flow.log_prob(x)), table.test)
        return Fitted(log_prob, seconds, (-result.history["validation"]).tolist())

    return fit


def gaussianization(
    event_size: int, *, num_layers: int, hidden_sizes: tuple[int, ...], **options: Any
) -> flows.Flow:
    """It has no networks, and many small layers instead."""
    return flows.gaussianization(event_size, **options)


def flowjax(kind: str, splines: bool) -> Callable[..., Fitted]:
    """Fits one of FlowJAX's flows with its own `fit_to_data`."""

    def fit(table: Table, seed: int, epochs: int) -> Fitted:
        from flowjax import flows as fj
        from flowjax.bijections import RationalQuadraticSpline
        from flowjax.distributions import Normal
        from flowjax.train import fit_to_data

        size, rows = table.train.shape[1], np.concatenate([table.train, table.validation])
        key = jax.random.key(seed)
        flow = getattr(fj, kind)(
            key, base_dist=Normal(jnp.zeros(size)), flow_layers=LAYERS, nn_width=table.width,
            nn_depth=2,
            transformer=RationalQuadraticSpline(knots=8, interval=5) if splines else None,
        )  # fmt: skip
        steps = epochs * (len(table.train) // table.batch)
        start = time.perf_counter()
        flow, losses = fit_to_data(
            key, flow, rows, optimizer=schedule(steps), max_epochs=epochs, max_patience=epochs,
            batch_size=table.batch, val_prop=len(table.validation) / len(rows),
            show_progress=False,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        log_prob = in_blocks(jax.jit(lambda x: flow.log_prob(x)), table.test)
        return Fitted(log_prob, seconds, [-loss for loss in losses["val"]])

    return fit


def schedule(steps: int) -> optax.GradientTransformation:
    """Adam with warm-up and cosine decay."""
    rate = optax.warmup_cosine_decay_schedule(0.0, PEAK, min(100, steps // 10), max(steps, 2))
    return optax.chain(optax.clip_by_global_norm(5.0), optax.adam(rate))


def zuko(name: str, **options: Any) -> Callable[..., Fitted]:
    """Fits one of zuko's flows with a plain loop."""

    def fit(table: Table, seed: int, epochs: int) -> Fitted:
        import torch
        from zuko import flows as zf

        torch.set_num_threads(1)
        torch.manual_seed(seed)
        size = table.train.shape[1]
        flow = getattr(zf, name)(
            size, transforms=LAYERS, hidden_features=(table.width,) * 2, **options
        )
        x, validation = map(torch.from_numpy, (table.train, table.validation))
        optimizer = torch.optim.Adam(flow.parameters(), lr=PEAK)
        per_epoch = len(x) // table.batch
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * per_epoch)
        best, curve = {}, []
        start = time.perf_counter()
        for _ in range(epochs):
            order = torch.randperm(len(x))
            for i in range(per_epoch):
                rows = x[order[i * table.batch : (i + 1) * table.batch]]
                optimizer.zero_grad(set_to_none=True)
                (-flow().log_prob(rows).mean()).backward()
                torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
                optimizer.step()
                decay.step()
            with torch.no_grad():
                parts = [flow().log_prob(part) for part in validation.split(4096)]
                curve.append(float(torch.cat(parts).mean()))
            if curve[-1] == max(curve):
                best = {key: value.clone() for key, value in flow.state_dict().items()}
        seconds = time.perf_counter() - start
        flow.load_state_dict(best)
        with torch.no_grad():
            score = lambda rows: flow().log_prob(torch.from_numpy(rows)).numpy()
            return Fitted(in_blocks(score, table.test), seconds, curve)

    return fit


def in_blocks(log_prob: Callable[[np.ndarray], Any], x: np.ndarray) -> np.ndarray:
    """Log densities of many rows, a block at a time."""
    return np.concatenate([np.asarray(log_prob(x[i : i + 4096])) for i in range(0, len(x), 4096)])


COUPLING, AUTOREGRESSIVE = "coupling_flow", "masked_autoregressive_flow"
FITS: dict[str, Callable[..., Fitted]] = {
    "flows maf": ours(flows.maf),
    "flows nsf": ours(flows.nsf),
    "flows nsf autoregressive": ours(flows.nsf, autoregressive=True),
    "flows gaussianization": ours(gaussianization, learning_rate=1e-2),
    "FlowJAX MAF": flowjax(AUTOREGRESSIVE, splines=False),
    "FlowJAX spline MAF": flowjax(AUTOREGRESSIVE, splines=True),
    "FlowJAX spline coupling": flowjax(COUPLING, splines=True),
    "zuko MAF": zuko("MAF"),
    "zuko NSF": zuko("NSF"),
}
MIXTURES = {  # only if asked for
    "flows maf, three as a mixture": ours(
        flows.maf, members=3, learning_rate=1e-2, permutation="random"
    ),
}


def in_time(name: str, table: Table, seed: int, seconds: float) -> Fitted:
    """The fit with as many epochs as take so many seconds."""
    jax.clear_caches()  # or memory runs out of maps over ten folds
    fit = (FITS | MIXTURES)[name]
    fit(table, seed, 1)  # ours compile once for all, FlowJAX's in every call
    short = fit(table, seed, 1).seconds
    more = 1
    while (taken := fit(table, seed, 1 + more).seconds - short) < seconds / 20:
        more *= 4  # so that the difference is not noise
    return fit(table, seed, max(2, round(seconds * more / taken)))


def measure(name: str, of_table: str, folder: str, seed: int, seconds: float) -> dict[str, Any]:
    """One row of the results: of a table in folds, the mean over them."""
    fits = [
        in_time(name, table, seed, seconds) for table in tables_of_data.TABLES[of_table](folder)
    ]
    log_prob = np.concatenate([fit.log_prob for fit in fits])
    return {
        "table": of_table, "fit": name, "seed": seed, "budget s": seconds,
        "seconds": float(np.mean([fit.seconds for fit in fits])),
        "epochs": float(np.mean([len(fit.validation) for fit in fits])),
        "test": float(log_prob.mean()), "error": float(log_prob.std() / len(log_prob) ** 0.5),
        "validation": fits[0].validation,
    }  # fmt: skip


def main() -> None:
    """Measures, adds to the JSON, prints the table and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=tables_of_data.TABLES,
                        default=list(tables_of_data.TABLES)[:5])  # fmt: skip
    parser.add_argument("--fits", nargs="+", choices=FITS | MIXTURES, default=list(FITS))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", default=tables_of_data.FOLDER)
    parser.add_argument("--show", action="store_true", help="only print the stored result")
    options = parser.parse_args()
    if not options.show:
        rows = tables.load("density")["rows"] if RESULT.exists() else []
        for seed in range(options.seeds):
            for table in options.tables:
                for name in options.fits:
                    row = measure(name, table, options.data, seed, options.seconds)
                    print({key: value for key, value in row.items() if key != "validation"})
                    same = ("table", "fit", "seed", "budget s")
                    rows = [old for old in rows if any(old[k] != row[k] for k in same)] + [row]
                    RESULT.write_text(json.dumps(about() | {"rows": rows}, indent=1) + "\n")
    print(tables.of_density(tables.load("density")["rows"]))


if __name__ == "__main__":
    main()

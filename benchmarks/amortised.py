"""Neural posterior estimation with `flows.fit`: four tasks of sbibm against their reference draws.

    python benchmarks/amortised.py [--tasks NAME ...] [--simulations N ...] [--members N]
                                   [--observations N] [--draws N] [--data FOLDER] [--again] [--show]

A conditional flow q(theta | x) is fitted to simulations (theta, x), once for all observations. C2ST
is that of sbibm: how well a network of two layers of 10 D units tells the flow's draws from the
reference's, in five folds, both scaled by the reference's moments; 0.5 is perfect. Beside it the
NPE of sbibm, whose own runs stand in PUBLISHED. "calibrated" are the parameters whose ranks in
simulation-based calibration are uniform, p > 0.01: of 1,000 fresh theta among draws given their x,
in 20 bins, five times with others (a perfect posterior has 99 of 100).

Each task at each number of simulations is added to results/amortised.json when it is done, and left
out of the next run unless `--again`. What else was tried is in amortised.md.
"""

import argparse
import functools
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":  # before JAX starts its threads
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import sbi_tasks
import tables
from flax import nnx
from sbi_tasks import TASKS
from sklearn.neural_network import MLPClassifier
from timing import about
from tqdm import tqdm

import flows

RESULT = tables.RESULTS / "amortised.json"
SIMULATIONS = 1_000, 10_000, 100_000
EMBEDDING = 64, 64
MEMBER_EMBEDDING, MEMBER_EPOCHS = (128, 128, 128), 30  # of each flow of a mixture
NUM_RANKED, REPEATS, UNIFORM = 1_000, 5, 0.01
PUBLISHED = {  # means over the ten observations, from sbi-benchmark/results on GitHub
    # benchmarking_sbi/results/supplement_hyperparameters_snpe.csv, NPE-NSF
    "two_moons": (0.725, 0.606, 0.542),
    "slcp": (0.975, 0.901, 0.831),
    "gaussian_linear": (0.694, 0.552, 0.506),
    # gaussian_mixture_rerun/results/gaussian_mixture_rerun.csv: the task as corrected in 1.1.0
    "gaussian_mixture": (0.716, 0.615, 0.548),
}


def fitted(
    name: str, theta: np.ndarray, x: np.ndarray, members: int
) -> tuple[flows.Flow, list[flows.FitResult]]:
    """The recipe, the same for all tasks: the defaults, but for networks that x goes through.

    Members of an even mixture have wider ones, and stop sooner.
    """
    hidden_sizes, epochs = (EMBEDDING, 100) if members == 1 else (MEMBER_EMBEDDING, MEMBER_EPOCHS)
    fits = []
    for seed in range(members):
        flow = flows.nsf(
            theta.shape[1], context_size=x.shape[1], support=TASKS[name].support,
            autoregressive=True, standardize_with=(theta, x), rngs=nnx.Rngs(seed),
            embed=functools.partial(flows.conditioners.MLP, hidden_sizes=hidden_sizes),
        )  # fmt: skip
        fits.append(flows.fit(flow, theta, context=x, key=jax.random.key(seed), max_epochs=epochs))
    flow = fits[0].flow if members == 1 else flows.Ensemble([fit.flow for fit in fits])
    return flow, fits


def c2st(reference: np.ndarray, draws: np.ndarray) -> float:
    """The accuracy of sbibm's classifier, on columns scaled by the reference's moments."""
    mean, std, size = reference.mean(axis=0), reference.std(axis=0, ddof=1), reference.shape[1]
    network = MLPClassifier((10 * size, 10 * size), max_iter=10_000, random_state=1)
    scaled = (reference - mean) / std, (draws - mean) / std
    return float(flows.divergences.c2st(*scaled, seed=1, classifier=network).value)


def calibration(flow: flows.Flow, name: str, rng: np.random.Generator) -> list[list[float]]:
    """p-values of uniform ranks [repeats, D] (Talts et al. 2018, arXiv:1804.06788)."""
    p = []
    for i in range(REPEATS):
        theta, x = TASKS[name].simulations(rng, NUM_RANKED)
        report = flows.check_calibration(flow, theta, x, key=jax.random.key(i), num_draws=199)
        p.append(report.p_values.tolist())
    return p


def measure(
    name: str, simulations: int, members: int, num_observations: int, num_draws: int, folder: str
) -> dict[str, Any]:
    """One row of the results."""
    rng = np.random.default_rng(simulations)
    theta, x = TASKS[name].simulations(rng, simulations)
    start = time.process_time()  # of the one core: others may be using it
    flow, fits = fitted(name, theta, x, members)
    seconds = time.process_time() - start
    file = np.load(f"{folder}/{name}.npz")
    accuracies = []
    for i in tqdm(range(num_observations), desc=f"{name}, {simulations}: C2ST"):
        posterior = flow.condition(file["observations"][i].astype(np.float32))
        draws = posterior.sample(seed=jax.random.key(2 + i), sample_shape=(num_draws,))
        accuracies.append(c2st(file["reference"][i, :num_draws], np.asarray(draws)))
    return {
        "task": name, "simulations": simulations, "members": members, "seconds": seconds,
        "epochs": sum(len(fit.history["validation"]) for fit in fits),
        "stop": fits[-1].stop_reason, "draws": num_draws,
        "validation": float(np.mean([np.min(fit.history["validation"]) for fit in fits])),
        "c2st": accuracies, "mean": float(np.mean(accuracies)), "std": float(np.std(accuracies)),
        "p": calibration(flow, name, rng),
    }  # fmt: skip


def calibrated(p: list[list[float]]) -> str:
    """How many of the p-values are such as chance would give, and the least."""
    return f"{(np.asarray(p) > UNIFORM).sum()} of {np.size(p)}, p >= {np.min(p):.1g}"


def table(rows: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    head = ["task", "simulations", "flows", "C2ST", "NPE of sbibm", "observations, draws",
            "calibrated", "seconds", "epochs", "stop"]  # fmt: skip
    return tables.table(head, [
        [
            row["task"], f"{row['simulations']:,}", row["members"],
            f"{row['mean']:.3f} +- {row['std']:.3f}",
            dict(zip(SIMULATIONS, PUBLISHED[row["task"]], strict=True)).get(
                row["simulations"], "-"
            ),
            f"{len(row['c2st'])}, {row['draws']:,}", calibrated(row["p"]),
            f"{row['seconds']:.0f}", row["epochs"], row["stop"],
        ]
        for row in rows
    ])  # fmt: skip


def main() -> None:
    """Measures what is missing, saves after each row and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--simulations", nargs="+", type=int, default=list(SIMULATIONS))
    parser.add_argument("--members", type=int, default=1, help="flows of a mixture")
    parser.add_argument("--observations", type=int, default=10)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--data", default=sbi_tasks.FOLDER)
    parser.add_argument("--again", action="store_true", help="also what is in the results")
    parser.add_argument("--show", action="store_true", help="only print the stored results")
    options = parser.parse_args()
    rows = tables.load("amortised")["rows"] if RESULT.exists() else []
    if not options.show and not Path(options.data).exists():
        print(f"{options.data} is not there: nothing is measured")
        options.show = True
    cells = [
        (name, number, options.members) for number in options.simulations for name in options.tasks
    ]
    for cell in () if options.show else cells:
        same = [row for row in rows if (row["task"], row["simulations"], row["members"]) == cell]
        if same and not options.again:
            continue
        row = measure(*cell, options.observations, options.draws, options.data)
        rows = [row for row in rows if row not in same] + [row]
        order = lambda row: (list(TASKS).index(row["task"]), row["simulations"], row["members"])
        rows.sort(key=order)
        RESULT.write_text(json.dumps(about() | {"rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()

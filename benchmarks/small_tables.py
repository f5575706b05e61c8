"""Small tables: one fit against an ensemble, on the wines of Uria et al. 2013 in ten folds.

    python benchmarks/small_tables.py [--wines red white] [--data FOLDER]

Prints, and writes to results/small_tables.json, the mean test log-likelihood over ten folds (fold
k: rows with index % 10 == k), standardised by the training folds. Nothing is tuned by fold.
"""

import argparse
import json
import time
import warnings

import jax
import numpy as np
import tables
import tables_of_data
from flax import nnx
from timing import about
from tqdm import tqdm

import flows

RESULT = tables.RESULTS / "small_tables.json"


def one(x: np.ndarray, key: jax.Array) -> flows.Flow:
    """The defaults."""
    flow = flows.maf(x.shape[1], standardize_with=x, rngs=nnx.Rngs(key))
    return flows.fit(flow, x, key=key, progress=False).flow


def ensemble(x: np.ndarray, key: jax.Array) -> flows.Ensemble:
    """What `flows.fit_ensemble` recommends."""

    def make(rngs: nnx.Rngs) -> flows.Flow:
        return flows.maf(
            x.shape[1], hidden_sizes=(128, 128), permutation="random", standardize_with=x,
            rngs=rngs,
        )  # fmt: skip

    return flows.fit_ensemble(make, x, key=key, progress=False).flow


def main() -> None:
    """Measures, writes the JSON and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wines", nargs="+", default=["red", "white"])
    parser.add_argument("--data", default=tables_of_data.FOLDER)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of rows that repeat others
    rows = []
    for wine in options.wines:
        x = np.load(f"{options.data}/wine_quality.npz")[wine].astype(np.float64)
        for fit in (one, ensemble):
            start, scores = time.perf_counter(), []
            for k in tqdm(range(10), desc=f"{wine}, {fit.__name__}"):
                test = np.arange(len(x)) % 10 == k
                mean, std = x[~test].mean(axis=0), x[~test].std(axis=0)
                z = (x - mean) / std
                scores.append(fit(z[~test], jax.random.key(k)).log_prob(z[test]))
            log_prob = np.concatenate(scores)
            rows.append({
                "wine": wine, "fit": fit.__name__, "test": float(log_prob.mean()),
                "error": float(log_prob.std() / len(log_prob) ** 0.5),
                "folds": [float(score.mean()) for score in scores],
                "seconds a fold": (time.perf_counter() - start) / 10,
            })  # fmt: skip
            print(rows[-1])
            RESULT.write_text(json.dumps(about() | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""`fit_posterior` with its defaults on hard targets and real posteriors: verdict against truth.

    python benchmarks/variational.py [--seeds 0 1] [--only NAMES ...] [--data FOLDER]

The targets of `targets.py`, whose evidence and moments are known, and the posteriors of
`posteriordb.py` where their data are there, against 10,000 reference draws. Writes
results/variational.json and prints a line for each run. "silent" is what must not happen: a good
verdict, and means off by a tenth of a deviation, deviations by 15 %, or the log evidence by 0.02
and four of its standard errors.
"""

import argparse
import json
import time
import warnings

import jax
import numpy as np
import posteriordb
import tables
import targets
from timing import about

import flows

RESULT = tables.RESULTS / "variational.json"
NUM_DRAWS = 50_000


def problem(name):
    """D, the log density, its log evidence if known, and functions to and of reference draws."""
    if name in targets.TARGETS:
        target = targets.TARGETS[name]()
        draws = target.draw(np.random.default_rng(0), NUM_DRAWS)
        return target.event_size, target.log_density, target.log_evidence, lambda x: x, draws
    event_size, log_density, constrain, draws = posteriordb.load(name)
    return event_size, log_density, None, jax.jit(jax.vmap(constrain)), draws


def quietly(fit):
    """The fit, without the warnings: verdicts are what is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit()


def run(name, seed):
    """One fit, and how far it is off."""
    event_size, log_density, evidence, to_draws, reference = problem(name)
    start = time.perf_counter()
    posterior = quietly(
        lambda: flows.fit_posterior(
            log_density, event_size=event_size, key=jax.random.key(seed), progress=False
        )
    )
    seconds = time.perf_counter() - start
    theta = posterior.sample(seed=jax.random.key(9), sample_shape=(NUM_DRAWS,))
    draws, sd = np.asarray(to_draws(theta), np.float64), reference.std(axis=0)
    mean_error = np.abs((draws.mean(axis=0) - reference.mean(axis=0)) / sd).max()
    sd_error = np.abs(draws.std(axis=0) / sd - 1).max()
    d = posterior.diagnostics
    error = float(d.log_evidence.standard_error)
    off = None if evidence is None else float(d.log_evidence.value) - evidence
    wrong = mean_error > 0.1 or sd_error > 0.15 or (off and abs(off) > max(0.02, 4 * error))
    return {
        "target": name, "dimensions": event_size, "seed": seed, "seconds": seconds,
        "elbo": float(d.elbo.value), "log evidence off": off, "its error": error,
        "mean error": float(mean_error), "sd error": float(sd_error), "ess": d.ess,
        "khat": d.khat, "reasons": d.reasons, "silent": bool(wrong and d.trustworthy),
    }  # fmt: skip


def main() -> None:
    """Measures, writes the JSON and prints a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--data", default=posteriordb.FOLDER, type=type(posteriordb.FOLDER))
    options = parser.parse_args()
    posteriordb.FOLDER = options.data
    real = list(posteriordb.MODELS) if options.data.exists() else []
    names = options.only or [*targets.TARGETS, *real]
    rows = []
    for name in names:
        for seed in options.seeds:
            row = run(name, seed)
            rows.append(row)
            jax.clear_caches()  # thousands of programs are more than a process may hold
            off = "" if row["log evidence off"] is None else f"{row['log evidence off']:8.4f}"
            print(
                f"{name:40s} {seed} {row['seconds']:6.1f} s  log evidence off {off} "
                f"+- {row['its error']:.4f}  mean {row['mean error']:.3f}  sd {row['sd error']:.3f}"
                f"  ESS {row['ess']:.0f}  {'; '.join(row['reasons']) or 'good'}"
                f"{'  SILENT' if row['silent'] else ''}",
                flush=True,
            )
            RESULT.write_text(json.dumps(about() | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

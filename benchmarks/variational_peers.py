"""`fit_posterior` and numpyro's guides in equal time, on real posteriors.

    python benchmarks/variational_peers.py [--targets NAME ...] [--data FOLDER] [--show]

Each posterior of `posteriordb.py` is fitted by `fit_posterior` with its defaults, and then by each
guide, by SVI with 10 draws a step, at two constant rates of Adam, for as many seconds (compiling
included in both). The ELBO is in nats, of 10,000 draws; a fit passes if no mean is off by 0.1
deviations and no deviation by 15 %, against 10,000 reference draws. Adds to
results/variational_peers.json, target by target, and prints a table.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

if __name__ == "__main__":  # before JAX starts its threads
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import numpyro
import numpyro.distributions as dist
import optax
import posteriordb
import tables
from numpyro.infer import SVI, Trace_ELBO, autoguide
from timing import about
from tqdm import tqdm
from variational import problem, quietly

import flows

RESULT = tables.RESULTS / "variational_peers.json"
GUIDES = ("AutoMultivariateNormal", "AutoIAFNormal", "AutoBNAFNormal")
RATES = 1e-2, 1e-3
DRAWS_A_STEP, STEPS_AT_ONCE, NUM_DRAWS = 10, 100, 10_000


def by_flows(log_density: Callable, event_size: int) -> tuple[float, np.ndarray]:
    """The ELBO, and draws."""
    posterior = quietly(
        lambda: flows.fit_posterior(
            log_density, event_size=event_size, key=jax.random.key(0), progress=False
        )
    )
    draws = posterior.sample(seed=jax.random.key(1), sample_shape=(NUM_DRAWS,))
    return float(posterior.diagnostics.elbo.value), np.asarray(draws)


def by_guide(
    log_density: Callable, event_size: int, name: str, rate: float, seconds: float
) -> tuple[float, np.ndarray, int]:
    """The ELBO and draws after so many seconds, and the steps that they were enough for."""

    def model() -> None:
        everywhere = dist.ImproperUniform(dist.constraints.real_vector, (), (event_size,))
        numpyro.factor("target", log_density(numpyro.sample("theta", everywhere)))

    start = time.perf_counter()
    guide = getattr(autoguide, name)(model)
    svi = SVI(model, guide, optax.adam(rate), Trace_ELBO(DRAWS_A_STEP))
    state = svi.init(jax.random.key(0))
    steps = jax.jit(lambda s: jax.lax.fori_loop(0, STEPS_AT_ONCE, lambda _, s: svi.update(s)[0], s))
    number = 0
    while time.perf_counter() - start < seconds:
        state = jax.block_until_ready(steps(state))
        number += STEPS_AT_ONCE
    params = svi.get_params(state)
    loss = Trace_ELBO(NUM_DRAWS).loss(jax.random.key(1), params, model, guide)
    draws = guide.sample_posterior(jax.random.key(2), params, sample_shape=(NUM_DRAWS,))["theta"]
    return -float(loss), np.asarray(draws), number


def measure(target: str) -> dict[str, Any]:
    """One row of the results: ours, and the better of the two rates of each guide."""
    event_size, log_density, _, to_draws, reference = problem(target)
    mean, sd = reference.mean(axis=0), reference.std(axis=0)

    def scored(elbo: float, draws: np.ndarray, **more: Any) -> dict[str, Any]:
        theta = np.asarray(to_draws(draws), np.float64)
        means, sds = np.abs(theta.mean(axis=0) - mean) / sd, np.abs(theta.std(axis=0) / sd - 1)
        passes = bool(means.max() < 0.1 and sds.max() < 0.15)
        return {"elbo": elbo, "passes": passes, **more}

    start = time.perf_counter()
    ours = by_flows(log_density, event_size)
    seconds = time.perf_counter() - start
    fits = {"fit_posterior": scored(*ours)}
    for name in GUIDES:
        rates = []
        for rate in RATES:
            jax.clear_caches()  # thousands of programs are more than a process may hold
            elbo, draws, steps = by_guide(log_density, event_size, name, rate, seconds)
            rates.append(scored(elbo, draws, rate=rate, steps=steps))
        fits[name] = max(rates, key=lambda fit: np.nan_to_num(fit["elbo"], nan=-np.inf))
    return {"target": target, "dimensions": event_size, "seconds": seconds, "fits": fits}


def main() -> None:
    """Measures, saves after each target and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=list(posteriordb.MODELS))
    parser.add_argument("--data", default=posteriordb.FOLDER, type=type(posteriordb.FOLDER))
    parser.add_argument("--show", action="store_true", help="only print the stored result")
    options = parser.parse_args()
    posteriordb.FOLDER = options.data
    rows = tables.load("variational_peers")["rows"] if RESULT.exists() else []
    for target in [] if options.show else tqdm(options.targets):
        row = measure(target)
        rows = [old for old in rows if old["target"] != target] + [row]
        RESULT.write_text(json.dumps(about() | {"rows": rows}, indent=1) + "\n")
    print(tables.of_guides_in_equal_time(rows))


if __name__ == "__main__":
    main()

"""numpyro guides: `AutoFlow` and numpyro's own, trained by SVI as its users do.

    python benchmarks/guides.py [--guides NAME ...] [--models NAME ...]

2,000 steps of Adam at a constant rate, with 1 or 8 draws a step. Puts the ELBO of each guide and
model, of 4,000 fresh draws, in nats, into results/guides.json, and prints them; "nan" or a huge one
where it diverged. What was tried is in guides.md.
"""

import argparse
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import tables
from numpyro.infer import SVI, Trace_ELBO, autoguide
from timing import about
from tqdm import tqdm

from flows.adapters.numpyro import AutoFlow

RESULT = tables.RESULTS / "guides.json"
NUM_STEPS, NUM_DRAWS = 2_000, 4_000
SETTINGS = (1e-2, 1), (1e-2, 8), (1e-3, 1), (1e-3, 8)  # rates, and draws a step
GUIDES = {
    "AutoFlow": AutoFlow,
    "AutoIAFNormal": autoguide.AutoIAFNormal,
    "AutoMultivariateNormal": autoguide.AutoMultivariateNormal,
    "AutoNormal": autoguide.AutoNormal,
}
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=100)
DESIGN = RNG.normal(size=(60, 20))
RESPONSE = DESIGN[:, :3].sum(axis=1) + 0.5 * RNG.normal(size=60)
LABELS = RNG.random(60) < 1 / (1 + np.exp(-3 * DESIGN[:, 0]))
EFFECTS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
RETURNS = RNG.normal(size=100) * np.exp(0.1 * np.cumsum(RNG.normal(size=100)))
FACTOR = RNG.normal(size=(100, 100)) / 10
COVARIANCE = FACTOR @ FACTOR.T + 0.05 * np.eye(100)


def beta() -> None:
    """D = 1: a rate, of 8 successes in 10."""
    rate = numpyro.sample("rate", dist.Beta(1, 1))
    numpyro.sample("y", dist.Binomial(10, rate), obs=8)


def gamma() -> None:
    """D = 2: no data, skew."""
    numpyro.sample("x", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))


def banana() -> None:
    """D = 2: curved."""
    a = numpyro.sample("a", dist.Normal(0, 1))
    numpyro.sample("b", dist.Normal(a**2, 0.3))


def improper() -> None:
    """D = 2: mean and deviation of 100 rows, with improper priors."""
    mean = numpyro.sample("mean", dist.ImproperUniform(dist.constraints.real, (), ()))
    sd = numpyro.sample("sd", dist.ImproperUniform(dist.constraints.positive, (), ()))
    with numpyro.plate("rows", 100):
        numpyro.sample("y", dist.Normal(mean, sd), obs=ROWS)


def logistic() -> None:
    """D = 20."""
    weights = numpyro.sample("weights", dist.Normal(0, 1).expand([20]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=DESIGN @ weights).to_event(1), obs=LABELS)


def schools() -> None:
    """D = 10: the eight schools, centred."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, ERRORS), obs=EFFECTS)


def shrinkage() -> None:
    """D = 22: regression whose weights share a scale."""
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    weights = numpyro.sample("weights", dist.Normal(0, scale).expand([20]).to_event(1))
    noise = numpyro.sample("noise", dist.LogNormal(0, 1))
    numpyro.sample("y", dist.Normal(DESIGN @ weights, noise).to_event(1), obs=RESPONSE)


def volatility() -> None:
    """D = 101: a random walk of log deviations."""
    step = numpyro.sample("step", dist.HalfNormal(0.3))
    walk = numpyro.sample("walk", dist.GaussianRandomWalk(step, num_steps=100))
    numpyro.sample("y", dist.Normal(0, jnp.exp(walk)).to_event(1), obs=RETURNS)


def correlated() -> None:
    """D = 100: a normal, of ELBO 0 at best."""
    numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(100), covariance_matrix=COVARIANCE))


MODELS = {
    model.__name__: model
    for model in (
        beta, gamma, banana, improper, schools, logistic, shrinkage, correlated, volatility,
    )
}  # fmt: skip


def elbo(model: Any, guide: Any, rate: float, num_draws: int) -> float:
    """After SVI."""
    svi = SVI(model, guide, optax.adam(rate), Trace_ELBO(num_draws))
    result = svi.run(jax.random.key(0), NUM_STEPS, progress_bar=False)
    loss = Trace_ELBO(NUM_DRAWS).loss(jax.random.key(1), result.params, model, guide)
    return -float(loss)


def table(rows: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    head = ["model", "guide", *(f"rate {rate:g}, {n} a step" for rate, n in SETTINGS)]
    cells = lambda row: [f"{value:.2f}" for value in row["elbo"]]
    return tables.table(head, [[row["model"], row["guide"], *cells(row)] for row in rows])


def main() -> None:
    """Measures, saves after each row and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--guides", nargs="+", choices=GUIDES, default=list(GUIDES))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    rows = tables.load("guides")["rows"] if RESULT.exists() else []
    rows = [row for row in rows if row["model"] in MODELS]
    for name in tqdm(options.models):
        for kind in options.guides:
            if kind == "AutoIAFNormal" and name == "beta":
                continue  # it needs two dimensions
            model = MODELS[name]
            values = [elbo(model, GUIDES[kind](model), *setting) for setting in SETTINGS]
            rows = [row for row in rows if (row["model"], row["guide"]) != (name, kind)]
            rows.append({"model": name, "guide": kind, "elbo": values})
            rows.sort(key=lambda row: (list(MODELS).index(row["model"]), row["guide"]))
            jax.clear_caches()
            RESULT.write_text(json.dumps(about() | {"rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()

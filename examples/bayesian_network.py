"""A small Bayesian neural network: a flow as the posterior of its weights, trained on minibatches.

Noisy points of a sine with a gap, and a network of one hidden layer. The flow is compared with
Bayes by Backprop (Blundell et al. 2015, arXiv:1505.05424), a normal for each weight by itself.
Swapping two hidden units, or turning the signs of one, changes no prediction: the posterior has
H! 2^H copies of each mode. Supports keep one of each for the flow, and the prior counts the copies,
so that ELBOs of both bound the same evidence; Bayes by Backprop is given either choice.

Prints ELBOs, held-out log predictive densities and what the diagnostics say; draws predictive bands
and the coverage of intervals into `figures/bayesian_network.png`. The flow bounds the evidence 15
nats closer and is unsure in the gap, where Bayes by Backprop is sure and off; held out it is not
better, and its k-hat of 0.9 says not to trust it. Some minutes on 2 cores.
"""

import dataclasses
import functools
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.scipy.special import gammaln, logsumexp, ndtr
from jax.scipy.stats import norm

import flows

FIGURES = Path("figures")
NOISE, GAP, LEVELS = 0.15, 0.3, (0.5, 0.8, 0.9, 0.95)
SCALES = {"slope": 4.0, "centre": 1.0, "height": 1.0, "bias": 1.0}  # of the normal priors
MEAN = flows.divergences.Estimate.from_draws


def make_data(num_rows: int = 60, num_test: int = 1000, seed: int = 0) -> tuple[Any, Any]:
    """Rows (x, y) on both sides of the gap |x| < GAP; held-out ones are in it too."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(GAP, 1.0, num_rows) * rng.choice([-1, 1], num_rows)
    rows = lambda x: (jnp.asarray(x), jnp.sin(4 * x) + NOISE * rng.normal(size=len(x)))
    return rows(x), rows(np.sort(rng.uniform(-1.0, 1.0, num_test)))


def network(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """The output at one x: each hidden unit is a step at its centre."""
    hidden = jnp.tanh(weights["slope"] * (x - weights["centre"]))
    return weights["bias"] + weights["height"] @ hidden


def log_likelihood(weights: dict[str, jax.Array], row: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Of one row (x, y)."""
    return norm.logpdf(row[1], network(weights, row[0]), weights["noise"])


def log_prior(weights: dict[str, jax.Array], one_copy: bool) -> jax.Array:
    """Normals, and an exponential for the noise; H! 2^H times that where one copy is left."""
    num_units = len(weights["slope"])
    log_copies = gammaln(num_units + 1.0) + num_units * jnp.log(2.0)
    normals = [norm.logpdf(weights[name], scale=scale).sum() for name, scale in SCALES.items()]
    return sum(normals) - weights["noise"] + one_copy * log_copies


def make_target(rows: Any, num_units: int, *, one_copy: bool) -> flows.targets.Target:
    """The posterior of the weights; with `one_copy` rising centres and positive slopes alone."""
    units = jnp.zeros(num_units)
    supports = {"noise": flows.supports.positive}
    if one_copy:
        supports |= {"slope": flows.supports.positive, "centre": flows.supports.ordered}
    return flows.targets.from_log_density(
        functools.partial(log_prior, one_copy=one_copy),
        {"slope": units, "centre": units, "height": units, "bias": 0.0, "noise": 1.0},
        supports,
        log_likelihood=log_likelihood,
        data=rows,
    )


@dataclasses.dataclass(frozen=True)
class NegativeELBO:
    """Bayes by Backprop: log q - log p at draws of q, of a minibatch."""

    target: flows.targets.Target

    def __call__(self, q: flows.Flow, rows: Any, key: jax.Array) -> jax.Array:
        """Its terms, one for each draw."""
        u, log_q = q.sample_and_log_prob(seed=key, sample_shape=(128,))
        return log_q - jax.vmap(self.target.given(rows))(u)


def backprop(target: flows.targets.Target, seed: int, num_steps: int, batch_size: int):
    """Independent normals N(m, s^2) of all weights; they start narrow, with s = 0.1."""
    size, key = target.event_size, jax.random.key(seed)
    affine = flows.bijectors.Affine(max_log_scale=30.0)  # the default bounds s below by 0.05
    normals = flows.bijectors.Elementwise(size, affine)
    start = jax.random.normal(key, (size,)), jnp.full(size, -2.5)
    normals.params[...] = jnp.stack(start, axis=-1)
    return flows.training.train(
        flows.Flow(flows.StandardNormal(size), normals),
        NegativeELBO(target),
        target.data,
        key=key,
        optimizer=flows.training.adam(num_steps, 1e-2),
        num_steps=num_steps,
        batch_size=batch_size,
    ).module


@functools.partial(jax.jit, static_argnames="num_draws")
def measure(q: flows.Flow, log_density: Any, num_draws: int = 10_000) -> jax.Array:
    """Draws of log p - log q, whose mean is the ELBO."""
    u, log_q = q.sample_and_log_prob(seed=jax.random.key(1), sample_shape=(num_draws,))
    return jax.lax.map(log_density, u, batch_size=500) - log_q


def fit_all(rows: Any, *, num_units=6, num_steps=2000, batch_size=30, num_starts=3):
    """All posteriors: (q, target) by name; and the diagnostics of the flow.

    Bayes by Backprop ends in one of many optima: the best of a few starts counts, by its ELBO.
    """
    raw, one = (make_target(rows, num_units, one_copy=one_copy) for one_copy in (False, True))
    fits = {}
    for name, target in {"Bayes by Backprop": raw, "the same, one copy": one}.items():
        runs = [backprop(target, seed, num_steps, batch_size) for seed in range(num_starts)]
        elbos = [measure(q, target.log_density).mean() for q in runs]
        fits[name] = runs[np.argmax(elbos)], target
    with warnings.catch_warnings(action="ignore"):  # the diagnostics are printed below
        posterior = flows.fit_posterior(
            one, key=jax.random.key(0), num_steps=num_steps, batch_size=batch_size
        )
    return fits | {"flow, one copy": (posterior.flow, one)}, posterior.diagnostics


@jax.jit
def predict(weights: dict[str, jax.Array], rows: Any) -> tuple[jax.Array, ...]:
    """Of rows [n], given draws of the weights.

    Returns:
        Network outputs [draws, n]; the log predictive density of each y [n]; and the level of the
        central interval that ends at y [n], uniform where predictions are calibrated.
    """
    outputs = jax.vmap(lambda w: jax.vmap(lambda x: network(w, x))(rows[0]))(weights)
    noise = weights["noise"][:, None]
    log_p = norm.logpdf(rows[1], outputs, noise)
    below = ndtr((rows[1] - outputs) / noise).mean(axis=0)
    return outputs, logsumexp(log_p, axis=0) - jnp.log(len(noise)), jnp.abs(2 * below - 1)


def report(fits: dict[str, Any], test: Any, num_draws: int = 1000) -> dict[str, Any]:
    """Prints the table; returns what `predict` does, by name."""
    print(f"{'':20}{'ELBO':18}{'held-out log p(y | x)':24}{'more than backprop':24}in the gap")
    inside = np.abs(test[0]) < GAP
    predictions: dict[str, Any] = {}
    for name, (q, target) in fits.items():
        u = q.sample(seed=jax.random.key(2), sample_shape=(num_draws,))
        predictions[name] = predict(target.constrain(u), test)
        log_p = predictions[name][1]
        gain = log_p - next(iter(predictions.values()))[1]
        elbo = MEAN(measure(q, target.log_density))
        print(f"{name:20}{elbo!s:18}{MEAN(log_p)!s:24}{MEAN(gain)!s:24}{MEAN(gain[inside])}")
    print(f"\n{'coverage of':20}" + "".join(f"{level:<8.0%}" for level in LEVELS))
    for name, (_, _, level_of) in predictions.items():
        print(f"{name:20}" + "".join(f"{(level_of <= level).mean():<8.1%}" for level in LEVELS))
    return predictions


def plot(predictions: dict[str, Any], rows: Any, test: Any) -> plt.Figure:
    """Bands of the network's output, and the coverage of predictive intervals."""
    figure, axes = plt.subplots(1, len(predictions) + 1, figsize=(15, 3.6))
    colours = dict(zip(predictions, ("#d35400", "#1e8449", "#1b4f72"), strict=False))
    for axis, (name, (outputs, _, levels)) in zip(axes, predictions.items(), strict=False):
        for tail, alpha in ((0.025, 0.2), (0.25, 0.35)):
            band = np.quantile(outputs, [tail, 1 - tail], axis=0)
            axis.fill_between(test[0], *band, color=colours[name], alpha=alpha, linewidth=0)
        axis.plot(test[0], np.sin(4 * test[0]), "k--", linewidth=1)
        axis.plot(*rows, "k.", markersize=4)
        axis.set(title=name, xlabel="x", ylim=(-2.2, 2.2))
        shares = np.arange(1, len(levels) + 1) / len(levels)
        axes[-1].plot(np.sort(levels), shares, color=colours[name], label=name)
    axes[0].set_ylabel("network, 50 % and 95 %")
    axes[-1].plot([0, 1], [0, 1], color="0.4", linewidth=0.8, linestyle="--")
    axes[-1].set(xlabel="level of intervals", ylabel="coverage, held out", title="coverage")
    axes[-1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def main() -> None:
    """Runs the example."""
    rows, test = make_data()
    fits, diagnostics = fit_all(rows)
    predictions = report(fits, test)
    print(f"\nthe flow\n{diagnostics}")
    FIGURES.mkdir(exist_ok=True)
    plot(predictions, rows, test).savefig(FIGURES / "bayesian_network.png", dpi=110)
    print(f"wrote {FIGURES}/bayesian_network.png")


if __name__ == "__main__":
    main()

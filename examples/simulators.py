"""Neural posterior estimation: posteriors of two simulators, for any observation at once.

A conditional flow q(theta | x) is fitted to pairs of parameters, from their prior, and what a
simulator made of them: two_moons and SLCP (simple likelihood, complex posterior), as in Lueckmann
et al. (2021, arXiv:2101.04653). Prints log q(theta | x) of fresh pairs beside one affine layer and
the exact posterior (their likelihoods are known), and whether q is calibrated. Draws for one
observation and the checks go into `figures/two_moons*.png` and `figures/slcp*.png`. Some minutes.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import flows
from flows import plotting

FIGURES = Path("figures")
EMBED = functools.partial(flows.conditioners.MLP, hidden_sizes=(64, 64))
RADIUS, WIDTH = 0.1, 0.01  # of the moons: r ~ N(RADIUS, WIDTH^2)
FIT, CHECK, EVIDENCE, DRAW = jax.random.split(jax.random.key(0), 4)


class Simulator(NamedTuple):
    """Parameters theta [size], uniform on [-bound, bound], and x [C] made of them."""

    size: int
    bound: float
    simulate: Callable[[np.random.Generator, np.ndarray], np.ndarray]  # x [n, C] given theta
    log_likelihood: Callable[[jax.Array, jax.Array], jax.Array]  # of theta [.., D] and x [.., C]

    def pairs(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws theta [n, D] of the prior, and x [n, C]."""
        rng = np.random.default_rng(seed)
        theta = rng.uniform(-self.bound, self.bound, (n, self.size))
        return theta, self.simulate(rng, theta)

    def log_joint(self, theta: jax.Array, x: jax.Array) -> jax.Array:
        """Log p(theta) p(x | theta), for theta inside the prior."""
        return self.log_likelihood(theta, x) - self.size * np.log(2 * self.bound)


def _centre(theta):
    """Of the moon [..., 2]: the same for two theta, mirror images in t1 + t2 = 0."""
    t1, t2 = theta[..., 0], theta[..., 1]
    return 0.25 - abs(t1 + t2) / 2**0.5, (t2 - t1) / 2**0.5


def _moons(rng: np.random.Generator, theta: np.ndarray) -> np.ndarray:
    angle = rng.uniform(-np.pi / 2, np.pi / 2, len(theta))
    radius = rng.normal(RADIUS, WIDTH, len(theta))
    a, b = _centre(theta)
    return np.stack([a + radius * np.cos(angle), b + radius * np.sin(angle)], axis=1)


def _log_moons(theta: jax.Array, x: jax.Array) -> jax.Array:
    a, b = _centre(theta)
    radius = jnp.hypot(x[..., 0] - a, x[..., 1] - b)
    log_p = jax.scipy.stats.norm.logpdf(radius, RADIUS, WIDTH) - jnp.log(jnp.pi * radius)
    return jnp.where(x[..., 0] > a, log_p, -jnp.inf)


def _cholesky(theta):
    """Of the covariance of each point: the factor's entries [1, 1], [2, 1] and [2, 2]."""
    s1, s2, rho = theta[..., 2] ** 2, theta[..., 3] ** 2, jnp.tanh(theta[..., 4])
    first = (s1**2 + 1e-6) ** 0.5
    below = rho * s1 * s2 / first
    return first, below, (s2**2 + 1e-6 - below**2) ** 0.5


def _slcp(rng: np.random.Generator, theta: np.ndarray) -> np.ndarray:
    noise = rng.normal(size=(2, 4, len(theta)))
    first, below, second = map(np.asarray, _cholesky(theta))
    points = theta[:, 0] + first * noise[0], theta[:, 1] + below * noise[0] + second * noise[1]
    return np.stack(points, axis=-1).transpose(1, 0, 2).reshape(-1, 8)


def _log_slcp(theta: jax.Array, x: jax.Array) -> jax.Array:
    first, below, second = (entry[..., None] for entry in _cholesky(theta))
    u = (x[..., ::2] - theta[..., :1]) / first
    v = (x[..., 1::2] - theta[..., 1:2] - below * u) / second
    terms = -0.5 * (u**2 + v**2) - jnp.log(first * second) - jnp.log(2 * jnp.pi)
    return terms.sum(axis=-1)


SIMULATORS = {
    "two_moons": Simulator(2, 1.0, _moons, _log_moons),
    "slcp": Simulator(5, 3.0, _slcp, _log_slcp),
}
RUNS = {
    "two_moons": {"n": 10_000, "batch_size": 256, "max_epochs": 100},
    "slcp": {"n": 100_000, "batch_size": 512, "max_epochs": 12},
}


def fit(simulator: Simulator, n: int, *, affine: bool = False, **options) -> flows.Flow:
    """The posterior q(theta | x) of n simulations: splines, or one affine layer."""
    theta, x = simulator.pairs(n, seed=0)
    make, kind = (flows.maf, {"num_layers": 1}) if affine else (flows.nsf, {"autoregressive": True})
    flow = make(
        simulator.size,
        context_size=x.shape[1],
        support=flows.supports.interval(-simulator.bound, simulator.bound),
        standardize_with=(theta, x),
        embed=EMBED,
        rngs=nnx.Rngs(0),
        **kind,
    )
    return flows.fit(flow, theta, context=x, key=FIT, **options).flow


@functools.partial(jax.jit, static_argnames=("simulator", "num_draws"))
def weighted_draws(simulator: Simulator, flow: flows.Flow, x: jax.Array, num_draws: int):
    """Draws of q given x [C], and their log weights: log p(theta) p(x | theta) / q(theta | x)."""
    bound = flow.condition(x)
    theta, log_q = bound.sample_and_log_prob(seed=EVIDENCE, sample_shape=(num_draws,))
    return theta, simulator.log_joint(theta, x) - log_q


def log_posterior(simulator: Simulator, flow: flows.Flow, theta, x, num_draws: int):
    """The exact log p(theta | x) [n] of pairs, and the effective share of q's draws [n].

    The evidence p(x) is the mean weight of draws of q; where the share is small it is too low.
    """
    log_w = jax.lax.map(lambda row: weighted_draws(simulator, flow, row, num_draws)[1], x)
    log_sum = jax.nn.logsumexp(log_w, axis=1)
    share = jnp.exp(2 * log_sum - jax.nn.logsumexp(2 * log_w, axis=1)) / num_draws
    return simulator.log_joint(theta, x) - log_sum + jnp.log(num_draws), share


def compare(simulator: Simulator, *, num_pairs: int = 500, num_draws: int = 1000, **options):
    """Prints what both flows say of fresh pairs; returns splines and log q [n] by name."""
    theta, x = map(jnp.asarray, simulator.pairs(num_pairs, seed=1))
    affine, flow = fit(simulator, affine=True, **options), fit(simulator, **options)
    exact, share = log_posterior(simulator, flow, theta, x, num_draws)
    values = {
        "one affine layer": affine.condition(x).log_prob(theta),
        "splines": flow.condition(x).log_prob(theta),
        "exact posterior": exact,
    }
    mean = flows.divergences.Estimate.from_draws
    print(f"{'':18}{'log q(theta | x), nats':24}more than one affine layer")
    for name, value in values.items():
        gain = value - values["one affine layer"]
        print(f"{name:18}{mean(value)!s:24}{mean(gain)}")
    print(f"(exact by importance sampling; effective share of draws {np.median(share):.0%})")
    return flow, values


def draw(simulator: Simulator, flow: flows.Flow, num_draws: int = 20_000):
    """The posterior of one observation: its theta [D], draws of q, and draws chosen by weight."""
    theta, x = simulator.pairs(1, seed=7)
    draws, log_w = weighted_draws(simulator, flow, jnp.asarray(x[0]), num_draws)
    chosen = draws[jax.random.categorical(DRAW, log_w, shape=(num_draws,))]
    return theta[0], np.asarray(draws), np.asarray(chosen)


def plot_moons(theta: np.ndarray, draws: np.ndarray, exact: np.ndarray) -> plt.Figure:
    """Both moons, of q and exact."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.2), sharey=True, layout="tight")
    for axis, points, title in zip(axes, (draws, exact), ("flow", "exact posterior"), strict=True):
        axis.scatter(*points[:5000].T, s=2, color="#1b4f72", alpha=0.3, linewidths=0)
        axis.plot(*theta, "x", color="#d35400", markersize=9, markeredgewidth=2, label="truth")
        axis.set(xlabel="theta[0]", title=title, xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
        axis.set_xticks(np.linspace(-1, 1, 5))
    axes[0].set_ylabel("theta[1]")
    axes[1].legend(frameon=False)
    return figure


def main() -> None:
    """Runs the example."""
    FIGURES.mkdir(exist_ok=True)
    for name, simulator in SIMULATORS.items():
        print(f"{name}, {RUNS[name]['n']:,} simulations")
        flow, _ = compare(simulator, **RUNS[name])
        report = flows.check_calibration(flow, *simulator.pairs(2000, seed=2), key=CHECK)
        print(report, end="\n\n")
        theta, draws, exact = draw(simulator, flow)
        if name == "two_moons":
            figure = plot_moons(theta, draws, exact)
        else:
            figure = plotting.corner({"exact posterior": exact, "flow": draws})
        figure.savefig(FIGURES / f"{name}.png", dpi=110)
        report.plot().savefig(FIGURES / f"{name}_calibration.png", dpi=110)
        print(f"wrote {FIGURES}/{name}.png and {FIGURES}/{name}_calibration.png\n")


if __name__ == "__main__":
    main()

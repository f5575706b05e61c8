"""The four energies of Rezende & Mohamed (2015, arXiv:1505.05770) as variational targets.

Fits a RealNVP to each from its log density alone and prints the log evidence beside the truth
(exact, or by quadrature for the first). Draws target and samples into
`figures/four_densities.png`. About two minutes on 2 cores.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import flows

FIGURES = Path("figures")
EDGE = 50.0  # steepness of the soft walls at |z1| = 4, where U2-U4 are cut off


def w1(z1: jax.Array) -> jax.Array:
    """The sine wave the last three densities follow."""
    return jnp.sin(jnp.pi * z1 / 2)


def w2(z1: jax.Array) -> jax.Array:
    """A bump at z1 = 1."""
    return 3 * jnp.exp(-0.5 * ((z1 - 1) / 0.6) ** 2)


def w3(z1: jax.Array) -> jax.Array:
    """A step at z1 = 1."""
    return 3 * jax.nn.sigmoid((z1 - 1) / 0.3)


def log_normal(x: jax.Array, scale: float) -> jax.Array:
    """Log of an unnormalised normal density."""
    return -0.5 * (x / scale) ** 2


def walls(z1: jax.Array) -> jax.Array:
    """Soft walls at |z1| = 4: the integral of exp(walls) over z1 is 8."""
    return jax.nn.log_sigmoid(EDGE * (4 - z1)) + jax.nn.log_sigmoid(EDGE * (4 + z1))


def u1(z: jax.Array) -> jax.Array:
    """A ring with two modes."""
    ring = log_normal(jnp.sqrt(jnp.sum(z**2) + 1e-12) - 2, 0.4)
    return ring + jnp.logaddexp(log_normal(z[0] - 2, 0.6), log_normal(z[0] + 2, 0.6))


def u2(z: jax.Array) -> jax.Array:
    """One wave."""
    return log_normal(z[1] - w1(z[0]), 0.4) + walls(z[0])


def u3(z: jax.Array) -> jax.Array:
    """A wave that splits and joins again."""
    first, second = z[1] - w1(z[0]), z[1] - w1(z[0]) + w2(z[0])
    return jnp.logaddexp(log_normal(first, 0.35), log_normal(second, 0.35)) + walls(z[0])


def u4(z: jax.Array) -> jax.Array:
    """A wave that splits for good."""
    first, second = z[1] - w1(z[0]), z[1] - w1(z[0]) + w3(z[0])
    return jnp.logaddexp(log_normal(first, 0.4), log_normal(second, 0.35)) + walls(z[0])


LOG_EVIDENCE = {u1: 1.87750, u2: 2.08209, u3: 2.64171, u4: 2.71070}


def main(num_steps: int = 3000) -> None:
    """Fits all four, prints the table and draws the figure."""
    axis = np.linspace(-5, 5, 300)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    figure, axes = plt.subplots(2, 4, figsize=(12, 6), sharex=True, sharey=True)
    print(f"{'':4}{'log evidence':>14}{'':12}{'truth':>9}{'ELBO':>9}{'k-hat':>8}")
    for column, (target, truth) in enumerate(LOG_EVIDENCE.items()):
        flow = flows.real_nvp(2, num_layers=16, permutation="reverse", rngs=nnx.Rngs(0))
        posterior = flows.fit_posterior(
            target, flow=flow, key=jax.random.key(0), num_steps=num_steps, num_samples=256
        )
        report = posterior.diagnostics
        evidence = report.log_evidence
        print(
            f"{target.__name__:4}{float(evidence.value):14.3f} +- "
            f"{float(evidence.standard_error):<8.3f}{truth:9.3f}"
            f"{float(report.elbo.value):9.3f}{report.khat:8.2f}"
        )
        density = np.exp(jax.vmap(target)(grid)).reshape(300, 300)
        axes[0, column].pcolormesh(axis, axis, density, cmap="Blues", rasterized=True)
        axes[0, column].set_title(target.__name__)
        draws = np.asarray(posterior.sample(seed=jax.random.key(1), sample_shape=(20_000,)))
        axes[1, column].hist2d(*draws.T, bins=(axis[::2], axis[::2]), cmap="Oranges")
    axes[0, 0].set_ylabel("target")
    axes[1, 0].set_ylabel("flow")
    figure.tight_layout()
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / "four_densities.png", dpi=110)
    print(f"wrote {FIGURES}/four_densities.png")


if __name__ == "__main__":
    main()

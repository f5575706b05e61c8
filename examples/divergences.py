"""What the divergences say about three pairs of distributions.

Prints a table of two normals, and draws into `figures/divergences.png`: the divergences of two
normals as they move apart; bounds and approximations of the KL divergence between two mixtures;
and the errors of its estimators for two flows. Half a minute on 2 cores.
"""

from pathlib import Path

import distrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import flows
from flows import divergences

FIGURES = Path("figures")
KEY = jax.random.key(0)
NORMALS = {
    "kl": {}, "reverse": {}, "jeffreys": {}, "wasserstein2": {}, "hellinger": {},
    "jensen_shannon": {"key": KEY}, "total_variation": {"key": KEY},
}  # fmt: skip


def two_normals(axis: plt.Axes) -> None:
    """N(0, 1) and N(shift, 1.5^2): which grow without bound, and which do not."""
    p = distrax.Normal(0.0, 1.0)
    shifts = jnp.linspace(0.0, 5.0, 41)
    print("N(0, 1) and N(1, 1.5^2)")
    for name, options in NORMALS.items():
        function = getattr(divergences, name)
        print(f"  {name:16} {function(p, distrax.Normal(1.0, 1.5), **options)}")
        axis.plot(shifts, function(p, distrax.Normal(shifts, 1.5), **options).value, label=name)
    axis.set(xlabel="shift", ylabel="divergence", ylim=(0, 5), title="N(0, 1) and N(shift, 1.5²)")


def two_mixtures(axis: plt.Axes) -> None:
    """Two and three normals, from overlapping to apart, and 4 standard errors of the draws."""

    def mixture(locs: jax.Array) -> distrax.MixtureSameFamily:
        weights = distrax.Categorical(logits=jnp.zeros(locs.shape))
        return distrax.MixtureSameFamily(weights, distrax.Normal(locs, 1.0))

    spreads = jnp.linspace(0.1, 4.0, 40)[:, None]
    p, q = mixture(spreads * jnp.array([-1.0, 1.0])), mixture(spreads * jnp.array([-1.5, 0.0, 2.0]))
    drawn = divergences.mixture_kl(p, q, "monte_carlo", key=KEY, num_samples=100_000)
    error = 4 * drawn.standard_error
    axis.fill_between(
        spreads[:, 0], drawn.value - error, drawn.value + error, color="k", alpha=0.4, label="draws"
    )
    for name in ("lower_bound", "variational_upper_bound", "upper_bound"):
        axis.plot(spreads, divergences.mixture_kl(p, q, name).value, "--", label=name)
    for name in ("unscented", "variational", "product", "mean_of_bounds"):
        axis.plot(spreads, divergences.mixture_kl(p, q, name).value, label=name)
    axis.set(xlabel="spread", ylim=(-0.5, 3), title="KL of two mixtures")


def two_flows(axis: plt.Axes) -> None:
    """The spread of each estimator over 20 keys, against the number of draws."""

    def make(seed: int) -> flows.Flow:
        flow = flows.maf(4, num_layers=1, hidden_sizes=(32,), rngs=nnx.Rngs(seed))
        noise = jax.random.key(seed)
        return jax.tree.map(lambda a: a + 0.05 * jax.random.normal(noise, a.shape), flow)

    p, q = make(0), make(1)
    estimators = {
        "paired": {}, "control variate": {"method": "control_variate"},
        "Rao-Blackwell": {"method": "rao_blackwell"}, "Sobol": {"sampling": "sobol"},
    }  # fmt: skip
    numbers = 2 ** np.arange(6, 14, 2)
    keys = jax.random.split(KEY, 20)
    for name, options in estimators.items():
        spreads = []
        for n in map(int, numbers):
            estimate = lambda key, n=n, o=options: divergences.kl(p, q, key=key, num_samples=n, **o)
            spreads.append(np.std(jax.jit(jax.vmap(estimate))(keys).value))
        axis.loglog(numbers, spreads, "o-", label=name)
    exact = divergences.kl(p, q, key=KEY, num_samples=50_000, method="rao_blackwell")
    print(f"two flows: KL = {exact}")
    axis.set(xlabel="draws", ylabel="spread of the estimate", title="KL of two flows")


def main() -> None:
    """Draws the three panels."""
    FIGURES.mkdir(exist_ok=True)
    figure, axes = plt.subplots(1, 3, figsize=(15, 5), constrained_layout=True)
    for panel, axis in zip((two_normals, two_mixtures, two_flows), axes, strict=True):
        panel(axis)
        axis.legend(fontsize="small")
    figure.savefig(FIGURES / "divergences.png", dpi=120)
    print("wrote figures/divergences.png")


if __name__ == "__main__":
    main()

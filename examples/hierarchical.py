"""A hierarchical numpyro model: one call, draws by name, and what shrinkage does.

Twelve schools teach to read; each has its own level and its own gain a year, which are drawn
together from a population with a correlation. Prints the posterior, its evidence beside the bounds
of numpyro's guides, and the marks predicted for a year that nobody has seen; draws the schools'
own lines and those of the model into `figures/hierarchical.png`. Needs the extra `numpyro`. About
two minutes on 2 cores.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, Trace_ELBO, init_to_median
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import flows

FIGURES = Path("figures")
SCHOOLS, LEVEL, GAIN = 12, 50.0, 4.0
YEARS = np.array([0.0, 1.0, 2.0, 3.0], np.float32)


def marks(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean marks [SCHOOLS, years] and how many pupils they are of: few, in some schools."""
    rng = np.random.default_rng(seed)
    pupils = rng.integers(2, 40, size=SCHOOLS)
    spread = np.array([[25.0, -4.0], [-4.0, 1.0]])  # who starts low gains more
    effects = rng.multivariate_normal([LEVEL, GAIN], spread, size=SCHOOLS)
    noise = 10 / np.sqrt(pupils)[:, None] * rng.normal(size=(SCHOOLS, len(YEARS)))
    return (effects[:, :1] + effects[:, 1:] * YEARS + noise).astype(np.float32), pupils


def model(years: np.ndarray, pupils: np.ndarray, y: np.ndarray | None = None) -> None:
    """Levels and gains of schools, and the marks that they give."""
    mean = numpyro.sample(
        "mean", dist.Normal(jnp.array([50.0, 0.0]), jnp.array([20.0, 5.0])).to_event(1)
    )
    scales = numpyro.sample("scales", dist.HalfNormal(jnp.array([10.0, 3.0])).to_event(1))
    factor = numpyro.sample("factor", dist.LKJCholesky(2, 2.0))
    numpyro.deterministic("correlation", factor[1, 0])
    noise = numpyro.sample("noise", dist.HalfNormal(20.0))
    with numpyro.plate("schools", SCHOOLS):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
    effects = numpyro.deterministic("effects", mean + z @ (scales[:, None] * factor).T)
    predicted = effects[:, :1] + effects[:, 1:] * years
    numpyro.sample("y", dist.Normal(predicted, noise / np.sqrt(pupils)[:, None]).to_event(2), obs=y)


def elbo_of(guide, y: np.ndarray, pupils: np.ndarray, num_steps: int) -> tuple[float, float]:
    """The bound that numpyro reaches with a guide of its own, and its standard error."""
    schedule = optax.cosine_decay_schedule(1e-2, num_steps)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule))
    svi = SVI(model, guide, optimizer, Trace_ELBO(num_particles=16))
    params = svi.run(jax.random.key(0), num_steps, YEARS, pupils, y=y, progress_bar=False).params
    loss = lambda key: Trace_ELBO().loss(key, params, model, guide, YEARS, pupils, y=y)
    elbos = -np.asarray(
        jax.lax.map(loss, jax.random.split(jax.random.key(1), 4000), batch_size=100)
    )
    return elbos.mean(), elbos.std() / np.sqrt(len(elbos))


def posterior_of(y: np.ndarray, pupils: np.ndarray, num_steps: int = 3000) -> flows.Posterior:
    """The posterior, by the names of the model."""
    target = flows.targets.from_numpyro(model, YEARS, pupils, y=y)
    return flows.fit_posterior(target, key=jax.random.key(0), num_steps=num_steps)


def main(num_steps: int = 3000) -> None:
    """Runs the example."""
    y, pupils = marks()
    posterior = posterior_of(y, pupils, num_steps)
    rows = posterior.summary(seed=jax.random.key(1)).to_dict()
    for name in ("mean[0]", "mean[1]", "scales[0]", "scales[1]", "correlation", "noise"):
        mean, sd, low, high = rows[name].values()
        print(f"{name:12} {mean:7.2f} +- {sd:5.2f}   {low:7.2f} to {high:.2f}")
    print(posterior.diagnostics)
    elbo = posterior.diagnostics.elbo
    print(f"ELBO of {'the flow':24} {elbo.value:.3f} +- {elbo.standard_error:.3f}")
    for kind in (AutoMultivariateNormal, AutoNormal):
        value, error = elbo_of(kind(model, init_loc_fn=init_to_median), y, pupils, num_steps)
        print(f"ELBO of {kind.__name__:24} {value:.3f} +- {error:.3f}")
    later = posterior.predictive(np.array([4.0], np.float32), pupils, seed=jax.random.key(2))["y"]
    low, high = np.quantile(later[:, :, 0], [0.055, 0.945], axis=0)
    print("marks of year 4 of the first school:", f"{low[0]:.1f} to {high[0]:.1f}")
    figure(posterior, y, pupils).savefig(FIGURES / "hierarchical.png", dpi=120)


def figure(posterior: flows.Posterior, y: np.ndarray, pupils: np.ndarray) -> plt.Figure:
    """Each school's own least-squares line and that of the model, in the plane of both effects."""
    draws = posterior.sample(seed=jax.random.key(3), sample_shape=(4000,))
    effects = np.asarray(draws["effects"])
    design = np.c_[np.ones_like(YEARS), YEARS]
    own = np.linalg.lstsq(design, y.T)[0].T
    shrunk = effects.mean(axis=0)
    FIGURES.mkdir(exist_ok=True)
    picture, (plane, correlation) = plt.subplots(1, 2, figsize=(11, 4.2))
    for school in range(SCHOOLS):
        plane.annotate(
            "", shrunk[school], own[school], arrowprops={"arrowstyle": "->", "color": "0.6"}
        )
    plane.scatter(*own.T, s=3 * pupils, color="#d35400", label="of the school alone (area: pupils)")
    plane.scatter(*shrunk.T, s=20, color="#1b4f72", label="of the model", zorder=3)
    plane.set(xlabel="level in year 0", ylabel="gain a year")
    plane.legend(fontsize=8, frameon=False)
    correlation.hist(np.asarray(draws["correlation"]), 60, density=True, color="#1b4f72", alpha=0.6)
    correlation.set(xlabel="correlation of level and gain", ylabel="posterior", xlim=(-1, 1))
    picture.tight_layout()
    return picture


if __name__ == "__main__":
    main()

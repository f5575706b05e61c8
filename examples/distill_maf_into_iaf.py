"""The main job, end to end: fit a MAF to a real table, distil it into an IAF, and measure both.

Then a flow as the posterior of a small hierarchical model. `make demo` runs this; it takes a few
minutes on 2 cores. Figures go to `figures/`.
"""

import time
from pathlib import Path

import eight_schools
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.scipy.stats import multivariate_normal

import flows
from flows import plotting

DATA = Path(__file__).parent / "data" / "galaxy_pzflow.npz"
FIGURES = Path("figures")


def main() -> None:
    """Runs the demo."""
    start = time.perf_counter()
    table = np.load(DATA)
    train, validation, test = (jnp.asarray(table[name]) for name in ("train", "val", "test"))

    print(f"1. Maximum likelihood: a MAF on {len(train):,} galaxies x {train.shape[1]} columns")
    teacher = flows.maf(7, num_layers=8, standardize_with=train, rngs=nnx.Rngs(0))
    fit = flows.fit(teacher, train, validation=validation, key=jax.random.key(0), max_epochs=30)
    print(f"   {len(fit.history['train'])} epochs, {time.perf_counter() - start:.0f} s so far")

    print("2. Distillation into an IAF")
    result = flows.distill(fit.flow, data=test, key=jax.random.key(1))
    print(f"   {time.perf_counter() - start:.0f} s so far\n")

    gaussian = multivariate_normal.logpdf(test, train.mean(0), jnp.cov(train.T))
    report = result.report
    print("held-out log-likelihood, nats per galaxy")
    for name, value, error in [
        ("full Gaussian", gaussian.mean(), gaussian.std() / np.sqrt(len(test))),
        ("MAF (teacher)", -report.nll_teacher.value, report.nll_teacher.standard_error),
        ("IAF (student)", -report.nll_student.value, report.nll_student.standard_error),
    ]:
        print(f"   {name:14}{float(value):8.3f} +- {float(error):.3f}")
    print("\n" + str(report))

    FIGURES.mkdir(exist_ok=True)
    draws = result.student.sample(seed=jax.random.key(2), sample_shape=(len(test),))
    samples = {"held-out galaxies": test, "IAF draws": draws}
    corner = plotting.corner(samples, table["columns"], num_bins=28)
    corner.savefig(FIGURES / "corner.png", dpi=90)
    plotting.losses({"MAF": fit, "IAF": result}).savefig(FIGURES / "losses.png", dpi=110)
    report.plot().savefig(FIGURES / "report.png", dpi=110)
    flows.save(FIGURES / "student.npz", result.student)
    print(f"\nwrote {FIGURES}/corner.png, losses.png, report.png and student.npz")

    print("\n3. Variational inference: eight schools, beside posteriordb's reference draws")
    eight_schools.main()
    print(f"\ndone in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()

"""What the divergences are worth: coverage, variance, bounds of mixtures, all pairs of histograms.

    python benchmarks/divergences.py [--parts coverage variance mixtures histograms] [--show]

Writes benchmarks/results/divergences.json and prints the tables of docs/benchmarks.md.
About ten minutes on 2 cores.
"""

import argparse
import json
import time

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import tables
from scipy.linalg import solve_triangular
from scipy.special import log_softmax, logsumexp, rel_entr, softmax
from scipy.stats import entropy
from timing import about
from tqdm import tqdm

import flows
from flows.divergences import jensen_shannon, kl, mixture_kl, pairwise_kl, total_variation

RESULT = tables.RESULTS / "divergences.json"
SIZE = 8


def autoregressive_pair(shift):
    """Two flows that are Gaussians, x_i given x_<i normal; `shift` says how far apart."""
    rng = np.random.default_rng(0)
    tril = np.tril(0.3 * rng.normal(size=(SIZE, SIZE)), -1) + np.eye(SIZE)
    other = tril + shift * np.tril(rng.normal(size=(SIZE, SIZE)), -1) * 0.5
    other = other * np.exp(shift * 0.3 * rng.normal(size=(SIZE, 1)))
    locs = np.zeros(SIZE), shift * rng.normal(size=SIZE)
    pair = [(jnp.asarray(m), jnp.asarray(s)) for m, s in zip(locs, (tril, other), strict=True)]
    exact = kl(*(distrax.MultivariateNormalTri(*parts) for parts in pair)).value
    as_flow = lambda parts: flows.Flow(
        flows.StandardNormal(SIZE), flows.bijectors.TriangularAffine(*parts)
    )
    return as_flow(pair[0]), as_flow(pair[1]), float(exact)


SHIFTS = (1.0, 0.5, 0.2, 0.06)
ESTIMATORS = {
    "paired": {"method": "monte_carlo"},
    "antithetic": {"method": "monte_carlo", "sampling": "antithetic"},
    "sobol": {"method": "monte_carlo", "sampling": "sobol"},
    "control variate": {"method": "control_variate"},
    "Rao-Blackwell": {"method": "rao_blackwell"},
}


def coverage(repetitions=1000, num_samples=10_000):
    """How often value +- 1.96 standard errors holds the exact value."""
    keys = jax.random.split(jax.random.key(0), repetitions)
    rows = []

    def measure(name, exact, estimator, function, p, q, **options):
        estimate = lambda key: function(p, q, key=key, num_samples=num_samples, **options)
        estimates = jax.jit(lambda keys: jax.lax.map(estimate, keys, batch_size=4))(keys)
        inside = abs(estimates.value - exact) < 1.96 * estimates.standard_error
        rows.append({"pair": f"{name} {exact:.3g}", "exact": float(exact),
                     "estimator": estimator, "coverage": float(inside.mean())})  # fmt: skip

    for shift in SHIFTS:
        p, q, exact = autoregressive_pair(shift)
        for estimator, options in ESTIMATORS.items():
            measure("KL", exact, estimator, kl, p, q, **options)
    p, q = distrax.Normal(0.0, 1.0), distrax.Normal(0.5, 1.5)
    x = np.linspace(-40, 40, 400_001)
    a, b = np.exp(np.asarray(p.log_prob(x), float)), np.exp(np.asarray(q.log_prob(x), float))
    terms = rel_entr(a, (a + b) / 2) + rel_entr(b, (a + b) / 2)
    measure("JS", np.trapezoid(terms, x) / 2, "even mixture", jensen_shannon, p, q)
    measure("TV", np.trapezoid(abs(a - b), x) / 2, "even mixture", total_variation, p, q)
    return rows


def variance(num_samples=200_000):
    """Standard error times sqrt(number of draws): the sd of one draw, if draws are independent."""
    key, rows = jax.random.key(0), []
    for shift in SHIFTS:
        p, q, exact = autoregressive_pair(shift)
        x = p.sample(seed=key, sample_shape=(num_samples,))
        row = {"exact": exact, "entropy split": float(q.log_prob(x).std())}
        for name, options in ESTIMATORS.items():
            estimate = kl(p, q, key=key, num_samples=num_samples, **options)
            row[name] = float(estimate.standard_error * estimate.num_samples**0.5)
        # Without the guard, which falls back to the plain mean where r has heavy tails.
        log_r = q.log_prob(x) - p.log_prob(x)
        row["control, no guard"] = float((jnp.exp(log_r) - 1 - log_r).std())
        rows.append(row)
    return rows


BOUNDS = ("lower_bound", "variational_upper_bound", "upper_bound", "convexity_upper_bound")
APPROXIMATIONS = ("matching", "unscented", "product", "variational", "mean_of_bounds")


def random_mixture(rng, size, count=5):
    """Logits, means and Cholesky factors; the components from apart to overlapping."""
    trils = np.tril(rng.normal(size=(count, size, size))) / np.sqrt(size)
    trils[:, np.arange(size), np.arange(size)] = rng.uniform(0.5, 1.5, (count, size))
    parts = rng.normal(size=count), rng.uniform(0.5, 3) * rng.normal(size=(count, size)), trils
    return tuple(map(jnp.asarray, parts))


def make_mixture(logits, locs, trils):
    """The distribution of these parameters."""
    return distrax.MixtureSameFamily(
        distrax.Categorical(logits=logits), distrax.MultivariateNormalTri(locs, trils)
    )


def sampled_kl(p, q, rng, num_samples=1_000_000):
    """The mean of log p - log q over draws, written in NumPy alone, and its standard error."""

    def log_prob(mixture, x):
        logits, locs, trils = (np.asarray(a, float) for a in mixture)
        size = locs.shape[1]
        terms = [
            -0.5 * (solve_triangular(tril, (x - loc).T, lower=True) ** 2).sum(axis=0)
            - np.log(np.diag(tril)).sum() - size / 2 * np.log(2 * np.pi)
            for loc, tril in zip(locs, trils, strict=True)
        ]  # fmt: skip
        return logsumexp(np.array(terms) + log_softmax(logits)[:, None], axis=0)

    logits, locs, trils = (np.asarray(a, float) for a in p)
    counts = rng.multinomial(num_samples, softmax(logits))
    x = np.concatenate([
        loc + rng.normal(size=(n, len(loc))) @ tril.T
        for n, loc, tril in zip(counts, locs, trils, strict=True)
    ])  # fmt: skip
    ratio = log_prob(p, x) - log_prob(q, x)
    return ratio.mean(), ratio.std() / num_samples**0.5


@jax.jit
def deterministic(p, q):
    """All bounds and approximations."""
    pair = make_mixture(*p), make_mixture(*q)
    return {name: mixture_kl(*pair, name).value for name in (*BOUNDS, *APPROXIMATIONS)}


def mixtures(pairs_per_size=50):
    """Bounds and approximations against 10^6 draws."""
    rows = []
    for size in (1, 2, 5, 10):
        rng = np.random.default_rng(size)
        found = []
        for _ in tqdm(range(pairs_per_size), desc=f"mixtures, d = {size}"):
            p, q = random_mixture(rng, size), random_mixture(rng, size)
            value, error = map(float, sampled_kl(p, q, rng))
            others = {name: float(v) for name, v in deterministic(p, q).items()}
            found.append({"drawn": value, "error": error, **others})
        column = lambda name, found=found: np.array([pair[name] for pair in found])
        drawn, slack = column("drawn"), 4 * column("error")
        row = {"size": size, "pairs": pairs_per_size, "median": float(np.median(drawn)),
               "violations": int((column("lower_bound") > drawn + slack).sum()
                                 + sum((column(name) < drawn - slack).sum()
                                       for name in BOUNDS[1:]))}  # fmt: skip
        for name in (*BOUNDS, *APPROXIMATIONS):
            off = column(name) - drawn
            row[name] = {"median": float(np.median(abs(off))), "bias": float(off.mean()),
                         "largest": float(abs(off).max())}  # fmt: skip
        rows.append(row)
    return rows


def histograms(count=20_000, bins=100, subset=200):
    """All pairs of histograms, and the two-loop way on a subset, in turn."""
    p = np.random.default_rng(0).dirichlet(np.ones(bins), count).astype(np.float32)
    pairwise_kl(p[:2000])  # compile
    ours, loops = [], []
    for _ in range(3):
        start = time.perf_counter()
        result = pairwise_kl(p)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        slow = np.array([[entropy(a, b) for b in p[:subset]] for a in p[:subset]])
        loops.append((time.perf_counter() - start) * (count / subset) ** 2)
    return {
        "count": count, "bins": bins, "seconds": sorted(ours),
        "ratio": sorted(np.array(loops) / np.array(ours)),
        "largest_difference": float(abs(slow - result[:subset, :subset]).max()),
    }  # fmt: skip


def show(results):
    """Prints what has been measured."""
    for part, text in {
        "coverage": tables.of_coverage, "variance": tables.of_variance,
        "mixtures": tables.of_mixtures, "histograms": tables.of_histograms,
    }.items():  # fmt: skip
        if part in results:
            print(text(results[part]), end="\n\n")


PARTS = {
    "coverage": coverage, "variance": variance, "mixtures": mixtures, "histograms": histograms,
}  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--show", action="store_true", help="print the stored results only")
    arguments = parser.parse_args()
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if not arguments.show:
        for part in arguments.parts:
            results |= about() | {part: PARTS[part]()}
            RESULT.write_text(json.dumps(results, indent=1) + "\n")
    show(results)

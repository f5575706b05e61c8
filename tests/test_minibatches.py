"""Posteriors from batches of rows: the estimate is unbiased, and training on it arrives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tensorflow_probability.substrates.jax import distributions as tfd

import flows
from flows import bijectors, supports, targets
from flows.variational import stages

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
X = rng.normal(size=(5000, 2)).astype(np.float32)
LABELS = (rng.random(5000) < 1 / (1 + np.exp(0.5 - X @ [1.0, -2.0]))).astype(np.int32)
EXAMPLE = {"weights": np.zeros(2), "offset": 0.0, "scale": 1.0}


def log_prior(p):
    return -0.5 * jnp.sum(p["weights"] ** 2) / p["scale"] ** 2 - 0.5 * p["offset"] ** 2 - p["scale"]


def log_likelihood(p, row):
    x, label = row
    logit = x @ p["weights"] + p["offset"]
    return label * logit - jnp.logaddexp(0.0, logit)


def logistic(num_rows, log_likelihood=log_likelihood):
    return targets.from_log_density(
        log_prior, EXAMPLE, {"scale": supports.positive},
        log_likelihood=log_likelihood, data=(X[:num_rows], LABELS[:num_rows]),
    )  # fmt: skip


@pytest.mark.parametrize("num_rows", [5000, 100])
def test_the_log_density_is_that_of_all_rows(num_rows):
    """In blocks of rows or not, and its gradient too."""
    target = logistic(num_rows)
    assert target.num_rows == num_rows

    def by_hand(p):
        each = jax.vmap(log_likelihood, (None, 0))(p, (X[:num_rows], LABELS[:num_rows]))
        return log_prior(p) + each.sum()

    whole = targets.from_log_density(by_hand, EXAMPLE, {"scale": supports.positive})
    u = jnp.array([0.3, -0.5, 0.2, 1.0])
    for mine, exact in zip(
        jax.value_and_grad(target)(u), jax.value_and_grad(whole)(u), strict=True
    ):
        np.testing.assert_allclose(mine, exact, rtol=1e-4)


def test_batches_estimate_it_without_bias():
    """The mean over the batches of an epoch is the log density of all rows."""
    target = logistic(1000)
    u = jnp.array([0.3, -0.5, 0.2, 1.0])
    epoch = jax.tree.map(lambda rows: rows.reshape(50, 20, *rows.shape[1:]), target.data)
    estimate = jax.vmap(lambda u, rows: target.given(rows)(u), (None, 0))
    np.testing.assert_allclose(estimate(u, epoch).mean(), target(u), rtol=1e-5)
    slopes = jax.vmap(jax.grad(lambda u, rows: target.given(rows)(u)), (None, 0))(u, epoch)
    np.testing.assert_allclose(slopes.mean(axis=0), jax.grad(target)(u), rtol=1e-3, atol=0.05)
    assert target.given(None) is target.log_density


def normal_mean(num_rows):
    """The mean of normals, and its exact posterior and evidence."""
    y = (3 + rng.normal(size=num_rows)).astype(np.float32)
    target = targets.from_log_density(
        lambda mu: -0.5 * mu**2 / 100 - 0.5 * np.log(2 * np.pi * 100),
        0.0,
        log_likelihood=lambda mu, y: tfd.Normal(mu, 1.0).log_prob(y),
        data=y,
    )
    precision = num_rows + 1 / 100
    loc = y.sum(dtype=float) / precision
    evidence = (
        -0.5 * (y.astype(float) ** 2).sum() - 0.5 * num_rows * np.log(2 * np.pi)
        - 0.5 * np.log(100 * precision) + 0.5 * precision * loc**2
    )  # fmt: skip
    return target, loc, precision**-0.5, evidence


def unit():
    """A flow that starts far from the posterior, and wide."""
    affine = bijectors.TriangularAffine(jnp.zeros(1), jnp.eye(1))
    return flows.Flow(flows.StandardNormal(1), affine)


@pytest.mark.slow
def test_training_on_batches_reaches_the_posterior_of_all_rows():
    target, loc, sd, evidence = normal_mean(500)
    posterior = flows.fit_posterior(
        target, flow=unit(), start=None, batch_size=50, key=KEY, learning_rate=0.03,
        num_steps=1500, progress=False,
    )  # fmt: skip
    assert len(posterior.losses) == 1500
    elbo = posterior.diagnostics.elbo
    assert float(elbo.value) == pytest.approx(evidence, abs=0.05)
    draws = posterior.sample(seed=KEY, sample_shape=(4000,))
    assert draws.shape == (4000,)  # of a parameter that is a number
    assert abs(draws.mean() - loc) < 0.2 * sd
    assert posterior.target.names == ("theta",)


def test_losses_of_batches_are_those_of_all_rows_on_average():
    target, *_ = normal_mean(500)
    flow = unit()
    run = lambda size: stages.ReverseKL(target, 64)(flow, size, KEY).mean()
    exact = run(None)
    order = np.arange(500).reshape(50, 10)
    of_batches = np.array([run(target.data[rows]) for rows in order])
    error = of_batches.std() / np.sqrt(50)
    assert abs(of_batches.mean() - exact) < 4 * error
    assert of_batches.mean() == pytest.approx(float(exact), rel=1e-4)  # of a whole epoch


@pytest.mark.slow
def test_many_rows_are_neither_searched_nor_trained_on_twice(monkeypatch):
    monkeypatch.setattr("flows.variational.stages.MOST_ROWS", 100)
    monkeypatch.setattr("flows.variational.fit.MOST_ROWS", 100)
    target, _, _, evidence = normal_mean(200)
    posterior = flows.fit_posterior(target, batch_size=20, key=KEY, num_steps=20, progress=False)
    assert posterior.diagnostics.lost_modes is None
    assert float(posterior.diagnostics.log_evidence.value) == pytest.approx(evidence, abs=0.01)


@pytest.mark.slow
@pytest.mark.runs_long
def test_batches_and_all_rows_end_at_one_elbo():
    target = logistic(5000)
    fit = lambda **options: flows.fit_posterior(target, key=KEY, progress=False, **options)
    whole, batches = fit(), fit(batch_size=256)
    elbos = [float(posterior.diagnostics.elbo.value) for posterior in (whole, batches)]
    assert elbos[0] == pytest.approx(elbos[1], abs=0.05)
    flow = flows.real_nvp(4, rngs=nnx.Rngs(1))
    alone = fit(batch_size=256, flow=flow, start="laplace")
    assert float(alone.diagnostics.elbo.value) == pytest.approx(elbos[0], abs=0.05)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"data": None}, TypeError, "log_likelihood and data belong together"),
        ({"log_likelihood": None}, TypeError, "log_likelihood and data belong together"),
        ({"data": (X, LABELS[:10])}, ValueError, "data must hold arrays with equal leading axes"),
        (
            {"log_likelihood": lambda p, row: row[0] * p["offset"]}, ValueError,
            r"log_likelihood must return a scalar, got shape \(2,\)",
        ),
    ],
)  # fmt: skip
def test_wrong_rows_are_named(options, error, match):
    given = {"log_likelihood": log_likelihood, "data": (X, LABELS)} | options
    with pytest.raises(error, match=match):
        targets.from_log_density(log_prior, EXAMPLE, **given)


def test_integers_that_do_not_fit_are_refused():
    make = lambda data: targets.from_log_density(
        log_prior, EXAMPLE, log_likelihood=lambda p, row: row * p["offset"], data=data
    )
    with pytest.raises(ValueError, match="data holds integers that do not fit int32"):
        make(np.array([2**40 + 1, 3]))
    with pytest.warns(UserWarning, match="data"):
        make(1.7e9 + np.arange(5.0))
    assert make(np.arange(5)).data.dtype == jnp.int32


@pytest.mark.parametrize(
    ("target", "batch_size", "match"),
    [
        (lambda: logistic(50), 51, "batch_size is 51, more than the 50 rows"),
        (lambda: logistic(50), 0, "batch_size must be at least 1"),
        (lambda: lambda u: -u @ u, 10, "batch_size needs a target that has rows of data"),
    ],
)
def test_wrong_batch_sizes_are_named(target, batch_size, match):
    made = target()
    size = None if isinstance(made, targets.Target) else 2
    with pytest.raises(ValueError, match=match):
        flows.fit_posterior(made, event_size=size, batch_size=batch_size, key=KEY)

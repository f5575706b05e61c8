import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import flows

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import bayesian_network as bnn
import simulators

MOONS, SLCP = simulators.SIMULATORS["two_moons"], simulators.SIMULATORS["slcp"]


def test_likelihoods_are_those_of_the_simulators():
    """Two moons: p(x) is 1/2 inside. SLCP: means and covariance of the four points."""
    theta = np.tile([0.3, -0.2], (20_000, 1))
    x = MOONS.simulate(np.random.default_rng(0), theta)
    np.testing.assert_allclose(
        x.mean(0), [0.25 + 0.2 / np.pi - 0.1 / 2**0.5, -0.5 / 2**0.5], atol=0.003
    )
    entropy = np.log(np.pi * 0.1) + 0.5 * np.log(2 * np.pi * np.e * 0.01**2)
    assert abs(MOONS.log_likelihood(theta, x).mean() + entropy) < 0.03

    theta = np.tile([0.5, -1.0, 1.2, 0.9, 0.7], (20_000, 1))
    x = SLCP.simulate(np.random.default_rng(0), theta)
    s1, s2, rho = 1.2**2, 0.9**2, np.tanh(0.7)
    covariance = np.array([[s1**2, rho * s1 * s2], [rho * s1 * s2, s2**2]])
    points = x.reshape(-1, 2)
    np.testing.assert_allclose(points.mean(0), [0.5, -1.0], atol=0.03)
    np.testing.assert_allclose(np.cov(points.T), covariance, rtol=0.05)
    offset = points - theta[0, :2]
    squares = np.einsum("ni,ij,nj->n", offset, np.linalg.inv(covariance), offset)
    expected = -0.5 * squares - 0.5 * np.log(np.linalg.det(2 * np.pi * covariance))
    np.testing.assert_allclose(
        SLCP.log_likelihood(theta, x), expected.reshape(-1, 4).sum(1), rtol=1e-3, atol=1e-3
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No epoch was better")
def test_simulators_in_small(capsys):
    flow, values = simulators.compare(
        MOONS, n=200, max_epochs=2, batch_size=100, num_pairs=20, num_draws=50
    )
    assert "one affine layer" in capsys.readouterr().out
    assert all(np.shape(value) == (20,) for value in values.values())
    theta, draws, exact = simulators.draw(MOONS, flow, num_draws=100)
    assert np.abs(draws).max() <= MOONS.bound
    simulators.plot_moons(theta, draws, exact)


@pytest.mark.slow
@pytest.mark.runs_long
@pytest.mark.parametrize("name", ["two_moons", "slcp"])
def test_posteriors_of_simulators(name):
    """Calibrated; more than a nat better than one affine layer, and two moons nearly exact."""
    simulator = simulators.SIMULATORS[name]
    flow, values = simulators.compare(simulator, **simulators.RUNS[name])
    gain = values["splines"] - values["one affine layer"]
    assert gain.mean() > 1 + 4 * gain.std() / len(gain) ** 0.5
    draws = simulators.draw(simulator, flow, num_draws=1000)[1]
    assert np.abs(draws).max() <= simulator.bound
    if name == "two_moons":
        assert (values["exact posterior"] - values["splines"]).mean() < 0.25
    report = flows.check_calibration(flow, *simulator.pairs(2000, seed=2), key=simulators.CHECK)
    assert report.calibrated, report


@pytest.mark.slow
def test_the_exact_posterior_of_two_moons():
    """Away from the edges p(x) is 1/2, by hand, and so is importance sampling."""
    flow = simulators.fit(MOONS, 500, max_epochs=5, batch_size=100, progress=False)
    theta = np.array([[0.3, 0.2], [-0.1, 0.4], [0.25, -0.3]])
    x = MOONS.simulate(np.random.default_rng(1), theta)
    exact, _ = simulators.log_posterior(MOONS, flow, jnp.asarray(theta), jnp.asarray(x), 20_000)
    by_hand = MOONS.log_likelihood(theta, x) - np.log(4) + np.log(2)
    np.testing.assert_allclose(exact, by_hand, atol=0.2)


def test_one_copy_of_a_network_has_the_evidence_of_all():
    """Swapped and turned units predict the same, and the prior counts H! 2^H of them."""
    weights = {name: jnp.array([0.7, 1.2]) for name in ("slope", "centre", "height")}
    weights |= {"bias": jnp.array(0.1), "noise": jnp.array(0.2)}
    log_ratio = bnn.log_prior(weights, True) - bnn.log_prior(weights, False)
    assert abs(log_ratio - np.log(2 * 2**2)) < 1e-5
    swapped = {k: v[::-1] if v.ndim else v for k, v in weights.items()}
    turned = weights | {name: weights[name] * jnp.array([-1, 1]) for name in ("slope", "height")}
    for other in (swapped, turned):
        assert abs(bnn.network(other, 0.4) - bnn.network(weights, 0.4)) < 1e-6


@pytest.mark.slow
def test_a_bayesian_network_in_small(capsys):
    rows, test = bnn.make_data(num_rows=20, num_test=30)
    target = bnn.make_target(rows, 2, one_copy=True)
    q = bnn.backprop(target, 0, num_steps=20, batch_size=10)
    predictions = bnn.report({"Bayes by Backprop": (q, target)}, test, num_draws=50)
    outputs, log_p, levels = predictions["Bayes by Backprop"]
    assert outputs.shape == (50, 30)
    assert np.isfinite(log_p).all()
    assert ((levels >= 0) & (levels <= 1)).all()
    assert "held-out" in capsys.readouterr().out
    bnn.plot(predictions, rows, test)


@pytest.mark.slow
@pytest.mark.runs_long
def test_the_flow_bounds_the_evidence_closer_than_bayes_by_backprop():
    """By five nats or more; it is unsure in the gap, and says that it is not to be trusted."""
    rows, test = bnn.make_data()
    fits, diagnostics = bnn.fit_all(rows)
    elbos = [bnn.measure(q, target.log_density).mean() for q, target in fits.values()]
    assert elbos[2] > max(elbos[:2]) + 5
    assert diagnostics.log_evidence.value > elbos[2]
    assert not diagnostics.trustworthy
    predictions = bnn.report(fits, test)
    inside = np.abs(test[0]) < bnn.GAP
    spread = {
        name: outputs.std(axis=0)[inside].mean() for name, (outputs, *_) in predictions.items()
    }
    assert spread["flow, one copy"] > 1.5 * spread["Bayes by Backprop"]

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import perturbed
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import vae_posteriors as vae

SIZES = {"latent_size": 2, "hidden_size": 8}


@pytest.fixture(scope="module")
def digits():
    return vae.load()


@pytest.fixture(scope="module")
def model():
    return perturbed(vae.VAE("iaf", "mixture", **SIZES, rngs=nnx.Rngs(0)))


def test_all_images_are_used_once(digits):
    assert sum(map(len, digits)) == 1797
    assert digits.train.max() == 1
    assert digits.test.max() == vae.LIGHT


def test_likelihood_is_binomial(model, digits):
    images, z = digits.test[:5], jnp.linspace(-2, 2, 10).reshape(5, 2)
    chances = jax.nn.sigmoid(model.decoder(z))
    expected = stats.binom.logpmf(images, vae.LIGHT, np.asarray(chances, float)).sum(axis=1)
    np.testing.assert_allclose(model.log_likelihood(images, z), expected, rtol=1e-4)


def test_density_of_draws_is_that_of_the_posterior(model, digits):
    q = model.posterior_of(digits.test[:5])
    z, log_q = q.sample_and_log_prob(seed=jax.random.key(0), sample_shape=(7,))
    assert z.shape == (7, 5, 2)
    np.testing.assert_allclose(log_q, q.log_prob(z), atol=1e-3)


@pytest.mark.slow
def test_bounds_rise_with_draws_to_the_evidence(digits):
    one = vae.VAE("iaf", "mixture", latent_size=1, hidden_size=8, rngs=nnx.Rngs(0))
    one.decoder.kernel[...] *= 0.05  # q starts near the prior, and covers the posterior
    images, num_draws = digits.test[:16], 2000
    z = jnp.linspace(-15, 15, 3001)[:, None, None]
    integral = lambda log_values: jax.nn.logsumexp(log_values, axis=0) + np.log(0.01)
    log_joint = one.log_likelihood(images, z) + one.prior.log_prob(z)
    log_evidence = integral(log_joint)
    log_weight = log_joint - log_evidence - one.posterior_of(images).log_prob(z)
    error = np.sqrt(np.expm1(integral(log_joint - log_evidence + log_weight)) / num_draws)
    elbo, few = vae.bounds(one, images, jax.random.key(0), 10)
    _, many = vae.bounds(one, images, jax.random.key(1), num_draws)
    assert (elbo <= few).all()
    assert few.mean() < many.mean()
    assert (np.abs(many - log_evidence) < 4 * error + 1e-3).all()


def test_weight_of_the_divergence_rises_to_beta(digits):
    weights = [weight[0] for _, weight in vae.batches(digits.train, 50, 2.0, 0)]
    assert weights[0] == pytest.approx(0.2)
    assert np.all(np.diff(weights) >= 0)
    assert weights[10:] == [2.0] * 40


@pytest.mark.slow
def test_tiny_run(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = vae.Digits(*(part[:64] for part in digits))
    name = "IAF"
    models, measured = vae.compare(few, (name,), num_steps=20, num_draws=10, **SIZES)
    elbo, bound = measured[name]
    assert np.isfinite(bound).all()
    assert (elbo <= bound).all()
    assert name in capsys.readouterr().out
    vae.draw(models | {"other": models[name]}, few.test, num_draws=1000)
    assert (tmp_path / "figures" / "vae_posteriors.png").exists()


@pytest.mark.slow
@pytest.mark.runs_long
@pytest.mark.parametrize("seed", range(3))
def test_flow_as_posterior_beats_the_diagonal_in_both_bounds(digits, seed):
    _, measured = vae.compare(digits, ("diagonal", "IAF"), seed=seed)
    for diagonal, iaf in zip(*measured.values(), strict=True):
        gain, error = vae.estimate(iaf - diagonal)
        assert gain > 3 * error

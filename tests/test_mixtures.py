"""The mixture of normals as a base: densities, draws, and their derivatives."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import normals, perturbed

import flows

KEY = jax.random.key(0)


def mixture(event_size=2, num_components=3, **options):
    return perturbed(flows.MixtureOfNormals(event_size, num_components, **options), scale=0.5)


def scale_tril(base):
    scale = jnp.exp(base.log_scale[...])[..., None]
    eye = jnp.eye(base.event_size)
    return scale * (eye if base.shear is None else eye + jnp.tril(base.shear[...], -1))


both_covariances = pytest.mark.parametrize("full_covariance", [False, True])


@both_covariances
def test_density_and_draws_are_those_of_distrax(full_covariance):
    base = mixture(full_covariance=full_covariance)
    x = 2 * normals(0, 50, 2)

    @jax.jit
    def by_distrax(base):
        share = jax.nn.softmax(base.logits[...])
        parts = distrax.MultivariateNormalTri(base.loc[...], scale_tril(base))
        mean = share @ parts.mean()
        apart = parts.mean() - mean
        covariance = jnp.einsum("k,kij->ij", share, parts.covariance()) + (share * apart.T) @ apart
        log_parts = parts.log_prob(x[:, None]) + jnp.log(share)
        return jax.nn.logsumexp(log_parts, axis=1), mean, covariance

    expected, mean, covariance = by_distrax(base)
    np.testing.assert_allclose(base.log_prob(x), expected, rtol=1e-5, atol=1e-5)
    for draws in (
        base.sample(seed=KEY, sample_shape=(100_000,)),
        base.weighted_sample(seed=KEY, sample_shape=(100_000,))[0],
    ):
        np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.02)
        np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.02 * covariance.max())
    assert abs(covariance[0, 1]) > 0.1


def test_starts_near_the_standard_normal():
    base = flows.MixtureOfNormals(3, num_components=8)
    draws = base.sample(seed=KEY, sample_shape=(10_000,))
    assert (abs(draws.mean(axis=0)) < 0.8).all()
    assert (abs(draws.std(axis=0) - 1) < 0.4).all()
    one = flows.MixtureOfNormals(3, num_components=1)
    np.testing.assert_allclose(
        one.log_prob(draws), flows.StandardNormal(3).log_prob(draws), rtol=1e-5
    )


@both_covariances
def test_derivatives_of_draws_are_those_of_expectations(full_covariance):
    """E[x_0 x_1^2] is a polynomial in the parameters; its gradient by draws is unbiased."""
    base = mixture(full_covariance=full_covariance)

    def by_draws(base, key):
        x = base.sample(seed=key, sample_shape=(2000,))
        return (x[:, 0] * x[:, 1] ** 2).mean()

    def exact(base):
        share = jax.nn.softmax(base.logits[...])
        loc, scale = base.loc[...], scale_tril(base)
        covariance = jnp.einsum("kij,klj->kil", scale, scale)
        of_each = loc[:, 0] * (loc[:, 1] ** 2 + covariance[:, 1, 1])
        return (share * (of_each + 2 * loc[:, 1] * covariance[:, 0, 1])).sum()

    run = jax.jit(jax.vmap(jax.grad(by_draws), (None, 0)))
    gradients = run(base, jax.random.split(KEY, 100)), jax.jit(jax.grad(exact))(base)
    for found, wanted in zip(*map(jax.tree.leaves, gradients), strict=True):
        found, wanted = np.asarray(found), np.asarray(wanted)
        error = found.std(axis=0) / 10 + 1e-4
        assert (abs(found.mean(axis=0) - wanted) < 4.5 * error).all()
        assert abs(wanted).max() > 10 * error.max()  # the weights' too


def test_derivatives_are_finite_far_out():
    base = flows.MixtureOfNormals(2, num_components=2)
    base.loc[...] = jnp.array([[-50.0, 0.0], [50.0, 0.0]])
    square = lambda base: (base.sample(seed=KEY, sample_shape=(10_000,)) ** 2).mean()
    gradient = jax.jit(jax.grad(square))(base)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(gradient.loc[:, 0], [-25, 25], rtol=0.05)


def test_modes_that_lie_apart_need_no_bridge():
    rng = np.random.default_rng(0)
    x = rng.choice([-6.0, 0.0, 6.0], (3000, 1)) + 0.3 * rng.normal(size=(3000, 2))
    entropy = np.log(3) + np.log(2 * np.pi * np.e * 0.09)

    def nll(base):
        flow = flows.real_nvp(2, num_layers=2, base=base, standardize_with=x, rngs=nnx.Rngs(0))
        fit = flows.fit(flow, x, key=KEY, max_epochs=100, progress=False)
        draws = fit.flow.sample(seed=KEY, sample_shape=(5000,))
        return fit.history["validation"].min(), float((abs(draws[:, 0] % 6 - 3) < 1.2).mean())

    loss, between = nll(flows.MixtureOfNormals(2, 3))
    assert loss < entropy + 0.15
    assert between < 0.005


def test_a_posterior_of_two_modes_finds_their_weights():
    def log_density(theta):
        modes = jnp.array([[-6.0, 0.0], [6.0, 0.0]])
        log_parts = -0.5 * ((theta - modes) ** 2).sum(axis=1) - jnp.log(2 * jnp.pi)
        return jax.nn.logsumexp(log_parts + jnp.log(jnp.array([0.8, 0.2])))

    base = flows.MixtureOfNormals(2, 2)
    base.loc[...] = jnp.array([[-6.0, 0.0], [6.0, 0.0]])
    base.log_scale[...] = jnp.zeros((2, 2))
    flow = flows.Flow(base, flows.bijectors.Elementwise(2))
    posterior = flows.fit_posterior(
        log_density, flow=flow, key=KEY, num_steps=1000, learning_rate=0.02, progress=False
    )
    share = jax.nn.softmax(posterior.flow.base.logits[...])
    np.testing.assert_allclose(share, [0.8, 0.2], atol=0.03)
    assert abs(posterior.diagnostics.log_evidence.value) < 0.02


@pytest.mark.parametrize("distance", [1.0, 8.0])
def test_derivatives_of_divergences_reach_the_weights_at_any_distance(distance):
    def pair(logit):
        p, q = (flows.MixtureOfNormals(1, 2) for _ in range(2))
        for base in (p, q):
            base.loc[...] = jnp.array([[-distance], [distance]])
            base.log_scale[...] = jnp.zeros((2, 1))
        p.logits[...] = jnp.stack([logit, 0.0])
        return p, q

    def exact(logit):
        p, q = pair(logit)
        grid = jnp.linspace(-20, 20, 4001)[:, None]
        log_p = p.log_prob(grid)
        return (jnp.exp(log_p) * (log_p - q.log_prob(grid))).sum() * 0.01

    def by_draws(logit):
        identity = flows.bijectors.Elementwise(1)
        p, q = (flows.Flow(base, identity) for base in pair(logit))
        return flows.divergences.kl(p, q, key=KEY, num_samples=50_000, method="monte_carlo").value

    found, wanted = (float(jax.jit(jax.grad(f))(1.0)) for f in (by_draws, exact))
    assert wanted > 0.02
    assert abs(found - wanted) < 0.1 * wanted


def test_second_derivatives_of_draws():
    def square(loc):
        base = flows.MixtureOfNormals(1, 1)
        base.loc[...] = loc.reshape(1, 1)
        return (base.sample(seed=KEY, sample_shape=(2000,)) ** 2).mean()

    second = jax.jit(jax.grad(jax.grad(square)))
    np.testing.assert_allclose(second(jnp.array(0.5)), 2.0, rtol=1e-4)


def test_files_and_bad_input(tmp_path):
    flow = flows.Flow(mixture(), flows.bijectors.Elementwise(2))
    flows.save(tmp_path / "flow.npz", flow)
    x = jnp.ones((3, 2))
    np.testing.assert_array_equal(flows.load(tmp_path / "flow.npz").log_prob(x), flow.log_prob(x))
    with pytest.raises(ValueError, match="num_components must be at least 1, got 0"):
        flows.MixtureOfNormals(2, 0)

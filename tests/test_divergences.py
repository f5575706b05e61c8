import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import perturbed

import flows
from flows.divergences import Estimate, kl


def test_closed_form_of_normals():
    p, q = distrax.Normal(0.3, 1.5), distrax.Normal(-1.0, 2.0)
    expected = np.log(2 / 1.5) + (1.5**2 + 1.3**2) / (2 * 4) - 0.5
    estimate = kl(p, q)
    np.testing.assert_allclose(estimate.value, expected, rtol=1e-6)
    assert (estimate.method, estimate.num_samples, float(estimate.standard_error)) == (
        "closed_form", 0, 0.0,
    )  # fmt: skip


def test_multivariate_normals_are_closed_although_distrax_makes_them_pushforwards():
    loc, scale = jnp.array([1.0, -1.0]), jnp.array([0.5, 2.0])
    p, q = distrax.MultivariateNormalDiag(loc, scale), flows.DiagonalNormal(2)
    expected = 0.5 * (scale**2 + loc**2 - 1 - 2 * jnp.log(scale)).sum()
    estimate = kl(p, distrax.MultivariateNormalDiag(jnp.zeros(2), jnp.ones(2)))
    assert estimate.method == "closed_form"
    np.testing.assert_allclose(estimate.value, expected, rtol=1e-5)
    own = kl(perturbed(q), flows.StandardNormal(2))
    assert own.method == "closed_form"


def test_transformed_distributions_never_take_the_false_zero():
    normal = distrax.MultivariateNormalDiag(jnp.zeros(2), jnp.ones(2))
    shifted = lambda by: distrax.Transformed(
        normal, distrax.Block(distrax.ScalarAffine(jnp.array([by, by]), jnp.ones(2)), 1)
    )
    p, q = shifted(0.0), shifted(5.0)
    assert float(p.kl_divergence(q)) == 0.0  # the trap in distrax itself
    estimate = kl(p, q, key=jax.random.key(0))
    assert estimate.method == "monte_carlo"
    assert abs(estimate.value - 25.0) < 4 * estimate.standard_error
    inside = distrax.Independent(
        distrax.Transformed(distrax.Normal(jnp.zeros(2), 1.0), distrax.ScalarAffine(0.0, 3.0)), 1
    )
    assert kl(inside, inside, key=jax.random.key(0)).method == "monte_carlo"


def test_monte_carlo_value_and_error_on_a_known_pair():
    # A flow that is exactly N(loc, L L^T), against the closed form.
    loc, tril = jnp.array([0.5, -1.0]), jnp.array([[1.0, 0], [0.4, 0.6]])
    p = flows.Flow(flows.StandardNormal(2), flows.bijectors.TriangularAffine(loc, tril))
    q = flows.StandardNormal(2)
    exact = kl(
        distrax.MultivariateNormalTri(loc, tril),
        distrax.MultivariateNormalDiag(jnp.zeros(2), jnp.ones(2)),
    ).value
    estimates = jax.vmap(lambda key: kl(p, q, key=key, num_samples=500))(
        jax.random.split(jax.random.key(0), 400)
    )
    z = (estimates.value - exact) / estimates.standard_error
    assert abs(z.mean()) < 4 / np.sqrt(400)  # unbiased
    inside = float((abs(z) < 1.96).mean())
    assert abs(inside - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 400)  # the error bar is honest


def test_works_inside_jit_and_is_differentiable():
    p = flows.DiagonalNormal(2)
    flow = flows.Flow(p, flows.bijectors.Reverse(2))
    q = distrax.MultivariateNormalDiag(jnp.ones(2), jnp.ones(2))

    @jax.jit
    def value(flow, key):
        return kl(flow, q, key=key, num_samples=20_000).value

    grad = jax.grad(value)(flow, jax.random.key(0))
    np.testing.assert_allclose(grad.base.loc[...], -1.0, atol=0.05)  # d/dm of (m - 1)^2 / 2 at 0


def test_batch_shapes_are_kept():
    flow = flows.maf(2, context_size=1, rngs=nnx.Rngs(0)).condition(jnp.zeros((5, 1)))
    estimate = kl(flow, flows.StandardNormal(2), key=jax.random.key(0), num_samples=100)
    assert estimate.value.shape == estimate.standard_error.shape == (5,)


def test_estimate_of_draws():
    draws = jnp.array([1.0, 2.0, 3.0, 6.0])
    estimate = Estimate.from_draws(draws)
    assert float(estimate.value) == 3.0
    np.testing.assert_allclose(estimate.standard_error, np.std(draws, ddof=1) / 2, rtol=1e-6)


def test_errors():
    flow = flows.maf(2, rngs=nnx.Rngs(0))
    other = flows.maf(3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"event shape, got \(2,\) and \(3,\)"):
        kl(flow, other, key=jax.random.key(0))
    with pytest.raises(ValueError, match="key is needed"):
        kl(flow, flow)
    with pytest.raises(TypeError, match="key must be a JAX random key"):
        kl(flow, flow, key=0)
    with pytest.raises(ValueError, match="num_samples must be at least 2"):
        kl(flow, flow, key=jax.random.key(0), num_samples=1)
    with pytest.raises(TypeError, match="num_samples must be an int"):
        kl(flow, flow, key=jax.random.key(0), num_samples=1.5)

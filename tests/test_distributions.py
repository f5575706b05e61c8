import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from helpers import perturbed
from tensorflow_probability.substrates.jax import distributions as tfd

import flows


def test_bases_against_scipy():
    x = np.linspace(-3, 3, 20).reshape(10, 2)
    np.testing.assert_allclose(
        flows.StandardNormal(2).log_prob(x), scipy.stats.norm.logpdf(x).sum(1), rtol=1e-5
    )
    normal = perturbed(flows.DiagonalNormal(2))
    np.testing.assert_allclose(
        normal.log_prob(x),
        scipy.stats.norm.logpdf(x, normal.loc[...], np.exp(normal.log_scale[...])).sum(1),
        rtol=1e-4,
    )
    t = perturbed(flows.StudentT(2, df=4.0))
    np.testing.assert_allclose(
        t.log_prob(x),
        scipy.stats.t.logpdf(x, np.exp(t.log_df[...]), t.loc[...], np.exp(t.log_scale[...])).sum(1),
        rtol=1e-4,
    )


@pytest.mark.parametrize("base", [flows.StandardNormal, flows.DiagonalNormal, flows.StudentT])
def test_draws_of_bases_follow_their_density(base):
    dist = perturbed(base(2)) if base is not flows.StandardNormal else base(2)
    x = np.asarray(dist.sample(seed=jax.random.key(0), sample_shape=(20_000,)))
    for i in range(2):
        if base is flows.StandardNormal:
            cdf = scipy.stats.norm.cdf
        else:
            loc, scale = float(dist.loc[i]), float(np.exp(dist.log_scale[i]))
            if base is flows.DiagonalNormal:
                cdf = scipy.stats.norm(loc, scale).cdf
            else:
                cdf = scipy.stats.t(float(np.exp(dist.log_df[i])), loc, scale).cdf
        assert scipy.stats.kstest(x[:, i], cdf).pvalue > 1e-3


def test_standard_normal_has_no_leaves_and_bases_own_few():
    assert not jax.tree.leaves(flows.StandardNormal(3))
    assert len(jax.tree.leaves(flows.DiagonalNormal(3))) == 2
    assert len(jax.tree.leaves(flows.StudentT(3))) == 3


def pair():
    make = lambda seed: perturbed(
        flows.maf(3, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0)), jax.random.key(seed), 0.2
    )
    return make(1), make(2)


def written_out_kl(p, q, n=200_000):
    x, log_p = p.sample_and_log_prob(seed=jax.random.key(11), sample_shape=(n,))
    ratio = np.asarray(log_p - q.log_prob(x), np.float64)
    return ratio.mean(), ratio.std() / np.sqrt(n)


def test_kl_of_two_flows_of_one_architecture_is_not_zero():
    for p, q in (pair(), pair()[::-1]):
        value, error = written_out_kl(p, q)
        assert value > 50 * error  # far from zero
        estimate = flows.divergences.kl(p, q, key=jax.random.key(0), num_samples=100_000)
        assert estimate.method == "monte_carlo"
        spread = 4 * np.hypot(error, estimate.standard_error)
        assert abs(estimate.value - value) < spread
        for kl in (p.kl_divergence(q), tfd.kl_divergence(p, q)):
            assert abs(kl - value) < 4 * np.hypot(error, estimate.standard_error * np.sqrt(10))


def test_kl_between_a_flow_and_other_distributions_goes_through_the_registry():
    p, _ = pair()
    normal = distrax.MultivariateNormalDiag(jnp.zeros(3), 2 * jnp.ones(3))
    for a, b in ((p, normal), (normal, p), (p, flows.StandardNormal(3))):
        value, error = written_out_kl(a, b)
        assert abs(a.kl_divergence(b) - value) < 5 * np.sqrt(20) * error
        assert abs(tfd.kl_divergence(a, b) - value) < 5 * np.sqrt(20) * error


def test_kl_of_a_flow_with_itself_is_exactly_zero():
    p, _ = pair()
    assert abs(p.kl_divergence(p)) < 1e-5


def test_context_errors_of_flows():
    conditional = flows.maf(2, context_size=3, rngs=nnx.Rngs(0))
    plain = flows.maf(2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"context is missing.*context_size=3"):
        conditional.log_prob(jnp.zeros(2))
    with pytest.raises(ValueError, match=r"context is missing.*context_size=3"):
        conditional.sample(seed=jax.random.key(0))
    with pytest.raises(ValueError, match="context was given"):
        plain.condition(jnp.zeros(3))
    with pytest.raises(ValueError, match=r"context must have shape \[\.\.\., 3\]"):
        conditional.condition(jnp.zeros(2))


def test_flows_refuse_raw_distrax_parts():
    raw = distrax.Chain([flows.bijectors.Coupling(2, rngs=nnx.Rngs(0))])
    with pytest.raises(TypeError, match=r"bijector must be .*flows\.bijectors\.Chain"):
        flows.Flow(flows.StandardNormal(2), raw)
    with pytest.raises(TypeError, match=r"bijectors\[0\] must be"):
        flows.bijectors.Chain([raw])
    with pytest.raises(TypeError, match="bijector must be"):
        flows.bijectors.Inverse(distrax.Tanh())
    with pytest.raises(TypeError, match="base must be"):
        flows.Flow(distrax.Normal(jnp.zeros(2), 1.0), flows.bijectors.Reverse(2))


def test_gradient_flows_to_the_context():
    flow = perturbed(flows.real_nvp(2, context_size=3, rngs=nnx.Rngs(0)))
    grad = jax.grad(lambda c: flow.condition(c).log_prob(jnp.ones(2)))(jnp.ones(3))
    assert (np.abs(grad) > 0).all()

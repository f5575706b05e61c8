"""Flows inside other libraries: sample sites of numpyro, TFP joints, ArviZ."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from helpers import chains, perturbed
from numpyro import handlers
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.util import log_density, potential_energy
from tensorflow_probability.substrates.jax import distributions as tfd

import flows
from flows import bijectors, supports
from flows.adapters import arviz, tfp
from flows.adapters.numpyro import FlowDistribution, flow_param

KEY = jax.random.key(0)
LOC, TRIL = jnp.array([1.0, -2.0]), jnp.array([[0.5, 0.0], [0.3, 0.8]])
COVARIANCE = np.asarray(TRIL @ TRIL.T)
GAUSSIAN = flows.Flow(flows.StandardNormal(2), bijectors.TriangularAffine(LOC, TRIL))
NOISE, SEEN = 0.7, np.array([1.8, -1.0], np.float32)


def analytic():
    """Mean and covariance of x ~ GAUSSIAN given SEEN = x + NOISE."""
    gain = COVARIANCE @ np.linalg.inv(COVARIANCE + NOISE**2 * np.eye(2))
    return LOC + gain @ (SEEN - LOC), COVARIANCE - gain @ COVARIANCE


def columns_flow():
    made = flows.real_nvp(
        3, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0),
        support=(supports.positive, supports.real, supports.interval(-1, 2)),
    )  # fmt: skip
    return perturbed(made)


# At a sample site of numpyro.


def test_a_flow_at_a_site_has_its_density_and_draws():
    made = FlowDistribution(columns_flow())
    assert (made.batch_shape, made.event_shape, made.event_dim) == ((), (3,), 1)
    x = made.sample(KEY, (4, 5))
    assert x.shape == (4, 5, 3)
    np.testing.assert_array_equal(x, made.flow.sample(seed=KEY, sample_shape=(4, 5)))
    np.testing.assert_array_equal(made.log_prob(x), made.flow.log_prob(x))
    assert made.support(x).all()
    assert not made.support(x.at[0, 0, 0].set(-1.0))[0, 0]
    assert made.has_rsample
    old_style = jax.random.PRNGKey(0)
    assert made.sample(old_style, (2,)).shape == (2, 3)


def test_numpyro_validates_values_if_it_is_told_to():
    made = FlowDistribution(columns_flow(), validate_args=True)
    with pytest.warns(UserWarning, match="Out-of-support"):
        made.log_prob(jnp.array([-1.0, 0.0, 0.0]))


def test_its_support_is_mapped_from_real_numbers():
    made = FlowDistribution(columns_flow())
    transform = dist.biject_to(made.support)
    u = jax.random.normal(KEY, (6, 3))
    x = transform(u)
    assert made.support(x).all()
    np.testing.assert_allclose(transform.inv(x), u, atol=1e-4)
    jacobian = jax.vmap(jax.jacobian(transform))(u)
    np.testing.assert_allclose(
        transform.log_abs_det_jacobian(u, x), np.linalg.slogdet(jacobian)[1], atol=1e-4
    )
    inner = np.asarray(made.support.feasible_like(x))
    assert made.support(inner).all()


def test_flows_are_distributions_under_jit_vmap_and_plates():
    flow = columns_flow()
    x = flow.sample(seed=KEY, sample_shape=(5,))
    density = jax.jit(lambda made, x: made.log_prob(x))
    np.testing.assert_allclose(density(FlowDistribution(flow), x), flow.log_prob(x), rtol=1e-5)
    stacked = jax.vmap(lambda shift: jax.tree.map(lambda p: p + shift, GAUSSIAN))(jnp.arange(3.0))
    each = jax.vmap(lambda flow: FlowDistribution(flow).log_prob(SEEN))(stacked)
    assert each.shape == (3,)
    assert float(each[0]) == pytest.approx(float(GAUSSIAN.log_prob(SEEN)), rel=1e-5)

    def model(y=None):
        with numpyro.plate("rows", 5):
            return numpyro.sample("x", FlowDistribution(flow), obs=y)

    assert handlers.seed(model, 0)().shape == (5, 3)
    total, _ = log_density(model, (x,), {}, {})
    assert float(total) == pytest.approx(float(flow.log_prob(x).sum()), rel=1e-5)


def test_conditional_flows_are_batches_of_distributions():
    flow = perturbed(flows.maf(2, context_size=1, hidden_sizes=(8,), rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"flow waits for a context: pass flow.condition"):
        FlowDistribution(flow)

    def model(y):
        level = numpyro.sample("level", dist.Normal(0, 1))
        contexts = level + jnp.arange(4.0)[:, None]
        with numpyro.plate("rows", 4):
            numpyro.sample("y", FlowDistribution(flow.condition(contexts)), obs=y)

    y = jnp.ones((4, 2))
    total, _ = log_density(model, (y,), {}, {"level": jnp.array(0.5)})
    exact = flow.condition(0.5 + jnp.arange(4.0)[:, None]).log_prob(y).sum()
    exact += dist.Normal(0, 1).log_prob(0.5)
    assert float(total) == pytest.approx(float(exact), rel=1e-5)
    gradient = jax.grad(lambda u: potential_energy(model, (y,), {}, {"level": u}))(0.5)
    assert jnp.isfinite(gradient)
    assert gradient != 0


def test_chains_with_a_flow_as_the_prior_are_those_of_the_analytic_posterior():
    def model():
        x = numpyro.sample("x", FlowDistribution(GAUSSIAN))
        numpyro.sample("y", dist.Normal(x, NOISE).to_event(1), obs=SEEN)

    made = chains(model)
    x = np.asarray(made.get_samples()["x"], np.float64)
    mean, covariance = analytic()
    sd = np.sqrt(np.diag(covariance))
    ess = numpyro.diagnostics.effective_sample_size(made.get_samples(group_by_chain=True)["x"])
    assert (np.abs(x.mean(axis=0) - mean) < 4 * sd / np.sqrt(ess)).all()
    np.testing.assert_allclose(
        np.cov(x.T), covariance, atol=4 * sd.max() ** 2 * (2 / ess.min()) ** 0.5
    )


@pytest.mark.slow
@pytest.mark.runs_long
def test_a_fitted_flow_as_the_prior_of_a_second_study():
    first = GAUSSIAN.sample(seed=KEY, sample_shape=(20_000,))
    flow = flows.maf(2, standardize_with=first, rngs=nnx.Rngs(0))
    fitted = flows.fit(flow, first, key=KEY, progress=False).flow

    def model():
        x = numpyro.sample("x", FlowDistribution(fitted))
        numpyro.sample("y", dist.Normal(x, NOISE).to_event(1), obs=SEEN)

    x = np.asarray(chains(model).get_samples()["x"])
    mean, covariance = analytic()
    sd = np.sqrt(np.diag(covariance))
    assert (np.abs(x.mean(axis=0) - mean) < 0.1 * sd).all()
    np.testing.assert_allclose(x.std(axis=0), sd, rtol=0.1)


def test_latent_flows_move_in_the_space_of_their_support():
    """Draws of a prior with bounds, by NUTS and by fit_posterior, are its own."""
    flow = columns_flow()
    model = lambda: numpyro.sample("x", FlowDistribution(flow))
    target = flows.targets.from_numpyro(model)
    assert target.names == ("x[0]", "x[1]", "x[2]")
    u = jax.random.normal(KEY, (20, 3))
    p = target.constrain(u)
    log_p = jax.jit(jax.vmap(target))(u) + target.unconstrain(p)[1]
    np.testing.assert_allclose(log_p, flow.log_prob(p["x"]), atol=1e-3)


def test_flows_of_integers_and_angles_are_observed_but_not_latent():
    counts = flows.maf(2, support=supports.integers(0), hidden_sizes=(8,), rngs=nnx.Rngs(0))
    rows = jnp.array([[0.0, 3.0], [2.0, 1.0]])

    def model(y=None):
        with numpyro.plate("rows", 2):
            numpyro.sample("y", FlowDistribution(counts), obs=y)

    total, _ = log_density(model, (rows,), {}, {})
    assert float(total) == pytest.approx(float(counts.log_prob(rows).sum()), rel=1e-5)
    with pytest.raises(
        ValueError, match=r"Site 'y' is discrete \(FlowDistribution\) and not observed"
    ):
        flows.targets.from_numpyro(model)
    angles = flows.ncsf(2, hidden_sizes=(8,), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="Site 'x' has support"):
        flows.targets.from_numpyro(lambda: numpyro.sample("x", FlowDistribution(angles)))


def test_svi_learns_the_parameters_of_a_flow_in_a_model():
    data = GAUSSIAN.sample(seed=KEY, sample_shape=(2000,))
    start = flows.Flow(
        flows.StandardNormal(2), bijectors.TriangularAffine(jnp.zeros(2), jnp.eye(2))
    )

    def model(x):
        flow = flow_param("flow", start)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", FlowDistribution(flow), obs=x)

    svi = SVI(model, lambda x: None, optax.adam(0.05), Trace_ELBO())
    params = svi.run(KEY, 400, data, progress_bar=False).params
    with handlers.substitute(data=params):
        learnt = flow_param("flow", start)
    best = dist.MultivariateNormal(data.mean(axis=0), jnp.cov(data.T, ddof=0))
    gap = best.log_prob(data).mean() - learnt.log_prob(data).mean()
    assert -1e-5 < gap < 0.01
    assert start.log_prob(data).mean() < best.log_prob(data).mean() - 1


def test_what_is_no_flow_is_named():
    with pytest.raises(TypeError, match=r"flow must be a flows.Flow"):
        FlowDistribution(dist.Normal())


def test_without_numpyro_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpyro", None)
    for name in [name for name in sys.modules if name.startswith("flows.adapters.numpyro")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"flows-jax\[numpyro\]"):
        flows.targets.from_numpyro(lambda: None)


# In TFP, and in ArviZ.


def test_a_flow_as_a_part_of_a_joint_distribution():
    flow = columns_flow()
    prior = tfp.as_distribution(flow)
    joint = tfd.JointDistributionNamedAutoBatched(
        {"x": prior, "y": lambda x: tfd.Normal(x[..., 0] * x[..., 2], 1.0)}
    )
    draws = joint.sample(5, seed=KEY)
    exact = flow.log_prob(draws["x"])
    exact += tfd.Normal(draws["x"][:, 0] * draws["x"][:, 2], 1.0).log_prob(draws["y"])
    np.testing.assert_allclose(joint.log_prob(draws), exact, rtol=1e-5)
    target = flows.targets.from_tfp(joint, y=1.0)
    u = jax.random.normal(KEY, (5, 3))
    p = target.constrain(u)
    log_p = flow.log_prob(p["x"]) + tfd.Normal(p["x"][:, 0] * p["x"][:, 2], 1.0).log_prob(1.0)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(target))(u) + target.unconstrain(p)[1], log_p, atol=1e-3
    )


def test_a_tfp_flow_is_a_pytree_and_may_be_a_batch():
    flow = columns_flow()
    x = flow.sample(seed=KEY, sample_shape=(4,))
    density = jax.jit(lambda made, x: made.log_prob(x))
    np.testing.assert_allclose(density(tfp.as_distribution(flow), x), flow.log_prob(x), rtol=1e-5)
    conditional = flows.maf(2, context_size=1, hidden_sizes=(8,), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="flow waits for a context"):
        tfp.as_distribution(conditional)
    made = tfp.as_distribution(conditional.condition(jnp.ones((4, 1))))
    assert made.batch_shape == (4,)
    with pytest.raises(NotImplementedError, match="Index the contexts"):
        made[0]
    assert made.sample(3, seed=KEY).shape == (3, 4, 2)
    assert tfd.Independent(made, 1).log_prob(jnp.zeros((4, 2))).shape == ()
    counts = flows.maf(2, support=supports.integers(0), hidden_sizes=(8,), rngs=nnx.Rngs(0))
    joint = tfd.JointDistributionNamedAutoBatched(
        {"k": tfp.as_distribution(counts), "y": lambda k: tfd.Normal(k[..., 0], 1.0)}
    )
    with pytest.raises(ValueError, match="k is FlowDistribution, which has no map"):
        flows.targets.from_tfp(joint, y=1.0)


def test_plain_points_go_to_arviz_by_one_name():
    tree = arviz.to_inference_data(jnp.zeros((2, 5, 3)))
    assert tree["posterior"]["theta"].shape == (2, 5, 3)
    assert "sample_stats" not in tree.children
    tree = arviz.to_inference_data({"net/bias": jnp.zeros((2, 5))})
    assert tree["posterior"]["net.bias"].shape == (2, 5)
    for names in (("a/b", "a.b"), ("chain", "x")):
        with pytest.raises(ValueError, match="draws must have names that differ"):
            arviz.to_inference_data(dict.fromkeys(names, jnp.zeros((2, 5))))

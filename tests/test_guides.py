"""Flows as numpyro guides, by what numpyro asks of its own guides."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from helpers import chains
from numpyro import handlers
from numpyro.contrib.module import nnx_module
from numpyro.infer import (
    SVI,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceMeanField_ELBO,
    init_to_feasible,
    init_to_median,
    init_to_sample,
    init_to_uniform,
    init_to_value,
    log_likelihood,
)
from numpyro.infer.autoguide import AutoDelta, AutoGuideList, AutoMultivariateNormal
from numpyro.infer.reparam import NeuTraReparam, TransformReparam
from numpyro.infer.util import potential_energy
from tensorflow_probability.substrates.jax import distributions as tfd

import flows
from flows import supports
from flows.adapters.numpyro import AutoFlow

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def successes(data=None):
    rate = numpyro.sample("rate", dist.Beta(jnp.ones(2), jnp.ones(2)).to_event(1))
    odds = numpyro.deterministic("odds", rate / (1 - rate))
    assert odds.shape == (2,)
    with numpyro.plate("rows", 10):
        numpyro.sample("data", dist.Bernoulli(rate).to_event(1), obs=data)


TRIALS = jnp.array([[1.0] * 8 + [0.0] * 2, [1.0] * 4 + [0.0] * 6]).T
EXACT = [tfd.Beta(9.0, 3.0), tfd.Beta(5.0, 7.0)]


def guided(model, guide, num_steps, *args, rate=5e-3, **kwargs):
    schedule = optax.cosine_decay_schedule(rate, num_steps)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule))
    svi = SVI(model, guide, optimizer, Trace_ELBO(num_particles=16))
    return svi.run(KEY, num_steps, *args, progress_bar=False, **kwargs)


def started(model, guide, *args):
    """SVI, its first state, and the parameters."""
    svi = SVI(model, guide, numpyro.optim.Adam(0.01), Trace_ELBO())
    state = svi.init(KEY, *args)
    return svi, state, svi.get_params(state)


@pytest.fixture(scope="module")
def guide():
    """A guide and its parameters before training."""
    made = AutoFlow(successes, init_loc_fn=init_to_median)
    return made, started(successes, made, TRIALS)[2]


def test_a_guide_starts_narrow_around_its_first_point(guide):
    made, params = guide
    assert set(params) == {"auto_flow", "auto_loc"}
    rates = made.sample_posterior(KEY, params, sample_shape=(4000,))["rate"]
    assert rates.shape == (4000, 2)
    u = np.log(rates / (1 - rates))
    np.testing.assert_allclose(u.std(axis=0), 0.1, rtol=0.1)
    np.testing.assert_allclose(u.mean(axis=0), made._init_latent, atol=0.01)


def test_a_guide_may_be_started_under_jit():
    made = AutoFlow(successes)
    svi = SVI(successes, made, optax.adam(1e-3), Trace_ELBO())
    state = jax.jit(svi.init)(KEY, TRIALS)
    state, loss = jax.jit(svi.update)(state, TRIALS)
    assert jnp.isfinite(loss)
    draws = made.sample_posterior(KEY, svi.get_params(state), sample_shape=(5,))
    assert draws["rate"].shape == (5, 2)


def test_a_guide_has_the_methods_of_numpyro_s_own(guide):
    made, params = guide
    draws = made.sample_posterior(KEY, params, TRIALS, sample_shape=(3, 4))
    assert {name: draw.shape for name, draw in draws.items()} == {
        "rate": (3, 4, 2), "odds": (3, 4, 2),
    }  # fmt: skip
    ends = made.quantiles(params, [0.1, 0.5, 0.9])["rate"]
    assert ends.shape == (3, 2)
    assert (np.diff(ends, axis=0) > 0).all()
    np.testing.assert_allclose(made.median(params)["rate"], ends[1])
    posterior = made.get_posterior(params)
    z = jax.random.normal(KEY, (5, 2))
    transform = made.get_transform(params)
    u = transform(z)
    np.testing.assert_allclose(transform.inv(u), z, atol=1e-4)
    jacobian = jax.vmap(jax.jacobian(transform))(z)
    exact = dist.Normal().log_prob(z).sum(axis=-1) - np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(posterior.log_prob(u), exact, rtol=1e-4)
    made_from = Predictive(successes, guide=made, params=params, num_samples=7)
    assert made_from(KEY)["data"].shape == (7, 10, 2)
    assert log_likelihood(successes, {"rate": draws["rate"][0]}, TRIALS)["data"].shape == (4, 10)


def test_neutra_samples_the_noise_of_a_guide(guide):
    made, params = guide
    neutra = NeuTraReparam(made, params)
    z = jnp.array([0.3, -0.2])
    site = {"auto_shared_latent": z}
    energy = potential_energy(neutra.reparam(successes), (TRIALS,), {}, site)
    transform = made.get_transform(params)
    u = made._unpack_latent(transform(z))
    exact = potential_energy(successes, (TRIALS,), {}, u) - transform.log_abs_det_jacobian(z, None)
    assert float(energy) == pytest.approx(float(exact), rel=1e-4)
    assert neutra.transform_sample(z)["rate"].shape == (2,)


@pytest.mark.parametrize(
    "kind", ["default", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("maf", "one"))]
)
def test_guides_reach_exact_posteriors(kind):
    model, flow, exact = successes, None, EXACT
    if kind == "maf":
        flow = flows.maf(2, num_layers=2, hidden_sizes=(16,), rngs=nnx.Rngs(0))
    if kind == "one":
        exact = EXACT[:1]

        def model(data):
            rate = numpyro.sample("rate", dist.Beta(1, 1).expand([1]).to_event(1))
            numpyro.sample("data", dist.Binomial(10, rate[0]), obs=8)

    made = AutoFlow(model, flow, init_loc_fn=init_to_median)
    result = guided(model, made, 1000, TRIALS)
    rates = np.asarray(made.sample_posterior(KEY, result.params, sample_shape=(20_000,))["rate"])
    for i, beta in enumerate(exact):
        mean, sd = float(beta.mean()), float(beta.stddev())
        assert abs(rates[:, i].mean() - mean) < 0.1 * sd
        assert rates[:, i].std() == pytest.approx(sd, rel=0.1)


@pytest.mark.slow
@pytest.mark.runs_long
def test_guides_of_a_regression_with_plates_and_reparameterised_sites():
    """Against NUTS: a hierarchy with a site that another scales, and a subsampled plate."""
    x = jax.random.normal(KEY, (200, 2))
    y = x @ jnp.array([1.0, -0.5]) + 0.3 + 0.5 * jax.random.normal(jax.random.key(1), (200,))

    def model(x, y, rows=None):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        shrunk = dist.TransformedDistribution(
            dist.Normal(0, 1), dist.transforms.AffineTransform(0, scale)
        )
        reparam = handlers.reparam(config={"weights": TransformReparam()})
        with reparam, numpyro.plate("features", 2):
            weights = numpyro.sample("weights", shrunk)
        offset = numpyro.sample("offset", dist.Uniform(-1, 1))
        noise = numpyro.sample("noise", dist.LogNormal(0, 1))
        with numpyro.plate("rows", 200, subsample_size=rows) as chosen:
            mean = x[chosen] @ weights + offset
            numpyro.sample("y", dist.Normal(mean, noise), obs=y[chosen])

    exact = chains(model, x, y).get_samples()
    for rows in (None, 50):
        made = AutoFlow(model)
        result = guided(model, made, 4000, x, y, rows=rows)
        draws = made.sample_posterior(KEY, result.params, x, y, rows=rows, sample_shape=(5000,))
        for name in ("weights", "offset", "noise"):
            mean, sd = exact[name].mean(axis=0), exact[name].std(axis=0)
            assert (jnp.abs(draws[name].mean(axis=0) - mean) < 0.15 * sd).all(), name
            np.testing.assert_allclose(draws[name].std(axis=0), sd, rtol=0.2)


def test_a_mixture_base_is_no_base_of_a_guide():
    base = flows.MixtureOfNormals(2, 3)
    flow = flows.maf(2, base=base, hidden_sizes=(8,), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="flow must have a base without parameters"):
        AutoFlow(successes, flow)


def test_wrong_flows_are_named():
    make = lambda size, **kwargs: flows.maf(size, hidden_sizes=(8,), rngs=nnx.Rngs(0), **kwargs)
    with pytest.raises(ValueError, match="flow must be on all of R"):
        AutoFlow(successes, make(2, support=supports.positive))
    with pytest.raises(ValueError, match="context of flow"):
        AutoFlow(successes, make(2, context_size=1))
    with pytest.raises(TypeError, match=r"flow must be a flows.Flow"):
        AutoFlow(successes, dist.Normal())
    guide = AutoFlow(successes, make(3))
    with pytest.raises(ValueError, match="flow has event size 3, and the model 2"):
        handlers.seed(guide, 0)(TRIALS)


# What numpyro's tests ask of its own guides, one of which takes the same tests here.

NUMPYRO_S = pytest.param(AutoMultivariateNormal, marks=pytest.mark.slow)
GUIDES = pytest.mark.parametrize("kind", [AutoFlow, NUMPYRO_S])
UNIFORM = dist.Uniform(0, 1)
ROWS = RNG.normal(1.0, 2.0, size=100).astype(np.float32)


def by_svi(model, guide, *args, rate=0.01, num_draws=8, num_steps=1000, **kwargs):
    """As users of numpyro do it: Adam at a constant rate, and nothing else."""
    svi = SVI(model, guide, numpyro.optim.Adam(rate), Trace_ELBO(num_draws))
    return svi.run(KEY, num_steps, *args, progress_bar=False, **kwargs)


def mean_and_sd(rows):
    mean = numpyro.sample("mean", dist.ImproperUniform(dist.constraints.real, (), ()))
    sd = numpyro.sample("sd", dist.ImproperUniform(dist.constraints.positive, (), ()))
    with numpyro.plate("rows", len(rows)):
        numpyro.sample("y", dist.Normal(mean, sd), obs=rows)


@GUIDES
def test_improper_priors_at_a_constant_rate(kind):
    """The posterior is a Student-t; networks as large as those of `fit_posterior` diverged."""
    guide = kind(mean_and_sd)
    result = by_svi(mean_and_sd, guide, ROWS, num_steps=1500)
    assert np.isfinite(result.losses).all()
    mean = guide.sample_posterior(KEY, result.params, sample_shape=(5000,))["mean"]
    sd = ROWS.std(ddof=1) / 10 * (98 / 96) ** 0.5
    assert abs(mean.mean() - ROWS.mean()) < 0.2 * sd
    assert float(mean.std()) == pytest.approx(sd, rel=0.2)


@GUIDES
@pytest.mark.slow
def test_scaled_and_masked_rows_count_as_often_as_they_are_worth(kind):
    def model(y):
        a = numpyro.sample("a", dist.Normal(0, 1))
        few, many = handlers.mask(mask=jnp.array([True, False])), handlers.scale(scale=3.0)
        with few, many, numpyro.plate("rows", 2):
            numpyro.sample("y", dist.Normal(a, 1), obs=y)

    guide = kind(model)
    result = by_svi(model, guide, jnp.array([1.0, 9.0]), num_steps=2000)
    a = guide.sample_posterior(KEY, result.params, sample_shape=(5000,))["a"]
    assert abs(a.mean() - 0.75) < 0.1 * 0.5  # one row, three times: precision 4
    assert float(a.std()) == pytest.approx(0.5, rel=0.1)


@GUIDES
@pytest.mark.slow
def test_parameters_of_the_model_keep_their_constraints_and_the_loss_is_exact(kind):
    def model():
        low = numpyro.param("low", 1.5, constraint=dist.constraints.greater_than(1.0))
        scale = numpyro.param("scale", 2.0, constraint=dist.constraints.positive)
        numpyro.sample("x", dist.Normal(low, scale).expand([2]).to_event(1))

    guide = kind(model)
    svi, state, params = started(model, guide)
    assert float(params["low"]) == pytest.approx(1.5)
    assert float(params["scale"]) == pytest.approx(2.0)
    x = jnp.array([0.7, -1.2])
    there = handlers.substitute(guide, data={"_auto_latent": x})
    loss = Trace_ELBO().loss(KEY, params, model, there)
    exact = guide.get_posterior(params).log_prob(x) - dist.Normal(1.5, 2.0).log_prob(x).sum()
    assert float(loss) == pytest.approx(float(exact), rel=1e-5)
    for _ in range(3):
        state, value = svi.update(state)
    assert np.isfinite(value)
    low = svi.get_params(state)["low"]
    assert low > 1
    assert abs(low - 1.5) > 0.01  # learnt


@GUIDES
@pytest.mark.slow
def test_a_reparameterised_model_is_the_same_as_one_written_so(kind):
    def scaled(rows):
        alpha = numpyro.sample("alpha", dist.Uniform(0, 1))
        inner = dist.TransformedDistribution(
            dist.Uniform(0, 1), dist.transforms.AffineTransform(0, alpha)
        )
        with handlers.reparam(config={"loc": TransformReparam()}):
            loc = numpyro.sample("loc", inner)
        numpyro.sample("y", dist.Normal(loc, 0.1).expand([100]).to_event(1), obs=rows)

    def by_hand(rows):
        alpha = numpyro.sample("alpha", dist.Uniform(0, 1))
        loc = numpyro.sample("loc_base", dist.Uniform(0, 1)) * alpha
        numpyro.sample("y", dist.Normal(loc, 0.1).expand([100]).to_event(1), obs=rows)

    losses = []
    for model in (scaled, by_hand):
        guide = kind(model)
        svi, state, params = started(model, guide, ROWS)
        losses.append(float(svi.evaluate(state, ROWS)))
        draws = guide.sample_posterior(KEY, params, sample_shape=(4,))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert set(draws) == {"alpha", "loc_base"}


@GUIDES
@pytest.mark.slow
def test_a_guide_starts_where_it_is_told(kind):
    model = lambda: numpyro.sample("x", dist.LogNormal(0, 1))
    guide = kind(model, init_loc_fn=init_to_value(values={"x": 2.0}))
    *_, params = started(model, guide)
    x = guide.sample_posterior(KEY, params, sample_shape=(2000,))["x"]
    assert float(jnp.log(x).mean()) == pytest.approx(np.log(2.0), abs=0.02)


@GUIDES
@pytest.mark.slow
def test_networks_in_the_model_are_learnt_with_the_guide(kind):
    x = RNG.normal(size=(50, 3)).astype(np.float32)
    y = x.sum(axis=1) + 0.1 * RNG.normal(size=50).astype(np.float32)
    layer = nnx.Linear(3, 1, rngs=nnx.Rngs(0))

    def model(x, y=None):
        mean = nnx_module("network", layer)(x)[:, 0]
        noise = numpyro.sample("noise", dist.HalfNormal(1))
        with numpyro.plate("rows", 50):
            numpyro.sample("y", dist.Normal(mean, noise), obs=y)

    guide = kind(model)
    result = by_svi(model, guide, x, y, rate=0.03, num_steps=500)
    assert result.losses[-1] < 0.3 * result.losses[0]
    noise = guide.sample_posterior(KEY, result.params, sample_shape=(1000,))["noise"]
    assert 0.05 < float(noise.mean()) < 0.3
    predicted = Predictive(model, guide=guide, params=result.params, num_samples=7)(KEY, x)
    assert predicted["y"].shape == (7, 50)
    np.testing.assert_allclose(predicted["y"].mean(axis=0), y, atol=0.7)


def test_deterministic_sites_see_the_parameters_of_the_model():
    """Those of numpyro 0.22's own continuous guides see parameters that are transformed twice."""

    def model(y=None):
        mean = numpyro.sample("mean", dist.Normal(0, 5))
        scale = numpyro.param("scale", 3.0, constraint=dist.constraints.positive)
        numpyro.deterministic("ratio", mean / scale)
        with numpyro.plate("rows", 100, subsample_size=40):
            numpyro.sample("y", dist.Normal(mean, scale), obs=y)

    guide = AutoFlow(model)
    result = by_svi(model, guide, jnp.asarray(ROWS[:40]), num_steps=20)
    draws = guide.sample_posterior(KEY, result.params, sample_shape=(6,))
    ratio = draws["mean"] / result.params["scale"]
    np.testing.assert_allclose(draws["ratio"], ratio, rtol=1e-5)
    again = Predictive(guide.model, {"mean": draws["mean"]}, params=result.params)(KEY)
    np.testing.assert_allclose(again["ratio"], ratio, rtol=1e-5)
    assert again["y"].shape == (6, 40)


def test_a_parameter_may_bound_another():
    def model():
        low = numpyro.param("low", 2.0, constraint=dist.constraints.positive)
        high = numpyro.param("high", 3.0, constraint=dist.constraints.greater_than(low))
        numpyro.deterministic("ends", jnp.stack([low, high]))
        numpyro.sample("x", dist.Normal(0, 1))

    guide = AutoFlow(model)
    handlers.seed(guide, 0)()
    params = {"low": jnp.array(1.0), "high": jnp.array(5.0)}
    *_, start = started(model, guide)
    ends = guide.sample_posterior(KEY, start | params)["ends"]
    np.testing.assert_allclose(ends, [1.0, 5.0], rtol=1e-6)


def test_the_model_of_a_guide_predicts_what_is_discrete():
    model = lambda y=None: numpyro.sample("y", dist.Bernoulli(numpyro.sample("p", UNIFORM)), obs=y)
    guide = AutoFlow(model)
    assert guide.model is model
    *_, params = started(model, guide, 1)
    predicted = Predictive(guide.model, guide=guide, params=params, num_samples=3)(KEY)
    assert predicted["y"].shape == (3,)


@GUIDES
@pytest.mark.slow
def test_a_guide_of_some_sites_in_a_list_of_guides(kind):
    def model(y=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        rate = numpyro.sample("rate", dist.Gamma(2, 1))
        c = numpyro.sample("c", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(a + c, rate).to_event(1), obs=y)

    part = lambda **which: handlers.block(handlers.seed(model, 1), **which)
    guide = AutoGuideList(model)
    guide.append(kind(part(hide=["a", "y"]), prefix="flow"))
    guide.append(AutoDelta(part(expose=["a"]), prefix="point"))
    result = by_svi(model, guide, jnp.ones(3), num_steps=50)
    draws = guide.sample_posterior(KEY, result.params, jnp.ones(3), sample_shape=(5,))
    assert {name: draw.shape for name, draw in draws.items()} == {
        "a": (5,), "rate": (5,), "c": (5, 3),
    }  # fmt: skip
    assert all(np.isfinite(value).all() for value in guide.median(result.params).values())
    assert Predictive(model, guide=guide, params=result.params, num_samples=6)(KEY)["y"].shape == (
        6, 3,
    )  # fmt: skip


def gammas():
    numpyro.sample("x", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))


@GUIDES
@pytest.mark.slow
def test_a_guide_serves_other_objectives(kind):
    """Where no term is known exactly all are the same bound, but for Renyi's, which is tighter."""
    guide = kind(gammas)
    *_, params = started(gammas, guide)
    loss = lambda objective: float(objective.loss(KEY, params, gammas, guide))
    elbo = loss(Trace_ELBO(2000))
    assert loss(TraceMeanField_ELBO(2000)) == pytest.approx(elbo, rel=1e-4)
    assert 0 < loss(RenyiELBO(num_particles=2000)) < elbo - 0.5  # the evidence is 1


@GUIDES
@pytest.mark.slow
def test_a_guide_can_be_pickled(kind):
    guide = kind(gammas)
    *_, params = started(gammas, guide)
    copied, their_params = pickle.loads(pickle.dumps((guide, params)))
    draws, theirs = (
        g.sample_posterior(KEY, p, sample_shape=(4,))["x"]
        for g, p in ((guide, params), (copied, their_params))
    )
    np.testing.assert_array_equal(draws, theirs)


def _discrete():
    rate = numpyro.sample("rate", dist.Beta(2.0, 2.0))
    x = numpyro.sample("x", dist.Bernoulli(rate).mask(True))
    numpyro.sample("y", dist.Normal(x, 1), obs=0.3)


def _on_a_sphere():
    numpyro.sample("x", dist.ProjectedNormal(jnp.ones(2)))


def _subsampled():
    with numpyro.plate("rows", 10, subsample_size=4):
        numpyro.sample("x", dist.Normal(0, 1))


def _inconsistent():
    with numpyro.plate("rows", 10, dim=-1):
        numpyro.sample("x", dist.Normal(0, 1))
    with numpyro.plate("rows", 10, dim=-2):
        numpyro.sample("y", dist.Normal(0, 1))


def _observed():
    numpyro.sample("x", dist.Normal(0, 1), obs=1.0)


@pytest.mark.parametrize(
    "init",
    [
        init_to_uniform,
        *(
            pytest.param(other, marks=pytest.mark.slow)
            for other in (init_to_feasible, init_to_median, init_to_sample)
        ),
    ],
)
@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (_discrete, ValueError, r"Site 'x' is discrete \(BernoulliProbs\) and not observed"),
        (_on_a_sphere, ValueError, "cannot handle spherical sample site 'x'"),
        (_subsampled, ValueError, "does not support local latent variables"),
        (_inconsistent, AssertionError, "rows has inconsistent dim or size"),
        (_observed, RuntimeError, "AutoFlow found no latent variables"),
    ],
)
def test_models_that_have_no_such_guide(model, error, words, init):
    with pytest.raises(error, match=words):
        handlers.seed(AutoFlow(model, init_loc_fn=init), 0)()

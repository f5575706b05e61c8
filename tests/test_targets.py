"""Targets with structure: supports and Jacobians, numpyro and TFP models, posteriors by name."""

from collections import OrderedDict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import random_nnx_module
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, init_to_median
from tensorflow_probability.substrates.jax import distributions as tfd

import flows
from flows import supports, targets
from flows.adapters.numpyro import AutoFlow

EXAMPLE = {
    "mu": 0.0,
    "scale": {"of": np.ones(2)},
    "share": (0.5, np.zeros((2, 3))),
    "rank": jnp.zeros(3),
    "factor": jnp.eye(3),
}
SUPPORTS = {
    "scale": supports.positive,
    "share": (supports.interval(-1, 3), supports.simplex),
    "rank": supports.ordered,
    "factor": supports.correlation_cholesky,
}


def free(parameters):
    """The coordinates that densities of these parameters count."""
    below = np.tril_indices(3, -1)
    p = parameters
    parts = [p["mu"], p["scale"]["of"], p["share"][0], p["share"][1][:, :-1], p["rank"]]
    return jnp.concatenate([jnp.ravel(part) for part in [*parts, p["factor"][below]]])


def density(p):
    return sum(jnp.sum(jnp.sin(leaf) + 0.1 * leaf) for leaf in jax.tree.leaves(p))


@pytest.fixture(scope="module")
def target():
    return targets.from_log_density(density, EXAMPLE, SUPPORTS)


@pytest.fixture(scope="module")
def points(target):
    return 1.5 * jax.random.normal(jax.random.key(0), (4, target.event_size))


def test_a_target_has_a_name_for_each_number(target):
    assert target.event_size == 1 + 2 + 1 + 4 + 3 + 3
    assert (
        target.names[-4:]
        == ("scale.of[0]", "scale.of[1]", "share.0", "share.1[0, 0]")[:0] + (target.names[-4:])
    )
    assert {"mu", "scale.of[1]", "share.0", "share.1[1, 2]", "rank[0]", "factor[2, 1]"} <= set(
        target.names
    )
    assert len(target.names) == 1 + 2 + 1 + 6 + 3 + 9


def test_parameters_lie_in_their_supports(target, points):
    p = target.constrain(10 * points)
    assert (p["scale"]["of"] > 0).all()
    assert ((p["share"][0] >= -1) & (p["share"][0] <= 3)).all()
    assert np.allclose(p["share"][1].sum(axis=-1), 1, atol=1e-5)
    assert (p["share"][1] >= 0).all()
    assert (np.diff(p["rank"], axis=-1) >= 0).all()
    correlation = p["factor"] @ p["factor"].mT
    assert np.allclose(np.diagonal(correlation, axis1=1, axis2=2), 1, atol=1e-5)


def test_log_jacobians_are_those_of_the_free_coordinates(target, points):
    jacobian = jax.jit(jax.vmap(jax.jacobian(lambda u: free(target.constrain(u)))))(points)
    exact = np.linalg.slogdet(np.asarray(jacobian, np.float64))[1]
    parameters = target.constrain(points)
    added = jax.jit(jax.vmap(target))(points) - jax.vmap(density)(parameters)
    np.testing.assert_allclose(added, exact, atol=2e-4)
    u, log_det = target.unconstrain(parameters)
    np.testing.assert_allclose(u, points, atol=2e-4)
    np.testing.assert_allclose(log_det, -exact, atol=2e-4)


def test_points_and_parameters_of_any_batch_shape(target, points):
    p = target.constrain(points.reshape(2, 2, -1))
    assert p["factor"].shape == (2, 2, 3, 3)
    u, log_det = target.unconstrain(p)
    assert u.shape == (2, 2, target.event_size)
    assert log_det.shape == (2, 2)
    single = jax.tree.map(lambda leaf: leaf[0, 1], p)
    np.testing.assert_allclose(target.unconstrain(single)[0], points[1], atol=2e-4)
    for way in (jax.jit, jax.vmap):
        np.testing.assert_array_equal(
            way(target.constrain)(points)["rank"], p["rank"].reshape(4, 3)
        )


OUTSIDE = {
    "scale": lambda p: {"scale": {"of": p["scale"]["of"].at[1].set(-1.0)}},
    "simplex": lambda p: {"share": (p["share"][0], p["share"][1].at[0].multiply(1.2))},
    "negative": lambda p: {
        "share": (p["share"][0], p["share"][1].at[0].set(jnp.array([-0.5, 0.5, 1.0])))
    },
    "ordered": lambda p: {"rank": p["rank"][::-1]},
    "factor": lambda p: {"factor": 2 * p["factor"]},
    "not triangular": lambda p: {"factor": p["factor"].T},
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_outside_of_a_support_there_is_no_density(target, points, case):
    p = target.constrain(points[0])
    assert jnp.isfinite(target.unconstrain(p)[1])
    assert target.unconstrain(p | OUTSIDE[case](p))[1] == -jnp.inf


def test_one_support_holds_for_all_of_a_part():
    made = targets.from_log_density(density, EXAMPLE["scale"], supports.positive)
    assert (made.constrain(-jnp.ones(2))["of"] > 0).all()


@pytest.mark.parametrize(
    ("example", "where", "error", "match"),
    [
        ({"a": 1.0}, {"b": supports.positive}, ValueError, "supports has 'b', and example has"),
        ({"a": 1.0}, {"a": "positive"}, TypeError, "support of a must be one of flows.supports"),
        ({"a": 1.0}, {"a": supports.integers(0)}, ValueError, "support of a is integers"),
        ({"a": 1.0}, {"a": supports.circle()}, ValueError, "support of a is circle"),
        ({"a": 1.0}, {"a": supports.simplex}, ValueError, r"a must be a vector \[..., K\]"),
        ({"a": np.ones((2, 3))}, {"a": supports.correlation_cholesky}, ValueError, "square matrix"),
        ({}, None, ValueError, "no parameters"),
        ({"a": "hello"}, None, TypeError, "a must be a number or an array"),
        ([{"a": 1.0}], [{"b": supports.positive}], ValueError, r"supports\[0\] has 'b'"),
        ((1.0, 2.0), (supports.positive,), ValueError, "supports must be as long as that of"),
        ({"a": np.ones((0, 3))}, {"a": supports.simplex}, ValueError, "a must be a vector"),
    ],
)
def test_wrong_supports_are_named(example, where, error, match):
    with pytest.raises(error, match=match):
        targets.from_log_density(density, example, where)


def test_a_log_density_that_is_no_scalar_is_refused():
    with pytest.raises(ValueError, match=r"must return a scalar, got shape \(2,\)"):
        targets.from_log_density(lambda p: p["a"], {"a": np.ones(2)})
    with pytest.raises(TypeError, match="log_density must be a function"):
        targets.from_log_density(1.0, {"a": 1.0})


def test_a_support_of_vectors_is_none_of_a_column():
    with pytest.raises(TypeError, match="support must be the support of one column, got simplex"):
        flows.nsf(2, support=supports.simplex, rngs=nnx.Rngs(0))


def test_wrong_parameters_are_named(target, points):
    for short in ({"mu": 0.0}, 3.0):
        with pytest.raises(ValueError, match=r"parameters must hold .*mu, rank, scale"):
            target.unconstrain(short)
    p = target.constrain(points)
    with pytest.raises(ValueError, match=r"rank must have shape \[..., 3\] .* got \(4, 2\)"):
        target.unconstrain(p | {"rank": jnp.zeros((4, 2))})
    with pytest.raises(ValueError, match=r"rank must have shape .* got \(3,\)"):
        target.unconstrain(p | {"rank": jnp.zeros(3)})
    pair = targets.from_log_density(lambda p: -(p[0] ** 2) - p[1] ** 2, (0.0, 0.0))
    with pytest.raises(ValueError, match="parameters must have 2 parts, got 3"):
        pair.unconstrain((1.0, 2.0, 3.0))


# One hierarchical model: positive scales, a simplex and a correlation matrix, written three times.

GROUPS, ROWS = 12, 8
TIMES = np.linspace(-1, 1, ROWS).astype(np.float32)
_rng = np.random.default_rng(0)
_effects = _rng.multivariate_normal([1.0, -0.5], [[0.49, 0.28], [0.28, 0.64]], size=GROUPS)
_noise = 0.3 * _rng.normal(size=(GROUPS, ROWS))
Y = (_effects[:, :1] + _effects[:, 1:] * TIMES + _noise).astype(np.float32)
COUNTS = np.array([11.0, 25.0, 4.0], np.float32)


def predicted(mean, scales, factor, z):
    effects = mean + z @ (scales[:, None] * factor).T
    return effects[:, :1] + effects[:, 1:] * TIMES


def in_numpyro(y=None, counts=None):
    shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(3)))
    numpyro.sample("counts", dist.Multinomial(40, shares), obs=counts)
    mean = numpyro.sample("mean", dist.Normal(0, 2).expand([2]).to_event(1))
    scales = numpyro.sample("scales", dist.HalfNormal(1).expand([2]).to_event(1))
    factor = numpyro.sample("factor", dist.LKJCholesky(2, 2.0))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    with numpyro.plate("groups", GROUPS):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
    slopes = numpyro.deterministic("slopes", mean[1] + z @ (scales[:, None] * factor)[1])
    assert slopes.shape == (GROUPS,)
    numpyro.sample("y", dist.Normal(predicted(mean, scales, factor, z), noise).to_event(2), obs=y)


@tfd.JointDistributionCoroutineAutoBatched
def in_tfp():
    shares = yield tfd.Dirichlet(jnp.ones(3), name="shares")
    yield tfd.Multinomial(40.0, probs=shares, name="counts")
    mean = yield tfd.Sample(tfd.Normal(0.0, 2.0), 2, name="mean")
    scales = yield tfd.Sample(tfd.HalfNormal(1.0), 2, name="scales")
    factor = yield tfd.CholeskyLKJ(2, 2.0, name="factor")
    noise = yield tfd.HalfNormal(1.0, name="noise")
    z = yield tfd.Sample(tfd.Normal(0.0, 1.0), (GROUPS, 2), name="z")
    yield tfd.Normal(predicted(mean, scales, factor, z), noise, name="y")


def by_hand(p):
    prior = (
        -0.125 * jnp.sum(p["mean"] ** 2)
        - 0.5 * (jnp.sum(p["scales"] ** 2) + p["noise"] ** 2 + jnp.sum(p["z"] ** 2))
        + 2 * jnp.log(p["factor"][1, 1])  # LKJ: eta = 2, of a 2 x 2 matrix
    )
    residual = (Y - predicted(p["mean"], p["scales"], p["factor"], p["z"])) / p["noise"]
    likelihood = -0.5 * jnp.sum(residual**2) - Y.size * jnp.log(p["noise"])
    return prior + likelihood + jnp.sum(COUNTS * jnp.log(p["shares"]))


HIERARCHIES = {
    "numpyro": lambda: targets.from_numpyro(in_numpyro, Y, counts=COUNTS),
    "tfp": lambda: targets.from_tfp(in_tfp, y=Y, counts=COUNTS),
    "by hand": lambda: targets.from_log_density(
        by_hand,
        {
            "shares": np.ones(3) / 3, "mean": np.zeros(2), "scales": np.ones(2),
            "factor": np.eye(2), "noise": 1.0, "z": np.zeros((GROUPS, 2)),
        },
        {
            "shares": supports.simplex, "scales": supports.positive, "noise": supports.positive,
            "factor": supports.correlation_cholesky,
        },
    ),
}  # fmt: skip


def as_dict(parameters):
    return parameters if isinstance(parameters, dict) else parameters._asdict()


def test_a_model_has_one_density_however_it_is_written():
    """Up to a constant, in the space of its parameters."""
    made = {name: make() for name, make in HIERARCHIES.items()}
    assert {of.event_size for of in made.values()} == {2 + 2 + 2 + 1 + 1 + 2 * GROUPS}
    u = 0.5 * jax.random.normal(jax.random.key(0), (5, made["numpyro"].event_size))
    parameters = made["by hand"].constrain(u)
    log_p = {}
    for name, of in made.items():
        like = of.parameters
        given = parameters if isinstance(like, dict) else type(like)(**parameters)
        points, log_det = of.unconstrain(given)
        log_density = jax.jit(jax.vmap(of))(points) + log_det
        log_p[name] = log_density - log_density.mean()
    np.testing.assert_allclose(log_p["tfp"], log_p["numpyro"], atol=2e-3)
    np.testing.assert_allclose(log_p["by hand"], log_p["numpyro"], atol=2e-3)


@pytest.mark.slow
@pytest.mark.runs_long
@pytest.mark.parametrize("written", HIERARCHIES)
def test_posteriors_of_hierarchies_agree_with_long_chains(written):
    chains = MCMC(
        NUTS(in_numpyro), num_warmup=1000, num_samples=5000, num_chains=2,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    chains.run(jax.random.key(1), Y, COUNTS)
    posterior = flows.fit_posterior(HIERARCHIES[written](), key=jax.random.key(0), progress=False)
    assert posterior.diagnostics.trustworthy
    draws = as_dict(posterior.sample(seed=jax.random.key(2), sample_shape=(20_000,)))
    for name, exact in chains.get_samples().items():
        if name == "slopes" and written != "numpyro":
            continue
        exact = np.asarray(exact).reshape(10_000, -1)
        mine = np.asarray(draws[name]).reshape(20_000, -1)
        sd = exact.std(axis=0)
        varies = sd > 1e-5  # not the fixed entries of factors
        shift = np.abs(mine.mean(axis=0) - exact.mean(axis=0))[varies] / sd[varies]
        assert shift.max() < 0.1, name
        assert np.abs(mine.std(axis=0)[varies] / sd[varies] - 1).max() < 0.15, name


@pytest.mark.slow
@pytest.mark.runs_long
def test_a_guide_of_the_hierarchy_agrees_with_long_chains():
    exact = MCMC(
        NUTS(in_numpyro), num_warmup=1000, num_samples=5000, num_chains=2,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    exact.run(jax.random.key(1), Y, COUNTS)
    guide = AutoFlow(in_numpyro, init_loc_fn=init_to_median)
    rate = optax.cosine_decay_schedule(5e-3, 10_000)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate))
    svi = SVI(in_numpyro, guide, optimizer, Trace_ELBO(num_particles=32))
    run = svi.run(jax.random.key(0), 10_000, Y, COUNTS, stable_update=True, progress_bar=False)
    params = run.params
    draws = guide.sample_posterior(jax.random.key(2), params, sample_shape=(20_000,))
    for name in ("shares", "mean", "scales", "noise"):
        of_chains = exact.get_samples()[name]
        sd = of_chains.std(axis=0)
        shift = jnp.abs(draws[name].mean(axis=0) - of_chains.mean(axis=0)) / sd
        assert (shift < 0.1).all(), (name, shift)
        np.testing.assert_allclose(draws[name].std(axis=0), sd, rtol=0.15, err_msg=name)


# A model whose posterior is exactly normal on the real line: no training.

OBSERVED = np.array([1.2, 0.7, 2.0], np.float32)


def conjugate(sd, y=None, size=3):
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
    numpyro.deterministic("twice", 2 * rate)
    with numpyro.plate("rows", size):
        numpyro.sample("y", dist.LogNormal(jnp.log(rate), sd), obs=y)


SD = 0.5
PRECISION = 1 + 3 / SD**2
LOC = np.log(OBSERVED).sum() / SD**2 / PRECISION  # of log rate, given y
EXACT = tfd.LogNormal(LOC, PRECISION**-0.5)


@pytest.fixture(scope="module")
def posterior():
    target = targets.from_numpyro(conjugate, SD, y=OBSERVED)
    return flows.fit_posterior(target, key=jax.random.key(0), progress=False)


def test_draws_come_by_name_in_the_space_of_the_model(posterior):
    draws = posterior.sample(seed=jax.random.key(1), sample_shape=(20_000,))
    assert set(draws) == {"rate", "twice"}
    np.testing.assert_allclose(draws["twice"], 2 * draws["rate"], rtol=1e-6)
    error = 4 * EXACT.stddev() / np.sqrt(20_000)
    assert abs(draws["rate"].mean() - EXACT.mean()) < error


def test_densities_are_of_the_space_of_the_model(posterior):
    rate = jnp.array([0.5, 1.0, 2.5])
    log_q = posterior.log_prob({"rate": rate})
    np.testing.assert_allclose(log_q, EXACT.log_prob(rate), atol=2e-3)
    assert posterior.log_prob({"rate": -1.0}) == -jnp.inf
    assert jnp.isnan(posterior.log_prob({"rate": jnp.nan}))
    draws = posterior.sample(seed=jax.random.key(1), sample_shape=(2, 3))
    assert posterior.log_prob(draws).shape == (2, 3)


def test_the_evidence_is_that_of_the_model(posterior):
    y = np.log(OBSERVED)
    covariance = (SD**2 * np.eye(3) + 1).astype(np.float32)
    exact = tfd.MultivariateNormalFullCovariance(np.zeros(3, np.float32), covariance)
    exact = float(exact.log_prob(y.astype(np.float32))) - y.sum()
    assert float(posterior.diagnostics.log_evidence.value) == pytest.approx(exact, abs=2e-3)


def test_all_draws_have_the_structure_of_the_model(posterior):
    mean = posterior.expectation(lambda p: p["rate"], seed=jax.random.key(2))
    assert abs(mean.value - EXACT.mean()) < 4 * mean.standard_error + 1e-3
    assert posterior.resample(seed=jax.random.key(2), sample_shape=5)["rate"].shape == (5,)
    chains = posterior.refine(seed=jax.random.key(3), num_samples=50)
    assert chains.draws["rate"].shape == (4, 50)
    assert chains.shape == (4, 50)
    assert "4 chains of 50" in str(chains)


def test_a_summary_has_a_row_for_each_number(posterior):
    summary = posterior.summary(seed=jax.random.key(2))
    assert summary.names == ("rate", "twice")
    mean, sd = float(EXACT.mean()), float(EXACT.stddev())
    low, high = (float(EXACT.quantile(p)) for p in (0.055, 0.945))
    row = summary.to_dict()["rate"]
    assert row["mean"] == pytest.approx(mean, abs=4 * sd / 100)
    assert row["sd"] == pytest.approx(sd, rel=0.05)
    assert row["low"] == pytest.approx(low, abs=0.08 * sd)
    assert row["high"] == pytest.approx(high, abs=0.08 * sd)
    lines = str(summary).splitlines()
    assert lines[0].split() == ["mean", "sd", "eti89_lb", "eti89_ub"]
    assert lines[2].split()[0] == "twice"
    assert lines[-1] == "verdict: good"


def test_posteriors_and_chains_go_to_arviz(posterior):
    tree = posterior.to_arviz(seed=jax.random.key(5), num_samples=500)
    assert dict(tree["posterior"].sizes) == {"chain": 4, "draw": 500}
    rate = tree["posterior"]["rate"].to_numpy()
    np.testing.assert_allclose(np.log(rate).mean(), LOC, atol=4 / np.sqrt(2000 * PRECISION))
    lp, log_q = (tree["sample_stats"][name].to_numpy() for name in ("lp", "log_q"))
    exact = EXACT.log_prob(rate) + np.log(rate)  # of log rate
    np.testing.assert_allclose(log_q, exact, atol=2e-3)
    np.testing.assert_allclose(lp - lp.mean(), exact - exact.mean(), atol=2e-3)
    assert tree.attrs["verdict"] == posterior.diagnostics.verdict
    assert tree.attrs["inference_library"] == "flows"
    chains = posterior.refine(seed=jax.random.key(5), num_samples=20).to_arviz()
    assert chains["posterior"]["rate"].shape == (4, 20)


def test_predictions_are_of_the_model(posterior):
    made = posterior.predictive(SD, seed=jax.random.key(4), num_samples=4000)
    log_y = np.log(made["y"])
    assert log_y.shape == (4000, 3)
    assert set(made) == {"y", "twice"}
    sd = np.sqrt(SD**2 + 1 / PRECISION)
    assert abs(log_y[:, 0].mean() - LOC) < 4 * sd / np.sqrt(4000)
    assert log_y[:, 0].std() == pytest.approx(sd, rel=0.06)
    rows = posterior.predictive(SD, size=7, seed=jax.random.key(4), num_samples=5)
    assert rows["y"].shape == (5, 7)
    with pytest.raises(ValueError, match="Nothing is left to predict"):
        posterior.predictive(SD, y=OBSERVED, seed=jax.random.key(4))


@pytest.mark.slow
def test_a_log_density_predicts_nothing():
    posterior = flows.fit_posterior(
        lambda u: -0.5 * u @ u, event_size=1, key=jax.random.key(0), progress=False
    )
    assert posterior.target.names == ("theta[0]",)
    assert posterior.summary(seed=jax.random.key(0), num_samples=100).names == ("theta[0]",)
    with pytest.raises(ValueError, match="predictive needs a model that makes data"):
        posterior.predictive(seed=jax.random.key(0))


def test_the_same_model_on_other_data_does_not_compile_again():
    make = lambda y: targets.from_numpyro(conjugate, SD, y=y)
    first, second = make(OBSERVED), make(OBSERVED + 1)
    assert jax.tree.structure(first.log_density) == jax.tree.structure(second.log_density)
    u = jnp.zeros(1)
    assert first(u) != second(u)


# Models that are awkward, and those that are refused.


def test_supports_may_depend_on_other_sites():
    def model():
        top = numpyro.sample("top", dist.LogNormal(0, 1))
        numpyro.sample("below", dist.Uniform(0, top))

    target = targets.from_numpyro(model)
    u = jax.random.normal(jax.random.key(0), (50, 2))
    p = target.constrain(u)
    assert (p["below"] < p["top"]).all()
    again, log_det = target.unconstrain(p)
    np.testing.assert_allclose(again, u, atol=1e-4)
    exact = dist.LogNormal(0, 1).log_prob(p["top"]) - jnp.log(p["top"])
    np.testing.assert_allclose(jax.jit(jax.vmap(target))(u) + log_det, exact, atol=1e-3)


def test_time_series_by_scan():
    def model(y):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))

        def step(level, observed):
            level = numpyro.sample("level", dist.Normal(level, scale))
            numpyro.sample("y", dist.Normal(level, 0.1), obs=observed)
            return level, None

        scan(step, 0.0, y)

    target = targets.from_numpyro(model, jnp.arange(5.0))
    assert target.event_size == 6
    p = target.constrain(jnp.ones(6))
    steps = np.diff(np.append(0, p["level"]))
    exact = (
        dist.HalfNormal(1.0).log_prob(p["scale"])
        + dist.Normal(0, p["scale"]).log_prob(steps).sum()
        + dist.Normal(p["level"], 0.1).log_prob(jnp.arange(5.0)).sum()
    )
    log_det = target.unconstrain(p)[1]
    assert float(target(jnp.ones(6)) + log_det) == pytest.approx(float(exact), rel=1e-5)


def _subsampled(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", 10, subsample_size=2) as rows:
        numpyro.sample("y", dist.Normal(mu, 1), obs=y[rows])


def _missing():
    mask = np.array([True, True, False])
    with numpyro.plate("rows", 3):
        numpyro.sample("y", dist.Normal(0, 1), obs=jnp.ones(3), obs_mask=mask)


def _scaled():
    with handlers.scale(scale=0.5):
        numpyro.sample("s", dist.LogNormal(0, 1))


class Odd(dist.Normal):
    support = dist.constraints.dependent(is_discrete=False, event_dim=0)


REFUSED = {
    "discrete": (
        lambda: numpyro.sample("k", dist.Poisson(2.0)),
        "Site 'k' is discrete .Poisson. and",
    ),
    "improper": (
        lambda: numpyro.sample("k", dist.ImproperUniform(dist.constraints.real, (), ())),
        "Site 'k' is ImproperUniform, and evidence needs a proper prior",
    ),
    "param": (lambda: numpyro.param("w", jnp.ones(2)), "Site 'w' is a numpyro.param"),
    "no latent": (lambda: numpyro.sample("y", dist.Normal(), obs=1.0), "no latent sites"),
    "subsample": (lambda: _subsampled(jnp.zeros(10)), "Plate 'rows' takes 2 of 10 rows"),
    "missing": (_missing, "Site 'y_unobserved' is masked or scaled"),
    "scaled": (_scaled, "Site 's' is masked or scaled"),
    "support": (lambda: numpyro.sample("k", Odd()), "Site 'k' has support"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_without_a_posterior_on_real_numbers_are_refused(case):
    model, match = REFUSED[case]
    sites = lambda: (numpyro.sample("a", dist.Normal()), model())
    with pytest.raises(ValueError, match=match):
        targets.from_numpyro(model if case in ("no latent", "param") else sites)


def test_models_may_ask_for_keys_and_scale_what_is_observed():
    def model(y):
        order = jax.random.permutation(numpyro.prng_key(), 3)
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with handlers.scale(scale=2.0), handlers.mask(mask=jnp.array([True, False, True])):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y[order][jnp.argsort(order)])

    target = targets.from_numpyro(model, jnp.array([1.0, 50.0, 2.0]))
    normal = dist.Normal(0.5, 1)
    exact = dist.Normal(0, 1).log_prob(0.5) + 2 * (normal.log_prob(1.0) + normal.log_prob(2.0))
    assert float(target(jnp.array([0.5]))) == pytest.approx(float(exact), rel=1e-5)


def test_weights_of_random_modules_are_parameters():
    network = nnx.Linear(2, 1, rngs=nnx.Rngs(0))

    def model(x, y):
        net = random_nnx_module("net", network, prior=dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(net(x)[:, 0], 1).to_event(1), obs=y)

    target = targets.from_numpyro(model, jnp.ones((4, 2)), jnp.ones(4))
    assert target.names == ("net/bias[0]", "net/kernel[0, 0]", "net/kernel[1, 0]")
    residual = dist.Normal(0.6, 1).log_prob(1.0) * 4
    prior = dist.Normal(0, 1).log_prob(jnp.array([0.1, 0.2, 0.3])).sum()
    assert float(target(jnp.array([0.1, 0.2, 0.3]))) == pytest.approx(
        float(residual + prior), rel=1e-5
    )


@pytest.mark.parametrize("value", [0.0, -1e-4, 900.0])
@pytest.mark.parametrize("kind", ["by hand", "numpyro", "tfp"])
def test_values_near_zero_are_inside_of_wide_supports(kind, value):
    """Rounding is that of the ends of the support, not of the value."""
    where = supports.interval(-1000, 1000)
    made = {
        "by hand": lambda: targets.from_log_density(lambda p: 0.0 * p["x"], {"x": 0.0}, where),
        "numpyro": lambda: targets.from_numpyro(
            lambda: numpyro.sample("x", dist.Uniform(-1000.0, 1000.0))
        ),
        "tfp": lambda: targets.from_tfp(
            tfd.JointDistributionNamedAutoBatched(
                {"x": tfd.Uniform(-1000.0, 1000.0), "y": lambda x: tfd.Normal(x, 1.0)}
            ),
            y=0.0,
        ),
    }[kind]()
    assert jnp.isfinite(made.unconstrain({"x": jnp.float32(value)})[1])
    assert made.unconstrain({"x": jnp.float32(1000.5)})[1] == -jnp.inf


def test_simplexes_are_finite_far_out():
    """Of a Dirichlet with its mass in the corners, where a stick of float32 would be used up."""
    made = targets.from_log_density(
        lambda p: tfd.Dirichlet(jnp.full(3, 0.2)).log_prob(p), np.ones(3) / 3, supports.simplex
    )
    u = 60 * jax.random.normal(jax.random.key(0), (500, 2))
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(made)))(u)
    assert jnp.isfinite(value).all()
    assert jnp.isfinite(slope).all()
    near = 3 * jax.random.normal(jax.random.key(1), (500, 2))
    x = made.constrain(near)
    np.testing.assert_allclose(x.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(made.unconstrain(x)[0], near, atol=1e-3, rtol=1e-3)


class Pair(NamedTuple):
    first: object
    second: object


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a, b: OrderedDict(b=b, a=a), lambda a, b: (a, b), lambda a, b: [a, {"b": b}],
        lambda a, b: Pair(a, b), lambda a, b: {1: a, 2: (b,)},
    ],
    ids=["ordered", "tuple", "list", "named", "numbers"],
)  # fmt: skip
def test_parameters_may_be_any_pytree(wrap):
    where = (
        wrap(supports.positive, None) if wrap(0, 0) != [0, {"b": 0}] else [supports.positive, {}]
    )
    made = targets.from_log_density(density, wrap(1.0, np.zeros(2)), where)
    u = jnp.array([[0.5, -1.0, 2.0], [1.0, 0.0, 0.3]])
    p = made.constrain(u)
    assert jax.tree.structure(p) == jax.tree.structure(wrap(1.0, np.zeros(2)))
    np.testing.assert_allclose(made.unconstrain(p)[0], u, atol=1e-5)
    assert sum((leaf > 0).all() for leaf in jax.tree.leaves(p)) == 1


def test_names_that_are_not_told_apart_are_refused():
    with pytest.raises(ValueError, match=r"Two parameters have one name, 'a.b'"):
        targets.from_log_density(density, {"a.b": 1.0, "a": {"b": 2.0}})


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="model must be a numpyro model, got 3"):
        targets.from_numpyro(3)
    with pytest.raises(TypeError, match="joint must be a TFP joint distribution, got Normal"):
        targets.from_tfp(tfd.Normal(0.0, 1.0), y=1.0)
    with pytest.raises(TypeError, match="target must be a callable log density or of"):
        flows.fit_posterior(in_tfp, event_size=2, key=jax.random.key(0))


@pytest.mark.parametrize("sequence", [list, pytest.param(tuple, marks=pytest.mark.slow)])
def test_a_joint_in_sequence_is_the_same_by_the_names_that_it_resolves(sequence):
    parts = {
        "s": tfd.HalfNormal(1.0),
        "w": tfd.Dirichlet(jnp.ones(3)),
        "y": lambda w, s: tfd.Normal(w[0], s),
        "z": lambda y, s: tfd.Normal(y, 1.0),
    }
    by_name = targets.from_tfp(tfd.JointDistributionNamedAutoBatched(parts), y=0.3, z=0.1)
    listed = [parts["s"], parts["w"], parts["y"], lambda y: tfd.Normal(y, 1.0, name="z")]
    joint = tfd.JointDistributionSequentialAutoBatched(sequence(listed))
    made = targets.from_tfp(joint, y=0.3, z=0.1)
    assert made.names == by_name.names == ("s", "w[0]", "w[1]", "w[2]")
    u = jax.random.normal(jax.random.key(0), (5, 3))
    np.testing.assert_allclose(jax.vmap(made)(u), jax.vmap(by_name)(u), rtol=1e-5)
    parameters = made.constrain(u)
    jax.tree.map(np.testing.assert_array_equal, parameters, by_name.constrain(u))
    np.testing.assert_allclose(made.unconstrain(parameters)[0], u, atol=1e-5)
    made = made.predict(jax.random.key(0), parameters)
    assert {name: part.shape for name, part in made.items()} == {"y": (5,), "z": (5,)}


def test_joints_without_a_posterior_on_real_numbers_are_refused():
    joint = tfd.JointDistributionNamed(
        {
            "k": tfd.Poisson(3.0),
            "m": tfd.Normal(jnp.zeros(3), 1.0),
            "y": lambda k, m: tfd.Normal(m, k),
        }
    )
    with pytest.raises(ValueError, match="k is Poisson"):
        targets.from_tfp(joint, y=1.0)
    with pytest.raises(ValueError, match="must be a scalar, got shape"):
        targets.from_tfp(joint, k=1.0, y=jnp.zeros(3))
    with pytest.raises(ValueError, match="Nothing is pinned"):
        targets.from_tfp(joint)
    with pytest.raises(ValueError, match="z"):
        targets.from_tfp(joint, z=1.0)
    in_sequence = tfd.JointDistributionSequential([tfd.Poisson(3.0), lambda k: tfd.Normal(k, 1.0)])
    with pytest.raises(ValueError, match="k is Poisson"):
        targets.from_tfp(in_sequence, x=1.0)
    with pytest.raises(ValueError, match="no parameters"):
        targets.from_tfp(joint, k=1.0, m=jnp.zeros(3), y=jnp.zeros(3))


def test_sizes_that_do_not_agree_are_refused(target):
    with pytest.raises(ValueError, match="event_size is 3, and that of target 14"):
        flows.fit_posterior(target, event_size=3, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"u must have shape \[..., 14\], got \(3,\)"):
        target.constrain(jnp.zeros(3))


def test_a_flow_with_a_support_is_refused_where_the_target_has_its_own(target):
    flow = flows.maf(14, support=supports.positive, hidden_sizes=(16,), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="flow has a support, and target has its own"):
        flows.fit_posterior(target, flow=flow, key=jax.random.key(0))


def test_predictions_of_a_joint_are_its_pinned_parts():
    target = HIERARCHIES["tfp"]()
    parameters = target.constrain(jnp.zeros((6, target.event_size)))
    made = target.predict(jax.random.key(0), parameters)
    assert {name: part.shape for name, part in made.items()} == {
        "y": (6, GROUPS, ROWS), "counts": (6, 3),
    }  # fmt: skip
    np.testing.assert_array_equal(made["counts"].sum(axis=-1), 40)

"""What a fitted posterior gives: expectations, draws of the target, chains; and how it starts."""

import copy
import dataclasses
import pickle
import re
import sys
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flows
from flows.targets.target import as_target
from flows.variational import LostMode, LostRegion
from flows.variational.lost import _named

KEY = jax.random.key(0)
NORMAL = flows.Flow(flows.StandardNormal(2), flows.bijectors.Reverse(2))


def posterior_of(target, flow=NORMAL, **options):
    """The flow as it is, as a posterior of the target."""
    options = {
        "start": None, "num_steps": 1, "optimizer": optax.sgd(0.0), "progress": False,
    } | options  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return flows.fit_posterior(target, flow=flow, key=KEY, **options)


def shifted(theta):
    """N((0.5, 0), diag(0.8, 1)^2), unnormalised."""
    return -0.5 * (((theta[0] - 0.5) / 0.8) ** 2 + theta[1] ** 2)


def cut(theta):
    """A standard normal without what lies beyond theta_0 = 1."""
    return jnp.where(theta[0] > 1, -jnp.inf, -0.5 * jnp.sum(theta**2))


@pytest.fixture(scope="module")
def off_target():
    return posterior_of(shifted)


def test_expectations_are_those_of_the_target(off_target):
    estimate = off_target.expectation(
        lambda theta: {"mean": theta, "square": theta[0] ** 2}, seed=KEY, num_samples=20_000
    )
    for value, truth in ((estimate["mean"], [0.5, 0.0]), (estimate["square"], 0.25 + 0.64)):
        assert value.num_samples == 20_000
        assert np.all(value.standard_error < 0.03)
        assert np.all(np.abs(value.value - np.array(truth)) < 4 * value.standard_error)
    assert abs(np.mean(off_target.sample(seed=KEY, sample_shape=20_000), axis=0)[0]) < 0.05


def test_a_posterior_prints_how_it_went(off_target):
    first, *others = str(off_target).split("\n")
    assert re.fullmatch(r"Posterior: \d+ steps, \w+; at the end elbo \S+, cross_entropy \S+", first)
    assert "\n".join(others) == str(off_target.diagnostics)


def test_the_error_of_an_expectation_covers_it(off_target):
    errors = []
    for seed in range(100):
        mean = off_target.expectation(
            lambda theta: theta, seed=jax.random.key(seed), num_samples=2000
        )
        errors.append((mean.value - np.array([0.5, 0.0])) / mean.standard_error)
    covered = np.mean(np.abs(errors) < 1.96)
    assert abs(covered - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 200)


def test_resampled_draws_are_the_target_s(off_target):
    draws = np.asarray(off_target.resample(seed=KEY, sample_shape=(4, 2500)))
    assert draws.shape == (4, 2500, 2)
    np.testing.assert_allclose(draws.mean(axis=(0, 1)), [0.5, 0.0], atol=0.05)
    np.testing.assert_allclose(draws.std(axis=(0, 1)), [0.8, 1.0], atol=0.04)
    np.testing.assert_allclose(draws.mean(axis=1)[:, 0], 0.5, atol=0.1)  # in no order
    assert off_target.resample(seed=KEY).shape == (2,)
    assert off_target.resample(seed=KEY, sample_shape=3).shape == (3, 2)


@pytest.mark.parametrize("method", ["imh", "nuts", "nuts+imh"])
def test_chains_are_the_target_s(off_target, method):
    chains = off_target.refine(method, seed=KEY, num_samples=1000, num_warmup=200)
    assert chains.draws.shape == (4, 1000, 2)
    assert chains.trustworthy, chains
    assert 0.5 < chains.acceptance < 1
    error = np.array([0.8, 1.0]) / np.sqrt(chains.ess)
    assert np.all(np.abs(chains.draws.mean(axis=(0, 1)) - jnp.array([0.5, 0.0])) < 4 * error)
    np.testing.assert_allclose(chains.draws.std(axis=(0, 1)), [0.8, 1.0], rtol=0.1)


@pytest.mark.slow
def test_global_moves_go_between_modes():
    """The no-U-turn sampler alone stays where it starts; draws of a wide q do not."""
    normal = lambda theta, loc: -0.5 * jnp.sum((theta - jnp.array([loc, 0.0])) ** 2)
    target = lambda theta: jnp.logaddexp(
        jnp.log(0.3) + normal(theta, -6.0), jnp.log(0.7) + normal(theta, 6.0)
    )
    wide = flows.bijectors.TriangularAffine(jnp.zeros(2), jnp.diag(jnp.array([6.0, 1.5])))
    posterior = posterior_of(target, flow=flows.Flow(flows.StandardNormal(2), wide))
    options = {"seed": KEY, "num_samples": 1500, "num_warmup": 200}
    local, both = (posterior.refine(method, **options) for method in ("nuts", "nuts+imh"))
    right = lambda chains: np.asarray(chains.draws[..., 0] > 0)
    assert set(right(local).mean(axis=1)) <= {0.0, 1.0}
    assert both.trustworthy, both
    error = np.sqrt(0.3 * 0.7 / both.ess[0])
    assert abs(right(both).mean() - 0.7) < 4 * error
    assert 0.05 < both.acceptance < 0.9


def test_an_evidence_that_few_draws_decide_is_not_trusted():
    """One draw that reaches far, and finds as much as all others together."""
    good = posterior_of(lambda theta: -0.5 * jnp.sum(theta**2)).diagnostics
    assert good.trustworthy
    error = jnp.asarray(0.4)
    evidence = dataclasses.replace(good.log_evidence, standard_error=error)
    assert dataclasses.replace(good, log_evidence=evidence).reasons == [
        "the log evidence is known to +- 0.40 only"
    ]


def test_chains_that_do_not_mix_say_so():
    target = lambda theta: -0.5 * jnp.sum((theta - 4.0) ** 2)
    chains = posterior_of(target).refine(seed=KEY)
    assert not chains.trustworthy
    assert "DO NOT TRUST" in str(chains)


def test_chains_of_a_posterior_that_lost_a_mode_say_so(off_target):
    found = off_target.refine(seed=KEY)
    mode = LostMode(np.zeros(2), 0.5, np.eye(2))
    lost = dataclasses.replace(off_target.diagnostics, lost_modes=(mode,))
    chains = dataclasses.replace(off_target, diagnostics=lost).refine(seed=KEY)
    assert "lost before" not in str(found)
    assert str(chains).endswith("modes were lost before")
    assert not chains.trustworthy
    region = LostRegion(np.zeros(2), 0.5, np.eye(2))
    lost = dataclasses.replace(off_target.diagnostics, lost_regions=(region,))
    chains = dataclasses.replace(off_target, diagnostics=lost).refine(seed=KEY)
    assert str(chains).endswith("a region was lost before")


@pytest.mark.parametrize(
    ("library", "adapter", "extra", "call"),
    [
        ("blackjax", "blackjax", "mcmc", lambda p: p.refine("nuts", seed=KEY)),
        ("arviz_base", "arviz", "arviz", lambda p: p.to_arviz(seed=KEY)),
    ],
)
def test_a_missing_extra_is_named(off_target, monkeypatch, library, adapter, extra, call):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"flows.adapters.{adapter}", raising=False)
    with pytest.raises(ImportError, match=rf"flows-jax\[{extra}\]"):
        call(off_target)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda p: p.refine("gibbs", seed=KEY), "method must be one of"),
        (lambda p: p.refine(seed=KEY, num_samples=0), "num_samples must be at least 1"),
        (lambda p: p.refine(seed=KEY, num_chains=0), "num_chains must be at least 1"),
        (lambda p: p.refine("nuts", seed=KEY, num_warmup=0), "num_warmup must be at least 1"),
        (lambda p: p.expectation(jnp.sum, seed=KEY, num_samples=1), "num_samples must be at least"),
        (lambda p: p.resample(seed=0), "seed must be a JAX random key"),
    ],
)
def test_bad_input(off_target, call, match):
    with pytest.raises((ValueError, TypeError), match=match):
        call(off_target)


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True])
def test_a_target_that_is_cut_is_fitted_inside(trained):
    """q learns the normal that was cut, and then to lie inside; its weights do the cutting."""
    with pytest.warns(UserWarning, match="draws lie where the target has no mass"):
        posterior = flows.fit_posterior(
            cut, event_size=2, key=KEY, num_steps=200 if trained else 1, progress=False
        )
    diagnostics = posterior.diagnostics
    truth = np.log(2 * np.pi * 0.8413447)
    assert abs(diagnostics.log_evidence.value - truth) < 4 * diagnostics.log_evidence.standard_error
    assert diagnostics.ess > (8300 if trained else 7500)  # of the 8,413 inside
    assert 100 < diagnostics.num_outside < 1800
    assert diagnostics.num_nonfinite == 0
    mean = posterior.expectation(lambda theta: theta[0], seed=KEY)
    assert abs(mean.value + 0.2876) < 4 * mean.standard_error
    assert posterior.resample(seed=KEY, sample_shape=(2000,))[:, 0].max() <= 1
    assert posterior.refine(seed=KEY).draws[..., 0].max() <= 1


@pytest.mark.slow
def test_a_target_that_is_nan_in_a_region_is_fitted_elsewhere_and_said_to_be():
    target = lambda theta: jnp.where(theta[0] > 1, jnp.nan, -0.5 * jnp.sum(theta**2))
    with pytest.warns(UserWarning, match="weights are not finite"):
        posterior = flows.fit_posterior(target, event_size=2, key=KEY, num_steps=20, progress=False)
    assert 1000 < posterior.diagnostics.num_nonfinite < 2200


def far_and_wide(theta):
    """A normal at 1e4 with deviations of 1e3 and 1."""
    return jax.scipy.stats.norm.logpdf(theta, 1e4, jnp.array([1e3, 1.0])).sum()


@pytest.mark.parametrize("start", ["auto", "laplace"])
def test_a_flow_of_ones_own_starts_behind_a_whitening_map(start):
    flow = flows.real_nvp(2, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0))
    posterior = posterior_of(far_and_wide, flow, start=start)
    assert posterior.diagnostics.trustworthy
    assert abs(posterior.diagnostics.log_evidence.value) < 0.02


@pytest.mark.slow
def test_a_trained_flow_goes_on_from_where_it_is():
    first = flows.fit_posterior(
        lambda theta: -jnp.sum(theta**4), event_size=2, key=KEY, num_steps=300, progress=False
    )
    again = posterior_of(lambda theta: -jnp.sum(theta**4), first.flow, start="auto")
    assert jax.tree.structure(again.flow) == jax.tree.structure(first.flow)
    np.testing.assert_array_equal(again.sample(seed=KEY), first.sample(seed=KEY))


def test_no_start_is_the_flow_as_it_is():
    posterior = posterior_of(far_and_wide, start=None)
    assert not posterior.diagnostics.trustworthy
    assert jax.tree.structure(posterior.flow) == jax.tree.structure(NORMAL)


def test_nuts_is_refused_where_the_flow_has_a_support():
    flow = flows.Flow(flows.StandardNormal(1), flows.bijectors.Reverse(1), flows.supports.positive)
    target = lambda theta: -0.5 * jnp.sum(((theta - 0.3) / 0.5) ** 2)
    posterior = posterior_of(target, flow)
    with pytest.raises(ValueError, match=r"needs a flow on all of R\^D"):
        posterior.refine("nuts", seed=KEY)
    truth = 0.3 + 0.5 * 0.4592  # of the normal cut at 0
    mean = posterior.expectation(lambda theta: theta[0], seed=KEY)
    assert abs(mean.value - truth) < 4 * mean.standard_error
    assert abs(posterior.refine(seed=KEY).draws.mean() - truth) < 0.03


def test_a_flow_with_a_support_has_no_laplace_start():
    flow = flows.real_nvp(2, num_layers=2, support=flows.supports.positive, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match='start="laplace" needs a flow on all of'):
        posterior_of(shifted, flow, start="laplace")


@pytest.mark.parametrize(
    ("offset", "loc", "scale"),
    [
        (-1e6, 0.0, 1.0),
        (1e6, 0.0, 1.0),
        (1e6, 1e4, 1.0),
        (-1e6, 0.0, 1e-6),
        (1e6, 0.0, 1e6),
        pytest.param(-1e6, 1e4, 1.0, marks=pytest.mark.slow),
        pytest.param(1e6, 0.0, 1e-6, marks=pytest.mark.slow),
        pytest.param(-1e6, 0.0, 1e6, marks=pytest.mark.slow),
    ],
)
def test_units_and_offsets_do_not_matter(offset, loc, scale):
    a, b, c = map(jnp.asarray, (loc, scale, offset))  # one program for all of them
    target = lambda theta: -0.5 * jnp.sum(((theta - a) / b) ** 2) + c
    posterior = flows.fit_posterior(target, event_size=3, key=KEY, num_steps=50, progress=False)
    assert posterior.diagnostics.trustworthy, posterior.diagnostics
    z = (np.asarray(posterior.sample(seed=KEY, sample_shape=(10_000,)), float) - loc) / scale
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=0.15)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
def test_a_posterior_is_kept_by_its_flow(copied):
    posterior = posterior_of(lambda theta: -0.5 * jnp.sum(theta**2))
    with pytest.raises(TypeError, match=r"Of a posterior keep posterior\.flow"):
        copied(posterior)
    again = pickle.loads(pickle.dumps(posterior.flow))
    np.testing.assert_array_equal(again.sample(seed=KEY), posterior.flow.sample(seed=KEY))


def test_what_weights_would_change_is_part_of_the_verdict():
    narrow = posterior_of(lambda theta: -0.5 * jnp.sum(theta**2) / 1.2**2)
    assert narrow.diagnostics.sd_shift == pytest.approx(0.2, abs=0.04)
    assert any("change a deviation by" in reason for reason in narrow.diagnostics.reasons)
    moved = posterior_of(lambda theta: -0.5 * jnp.sum((theta - jnp.array([0.0, 0.15])) ** 2))
    assert moved.diagnostics.mean_shift == pytest.approx(0.15, abs=0.04)
    assert any("move a mean by" in reason for reason in moved.diagnostics.reasons)
    assert posterior_of(lambda theta: -0.5 * jnp.sum(theta**2)).diagnostics.reasons == []


def test_what_was_lost_is_named_by_the_parameters_of_the_model():
    """First those that are far from q; constants of a Cholesky factor never are."""
    made = flows.targets.from_log_density(
        lambda p: -jnp.sum(p["w"] ** 2) - p["scale"],
        {"corr": np.eye(2), "scale": 1.0, "w": np.zeros(6)},
        {"corr": flows.supports.correlation_cholesky, "scale": flows.supports.positive, "w": None},
    )
    normal = flows.Flow(flows.StandardNormal(8), flows.bijectors.Reverse(8))
    posterior = SimpleNamespace(target=made, flow=normal)
    points = np.zeros((2, 8), np.float32)
    points[0, 5], points[0, 2], points[1, 1] = 40.0, -20.0, 9.0  # w[3] and w[0]; the scale
    pair = zip((LostMode, LostRegion), points, strict=True)
    lost = tuple(kind(u, 0.25, np.eye(8)) for kind, u in pair)
    mode, region = _named(posterior, lost, KEY)
    assert str(mode).startswith("25.0% at w[3] 40, w[0] -20, ")
    assert str(mode).endswith(", ...")
    assert str(region).startswith("25.0% around scale ")
    assert sorted(mode.parameters) == sorted(made.names)
    assert not {"corr[0, 0]", "corr[0, 1]"} & set(list(mode.parameters)[:6])
    assert _named(posterior, (), KEY) == ()
    assert _named(posterior, None, KEY) is None
    plain = SimpleNamespace(target=as_target(lambda u: -jnp.sum(u**2), 8))
    assert _named(plain, lost, KEY) == lost
    assert str(lost[0]).startswith("25.0% at [")


@pytest.mark.slow
def test_a_lost_mode_of_a_model_is_printed_in_its_own_space():
    """Of two scales, 0.1 and 100, a flow that starts at one is told of the other."""
    bump = lambda x, at: -0.5 * ((jnp.log(x) - jnp.log(at)) / 0.1) ** 2
    made = flows.targets.from_log_density(
        lambda p: (
            jnp.logaddexp(bump(p["scale"], 0.1), bump(p["scale"], 100.0)) - jnp.log(p["scale"])
        ),
        {"scale": 1.0},
        {"scale": flows.supports.positive},
    )
    flow = flows.real_nvp(1, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0))
    with pytest.warns(UserWarning, match=r"lost mode +\d+\.\d% at scale (0\.1|100)"):
        flows.fit_posterior(
            made, flow=flow, start="laplace", num_steps=300, key=KEY, progress=False
        )

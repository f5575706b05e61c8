import dataclasses
import sys
import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import nnx
from helpers import perturbed

import flows
from flows._pareto import pareto_smoothed
from flows.training import on_device
from flows.variational import laplace, modes
from flows.variational.diagnostics import diagnose
from flows.variational.laplace import LaplaceFits, laplace_fits, laplace_start
from flows.variational.objectives import reverse_kl
from flows.variational.search import first_starts

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import eight_schools

KEY = jax.random.key(0)
LOC = jnp.array([100.0, -0.2, 3.0])
TRIL = jnp.array([[10.0, 0, 0], [-0.05, 0.01, 0], [2.0, 1.0, 3.0]])


def gaussian(theta):
    """An ill-conditioned normal, unnormalised: its log evidence is known."""
    z = jax.scipy.linalg.solve_triangular(TRIL, theta - LOC, lower=True)
    return -0.5 * jnp.sum(z**2)


LOG_EVIDENCE = 1.5 * np.log(2 * np.pi) + np.log(np.diagonal(TRIL)).sum()


def test_laplace_start_is_exact_for_a_normal():
    target = jax.tree_util.Partial(gaussian)
    start = laplace_start(target, laplace_fits(target, first_starts(3, KEY)), KEY)
    np.testing.assert_allclose((start.loc[...] - LOC) / jnp.diagonal(TRIL), 0, atol=0.02)
    ratio = jnp.linalg.solve(TRIL, start.scale_tril)
    np.testing.assert_allclose(ratio @ ratio.T, np.eye(3), atol=0.02)


def banana(theta):
    """The normal above, bent by a map of determinant 1: what training alone can find."""
    u = jax.scipy.linalg.solve_triangular(TRIL, theta - LOC, lower=True)
    return -0.5 * jnp.sum(u.at[1].add(-0.5 * (u[0] ** 2 - 1)) ** 2)


@pytest.mark.slow
@pytest.mark.runs_long
def test_evidence_and_moments_of_a_banana():
    posterior = flows.fit_posterior(banana, event_size=3, key=KEY, num_steps=1500, progress=False)
    diagnostics = posterior.diagnostics
    assert abs(diagnostics.log_evidence.value - LOG_EVIDENCE) < max(
        0.01, 4 * diagnostics.log_evidence.standard_error
    )
    assert LOG_EVIDENCE - 0.05 < diagnostics.elbo.value < LOG_EVIDENCE + 0.01
    assert diagnostics.ess > 9000  # 5,700 before training
    assert diagnostics.num_nonfinite == 0
    draws = np.asarray(posterior.sample(seed=KEY, sample_shape=(20_000,)))
    u = np.linalg.solve(TRIL, (draws - LOC).T)
    np.testing.assert_allclose(u.mean(1), 0, atol=0.04)
    np.testing.assert_allclose(u.std(1), [1, np.sqrt(1.5), 1], rtol=0.03)
    assert np.mean(u[0] ** 2 * u[1]) == pytest.approx(1.0, abs=0.1)
    np.testing.assert_allclose(posterior.log_prob(draws[:3]), posterior.flow.log_prob(draws[:3]))
    assert posterior.history["elbo"].shape == (1500,)


@pytest.mark.slow
@pytest.mark.runs_long
def test_eight_schools_with_defaults():
    posterior = flows.fit_posterior(
        eight_schools.log_density, event_size=10, key=KEY, progress=False
    )
    draws = np.asarray(
        eight_schools.constrain(posterior.sample(seed=jax.random.key(1), sample_shape=(50_000,)))
    )
    means, sds = eight_schools.REFERENCE_MEAN, eight_schools.REFERENCE_SD
    assert np.abs((draws.mean(0) - means) / sds).max() < 0.1
    assert np.abs(draws.std(0) / sds - 1).max() < 0.15
    assert posterior.diagnostics.ess > 5000


def on_mixture(size, **options):
    return flows.maf(size, base=flows.MixtureOfNormals(size, 2), **options)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(flows.maf, id="maf"),
        pytest.param(flows.iaf, id="iaf"),
        pytest.param(flows.real_nvp, id="real_nvp"),
        *(
            pytest.param(partial(make, **options), id=name, marks=pytest.mark.slow)
            for name, make, options in [
                ("nsf", flows.nsf, {}),
                ("autoregressive nsf", flows.nsf, {"autoregressive": True}),
                ("ncsf", flows.ncsf, {}),
                ("logistics", flows.maf, {"transformer": flows.bijectors.MixtureOfLogistics(2)}),
                ("mixture", on_mixture, {}),
                ("heavy tails", flows.maf, {"base": flows.StudentT(3)}),
                ("positive", flows.maf, {"support": flows.supports.positive}),
            ]
        ),
    ],
)
def test_path_gradient_vanishes_draw_by_draw_at_the_optimum(make):
    with jax.enable_x64(True):
        flow = perturbed(make(3, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0)))
        grads = jax.grad(lambda q: reverse_kl(q, flow.log_prob, KEY, (16,)).mean())(flow)
        for leaf in jax.tree.leaves(nnx.state(grads, nnx.Param)):
            np.testing.assert_allclose(leaf, 0, atol=1e-9)


def test_path_gradient_is_unbiased():
    q = perturbed(flows.real_nvp(2, num_layers=2, hidden_sizes=(4,), rngs=nnx.Rngs(0)), scale=0.2)
    target = lambda x: -0.5 * ((x - 1) ** 2).sum(-1)

    def total(q, key):
        x, log_q = q.sample_and_log_prob(seed=key, sample_shape=(64,))
        return (log_q - target(x)).mean()

    def flat(grads):
        return jnp.concatenate([a.ravel() for a in jax.tree.leaves(nnx.state(grads, nnx.Param))])

    keys = jax.random.split(KEY, 500)
    path = jax.vmap(lambda k: flat(jax.grad(lambda q: reverse_kl(q, target, k, (64,)).mean())(q)))(
        keys
    )
    plain = jax.vmap(lambda k: flat(jax.grad(total)(q, k)))(keys)
    error = np.sqrt((path.var(0) + plain.var(0)) / 500) + 1e-6
    assert np.abs((path.mean(0) - plain.mean(0)) / error).max() < 5
    value = reverse_kl(q, target, KEY, (64,)).mean()
    np.testing.assert_allclose(value, total(q, KEY), rtol=1e-5)


def trained_normal(target, **options):
    """The posterior among independent normals, from N(0, I)."""
    flow = flows.Flow(flows.DiagonalNormal(2), flows.bijectors.Reverse(2))
    options = {"optimizer": optax.adam(0.05), "num_steps": 300, "start": None} | options
    return flows.fit_posterior(target, flow=flow, key=KEY, progress=False, **options)


def test_a_target_whose_data_changed_is_fitted_anew():
    data = jnp.zeros(2)

    def target(theta):
        return -0.5 * jnp.sum((theta - data) ** 2)

    for centre in (-2.0, 3.0):
        data = jnp.full(2, centre)
        assert (
            abs(trained_normal(target).flow.sample(seed=KEY, sample_shape=5000).mean() - centre)
            < 0.1
        )
        posterior = flows.fit_posterior(target, event_size=2, key=KEY, num_steps=2, progress=False)
        assert (
            abs(posterior.sample(seed=KEY, sample_shape=(5000,)).mean() - centre) < 0.1
        )  # the start is exact


def test_a_target_of_the_same_operations_does_not_recompile():
    sizes = []
    for centre in (-2.0, 3.0):
        loc = jnp.full(2, centre)
        target = lambda theta, loc=loc: -0.5 * jnp.sum((theta - loc) ** 2)
        assert (
            abs(trained_normal(target).flow.sample(seed=KEY, sample_shape=5000).mean() - centre)
            < 0.1
        )
        flows.fit_posterior(target, event_size=2, key=KEY, num_steps=2, progress=False)
        compiled = on_device.run, laplace_fits, laplace._best, modes._evidence_near
        sizes.append([program._cache_size() for program in compiled])
    assert sizes[0] == sizes[1]


def test_a_posterior_not_to_be_trusted_is_warned_about():
    heavy = lambda theta: -jnp.log1p(theta**2).sum()
    with pytest.warns(UserWarning, match="not to be trusted"):
        flows.fit_posterior(heavy, event_size=1, key=KEY, num_steps=50, progress=False)


def as_it_is(target, flow):
    """The flow, neither whitened nor trained, as a posterior of the target."""
    return flows.fit_posterior(
        target, flow=flow, key=KEY, num_steps=1, optimizer=optax.sgd(0.0), start=None,
        progress=False,
    )  # fmt: skip


def two_normals(loc, scale, share):
    """Two unit normals in 2-D, in other units: at 0 and at 10 in both coordinates."""
    loc, scale, share = map(jnp.asarray, (loc, scale, share))  # one program for all of them

    def target(theta):
        z = (theta - loc) / scale
        first, second = (jax.scipy.stats.norm.logpdf(z, m).sum() for m in (0.0, 10.0))
        return jnp.logaddexp(jnp.log(1 - share) + first, jnp.log(share) + second)

    return target


@pytest.mark.parametrize("share", [pytest.param(0.5, marks=pytest.mark.slow), 0.1])
@pytest.mark.parametrize(
    ("loc", "scale"),
    [
        (-5.0, 1.0),
        pytest.param(0.0, 1.0, marks=pytest.mark.slow),
        pytest.param(1000.0, 1.0, marks=pytest.mark.slow),
        (0.2, 1e-4),
    ],
)
def test_modes_are_kept(loc, scale, share):
    target = two_normals(loc, scale, share)
    posterior = flows.fit_posterior(target, event_size=2, key=KEY, num_steps=300, progress=False)
    assert posterior.diagnostics.trustworthy
    assert posterior.diagnostics.lost_modes == ()
    evidence = posterior.diagnostics.log_evidence
    assert abs(evidence.value - 2 * np.log(scale)) < 0.02
    z = (posterior.sample(seed=KEY, sample_shape=(10_000,)) - loc) / scale
    second = z.mean(axis=1) > 5
    assert abs(second.mean() - share) < 0.02
    np.testing.assert_allclose(z[second].mean(axis=0), 10, atol=0.15)
    np.testing.assert_allclose(z[~second].std(axis=0), 1, atol=0.05)


@pytest.mark.parametrize(
    ("size", "distance", "width"),
    [
        pytest.param(1, 10.0, 1.0, marks=pytest.mark.slow),
        pytest.param(2, 1000.0, 1.0, marks=pytest.mark.slow),
        pytest.param(2, 30.0, 5.0, marks=pytest.mark.slow),
    ],
)
def test_modes_are_kept_at_any_distance_and_of_any_width(size, distance, width):
    distance, width = jnp.asarray(distance), jnp.asarray(width)

    def target(theta):
        first = jax.scipy.stats.norm.logpdf(theta, -distance / 2, 1.0).sum()
        second = jax.scipy.stats.norm.logpdf(theta, distance / 2, width).sum()
        return jnp.logaddexp(first + jnp.log(0.7), second + jnp.log(0.3))

    posterior = flows.fit_posterior(target, event_size=size, key=KEY, num_steps=300, progress=False)
    assert posterior.diagnostics.trustworthy
    assert abs(posterior.diagnostics.log_evidence.value) < 0.02


@pytest.mark.parametrize(
    ("far", "near", "width"),
    [
        ((2000.0, 2000.0, 2000.0), (1000.0, 1000.0, 1000.0), 1.0),
        pytest.param((0.0, -3000.0), (0.0, 0.0), 1.0, marks=pytest.mark.slow),
        pytest.param((0.0, 0.0, 3.0), (0.0, 0.0, 0.0), 30.0, marks=pytest.mark.slow),
    ],
    ids=["far from 0", "thousands of deviations", "a narrow one within a wide one"],
)
def test_modes_that_are_hard_to_tell_apart_are_kept(far, near, width):
    def target(theta):
        second = jax.scipy.stats.norm.logpdf(theta, jnp.array(far), min(1.0, 3 / width)).sum()
        first = jax.scipy.stats.norm.logpdf(theta, jnp.array(near), width).sum()
        return jnp.logaddexp(first, second) - jnp.log(2.0)

    size = len(far)
    posterior = flows.fit_posterior(target, event_size=size, key=KEY, num_steps=30, progress=False)
    assert posterior.diagnostics.trustworthy
    assert abs(posterior.diagnostics.log_evidence.value) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 4])
def test_modes_of_correlated_coordinates_are_kept(size):
    """In an odd number of dimensions the couplings' permutations do not undo one another."""
    rng = np.random.default_rng(size)
    locs = jnp.asarray(6 * rng.normal(size=(3, size)))
    trils = jnp.asarray(np.tril(rng.normal(size=(3, size, size)), -1) + np.eye(size))

    def target(theta):
        z = jax.vmap(lambda m, tril: jnp.linalg.solve(tril, theta - m))(locs, trils)
        return jax.nn.logsumexp(jax.scipy.stats.norm.logpdf(z).sum(axis=1)) - jnp.log(3)

    posterior = flows.fit_posterior(
        target, event_size=size, key=KEY, num_steps=1, learning_rate=1e-9, progress=False
    )
    assert abs(posterior.diagnostics.log_evidence.value) < 0.02
    assert posterior.diagnostics.ess > 8000  # at the start already


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize(("loc", "scale"), [(-5.0, 1.0), (0.0, 1.0), (1000.0, 1.0), (0.2, 1e-4)])
def test_a_mode_that_the_posterior_lost_is_named(loc, scale, share):
    target = two_normals(loc, scale, share)
    base = flows.DiagonalNormal(2)
    base.loc[...] = jnp.full(2, loc)
    base.log_scale[...] = jnp.full(2, jnp.log(scale))
    flow = flows.Flow(base, flows.bijectors.Reverse(2))
    with pytest.warns(UserWarning, match="the target has modes that q lacks"):
        posterior = as_it_is(target, flow)
    (lost,) = posterior.diagnostics.lost_modes
    np.testing.assert_allclose(lost.location, loc + 10 * scale, atol=0.1 * scale)
    assert lost.share == pytest.approx(share, abs=0.02)
    assert posterior.diagnostics.khat < 0.7 or posterior.diagnostics.ess > 9900


@pytest.mark.parametrize(("kept", "share"), [((0, 1), 0.5), ((0,), 0.5), ((0,), 0.005)])
def test_modes_that_a_flow_of_ones_own_covers_are_not_lost(kept, share):
    base = flows.MixtureOfNormals(2, len(kept))
    base.loc[...] = 10.0 * jnp.array(kept)[:, None] * jnp.ones(2)
    base.log_scale[...] = jnp.zeros_like(base.log_scale[...])
    flow = flows.Flow(base, flows.bijectors.Reverse(2))
    target = two_normals(0.0, 1.0, share)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = as_it_is(target, flow)
    lost = len(kept) == 1 and share > 0.01
    assert len(posterior.diagnostics.lost_modes) == lost
    assert posterior.diagnostics.trustworthy == (not lost)


def test_many_modes_of_which_none_matters_alone_are_named():
    angles = 2 * np.pi * np.arange(30) / 30
    locs = jnp.asarray(
        np.append([[0.0, 0.0]], 30 * np.stack([np.cos(angles), np.sin(angles)], 1), 0)
    )
    shares = jnp.asarray([0.9] + [0.1 / 30] * 30)

    def target(theta):
        each = jax.scipy.stats.norm.logpdf(theta, locs).sum(axis=1)
        return jax.nn.logsumexp(each + jnp.log(shares))

    flow = flows.Flow(flows.DiagonalNormal(2), flows.bijectors.Reverse(2))
    with pytest.warns(UserWarning, match="the target has modes that q lacks"):
        posterior = as_it_is(target, flow)
    lost = posterior.diagnostics.lost_modes
    assert all(mode.share < 0.01 for mode in lost)
    assert 0.01 < sum(mode.share for mode in lost) < 0.12
    assert "lost mode     0.3% at" in str(posterior.diagnostics)


@pytest.mark.slow
def test_what_weights_vary_by_is_no_lost_mode():
    """Skewed in 30 directions, with a normal as q: a few draws near the mode carry the weight."""
    target = lambda theta: (1.5 * theta - jnp.exp(1.5 * theta)).sum() / 2.25
    z = np.log(np.random.default_rng(0).gamma(1 / 2.25, 2.25, 1_000_000)) / 1.5
    base = flows.DiagonalNormal(30)
    base.loc[...] = jnp.full(30, z.mean())
    base.log_scale[...] = jnp.full(30, np.log(z.std()))
    flow = flows.Flow(base, flows.bijectors.Reverse(30))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(2):
            posterior = flows.fit_posterior(
                target, flow=flow, key=jax.random.key(seed), num_steps=1, num_samples=8,
                optimizer=optax.sgd(0.0), start=None, progress=False,
            )  # fmt: skip
            assert posterior.diagnostics.ess < 1000
            assert posterior.diagnostics.lost_modes == ()


def test_a_neck_that_numbers_cannot_resolve_is_no_lost_mode():
    """Eight parameters within 1e-7 of their mean, near 8, where float32 has steps of 1e-6."""
    width, log_share, logpdf = 1e-7, -8.0, jax.scipy.stats.norm.logpdf

    def target(u):
        neck = logpdf(u[0], 8.0) + logpdf(u[1:], u[0], width).sum()
        return jnp.logaddexp(logpdf(u).sum(), log_share + neck)

    scale_tril = width * np.eye(9)
    scale_tril[:, 0] = 1.0
    fits = LaplaceFits(*(np.float32(a) for a in ([[8.0] * 9], [scale_tril], [log_share])))
    q = flows.Flow(flows.StandardNormal(9), flows.bijectors.Reverse(9))
    target = jax.tree_util.Partial(target)
    assert modes.lost_modes(q, target, fits, log_evidence=0.0, spread=0.0, key=KEY) == ()


def test_no_modes_are_looked_for_beyond_a_support():
    flow = flows.real_nvp(2, num_layers=2, support=flows.supports.positive, rngs=nnx.Rngs(0))
    target = lambda theta: -0.5 * (theta**2).sum()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = flows.fit_posterior(target, flow=flow, key=KEY, num_steps=1, progress=False)
    assert posterior.diagnostics.lost_modes is None


def test_a_target_without_a_hessian_is_fitted_all_the_same():
    @jax.custom_vjp
    def target(theta):
        return -0.5 * jnp.sum(theta**2)

    def backward(theta, g):
        shape = jax.ShapeDtypeStruct(theta.shape, theta.dtype)
        return (jax.pure_callback(lambda t, g: -g * t, shape, theta, g, vmap_method="sequential"),)

    target.defvjp(lambda theta: (target(theta), theta), backward)
    flow = flows.Flow(flows.StandardNormal(2), flows.bijectors.Reverse(2))
    with pytest.warns(UserWarning, match="were not looked for: "):
        posterior = flows.fit_posterior(
            target, flow=flow, key=KEY, num_steps=1, num_samples=2, progress=False
        )
    assert posterior.diagnostics.lost_modes is None
    assert "lost modes    not looked for" in str(posterior.diagnostics)
    assert posterior.diagnostics.trustworthy


def test_the_tail_of_even_weights_is_noise():
    weights = 1 + 3e-4 * scipy.stats.pareto(1 / 0.9).rvs(10_000, random_state=0)
    diagnostics = diagnose(np.log(weights))
    assert diagnostics.khat > 0.7
    assert diagnostics.trustworthy
    weights[0] = 30.0  # one draw that counts
    assert not diagnose(np.log(weights)).trustworthy


@pytest.mark.parametrize("width", [0.1, 0.02, 0.005])
def test_weights_of_any_span_are_never_nan(width):
    """Of a target that much narrower than q: of the last no tail can be fitted."""
    z = np.random.default_rng(0).normal(size=(20_000, 4))
    log_weights = 0.5 * (z**2).sum(axis=1) - 0.5 * (((z - 1) / width) ** 2).sum(axis=1)
    weights, khat = pareto_smoothed(log_weights)
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(1)
    assert khat > 0.7
    assert not diagnose(log_weights).trustworthy


def test_weights_of_zero_do_not_decide_the_tail():
    log_weights = np.random.default_rng(0).normal(size=5000)
    weights, khat = pareto_smoothed(log_weights)
    with_zero, khat_with_zero = pareto_smoothed(np.r_[log_weights, -np.inf])
    assert khat_with_zero == pytest.approx(khat, abs=0.01)
    np.testing.assert_allclose(with_zero, np.r_[weights, 0.0], atol=1e-6)


def test_where_weights_are_noise_the_larger_bound_is_better():
    diagnostics = diagnose(np.random.default_rng(0).normal(size=10_000))
    near, far = (
        dataclasses.replace(diagnostics, ess=ess, elbo=flows.divergences.Estimate.from_draws(elbo))
        for ess, elbo in ((23.0, -1.1 + jnp.zeros(9)), (46.0, -13.4 + jnp.zeros(9)))
    )
    assert near.better_than(far)
    assert not far.better_than(near)
    even = dataclasses.replace(far, ess=5000.0)
    assert even.better_than(near)


def test_khat_when_few_draws_carry_all_the_weight():
    for bulk in (-np.inf, -50.0):
        log_weights = np.full(10_000, bulk)
        log_weights[0] = 0.0
        diagnostics = diagnose(log_weights)
        assert diagnostics.khat == np.inf
        assert "DO NOT TRUST" in str(diagnostics)
    assert not diagnose(
        np.concatenate([np.full(9000, np.nan), np.arange(1000.0) / 1e3])
    ).trustworthy


@pytest.mark.parametrize("shape", [0.3, 0.9])
def test_khat_recovers_the_tail_of_the_weights(shape):
    weights = scipy.stats.pareto(1 / shape).rvs(20_000, random_state=0)
    diagnostics = diagnose(np.log(weights))
    assert abs(diagnostics.khat - shape) < 0.15
    assert ("DO NOT TRUST" in str(diagnostics)) == (shape > 0.7)
    np.testing.assert_allclose(diagnostics.ess, weights.sum() ** 2 / (weights**2).sum())
    np.testing.assert_allclose(diagnostics.log_evidence.value, np.log(weights.mean()), rtol=1e-5)
    np.testing.assert_allclose(
        diagnostics.log_evidence.standard_error,
        weights.std() / np.sqrt(20_000) / weights.mean(),
        rtol=1e-3,
    )


def test_diagnostics_count_what_is_not_finite():
    log_weights = np.concatenate([np.zeros(98), [np.nan, np.inf]])
    diagnostics = diagnose(log_weights)
    assert (diagnostics.num_nonfinite, diagnostics.num_samples) == (2, 100)
    assert diagnostics.ess == 98
    with pytest.raises(ValueError, match="none or one is finite"):
        diagnose(np.full(10, np.nan))


def test_a_flow_of_the_users_own_is_trained():
    flow = flows.iaf(2, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0))
    target = lambda x: -0.5 * jnp.sum((x - 0.5) ** 2)
    posterior = flows.fit_posterior(
        target, flow=flow, key=KEY, start=None, num_steps=300, progress=False
    )
    assert jax.tree.structure(posterior.flow) == jax.tree.structure(flow)
    assert abs(posterior.diagnostics.log_evidence.value - np.log(2 * np.pi)) < 0.05
    assert posterior.diagnostics.elbo.value > np.log(2 * np.pi) - 0.02  # 0.25 below at the start


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"target": 3.0}, TypeError, "target must be a callable"),
        ({"event_size": None}, ValueError, "event_size is needed"),
        ({"event_size": 0}, ValueError, "event_size must be at least 1"),
        ({"target": lambda x: x}, ValueError, "target must map a point"),
        ({"target": lambda x: jnp.sum(x) * jnp.nan}, ValueError, "target is not finite"),
        ({"flow": "maf"}, TypeError, "flow must be a flows.Flow"),
        ({"flow": flows.maf(3, rngs=nnx.Rngs(0))}, ValueError, "event_size is 2, but flow has 3"),
        (
            {"flow": flows.maf(2, context_size=1, rngs=nnx.Rngs(0))},
            ValueError,
            "context.* is missing",
        ),
        (
            {"flow": flows.maf(2, context_size=1, rngs=nnx.Rngs(0)).condition(jnp.ones((5, 1)))},
            ValueError,
            r"flow must have no batch shape, got \(5,\)",
        ),
        ({"start": "prior"}, ValueError, "start must be one of"),
        ({"num_steps": 0}, ValueError, "num_steps must be at least 1"),
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1"),
        ({"key": 1}, TypeError, "key must be a JAX random key"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_input(arguments, error, match):
    arguments = {
        "target": lambda x: -jnp.sum(x**2), "event_size": 2, "key": KEY, "num_steps": 2,
        "progress": False,
    } | arguments  # fmt: skip
    with pytest.raises(error, match=match):
        flows.fit_posterior(**arguments)


def test_stopping_early_at_the_plateau():
    target = lambda theta: -0.5 * jnp.sum((theta - 3) ** 2 + 0.1 * (theta - 3) ** 4)
    posterior = trained_normal(
        target, stop_early=True, optimizer=optax.adam(1e-2), num_steps=20_000
    )
    assert posterior.stop_reason == "plateau"
    assert 400 < len(posterior.history["elbo"]) < 15_000
    assert abs(posterior.sample(seed=KEY, sample_shape=(5000,)).mean() - 3) < 0.1
    assert posterior.diagnostics.khat < 0.7


def test_a_posterior_is_lengthened(tmp_path):
    target = lambda theta: -0.5 * jnp.sum((theta - 3) ** 2)
    options = {"optimizer": optax.adam(1e-2), "checkpoint_dir": tmp_path}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of twenty steps the diagnostics say what they should
        short = trained_normal(target, num_steps=20, **options)
    long = trained_normal(target, num_steps=1000, **options)
    np.testing.assert_array_equal(long.losses[:20], short.losses)
    np.testing.assert_array_equal(long.history["elbo"], -long.losses)
    assert len(long.losses) == 1000
    assert abs(long.sample(seed=KEY, sample_shape=(5000,)).mean() - 3) < 0.1

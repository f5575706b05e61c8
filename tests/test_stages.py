"""What `fit_posterior` does by need: stages of training, draws that reach further, searches."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest
from flax import nnx
from helpers import perturbed

import flows
from flows.targets.target import as_target
from flows.variational import diagnostics as judging
from flows.variational import stages
from flows.variational import start as starts
from flows.variational.laplace import laplace_fits
from flows.variational.objectives import forward_kl
from flows.variational.proposal import Overdispersed
from flows.variational.weights import WeightedDraws, stray_share

KEY = jax.random.key(0)


def judge(flow, log_density, key, batch_size):
    target = as_target(log_density, flow.event_size)
    return judging.judge(flow, target, key, batch_size)


def fitted(target, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return flows.fit_posterior(target, key=KEY, progress=False, **options)


def bases():
    mixture = flows.MixtureOfNormals(3, 2, full_covariance=True)
    mixture.shear[...] = 0.5 * jnp.ones((2, 3, 3))
    angles = flows.distributions.Product([1], flows.CircularUniform(1), flows.StandardNormal(2))
    nested = flows.Flow(flows.DiagonalNormal(3), flows.bijectors.Reverse(3))
    return {
        "normal": flows.StandardNormal(3), "diagonal": flows.DiagonalNormal(3), "nested": nested,
        "student": flows.StudentT(3, 5.0), "mixture": mixture, "angles": angles,
    }  # fmt: skip


@pytest.mark.parametrize("name", bases())
def test_draws_that_reach_further_have_the_density_that_they_say(name):
    base = perturbed(bases()[name])
    wider = Overdispersed(base)
    x = wider.sample(seed=KEY, sample_shape=(40_000,))
    ratio = np.exp(base.log_prob(x) - wider.log_prob(x))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / 200
    own, far = np.asarray(x[:20_000], float), np.asarray(x[20_000:], float)
    factor = far.std(axis=0) / own.std(axis=0)
    straight = [0, 2] if name == "angles" else [0, 1, 2]
    if name != "mixture":  # whose means stay where they are
        np.testing.assert_allclose(factor[straight], 1 + 3**-0.5, rtol=0.1)
    assert (factor[straight] > 1.2).all()
    if name == "angles":
        assert factor[1] == pytest.approx(1, abs=0.05)


def test_the_gradient_of_the_forward_divergence_is_that_of_the_cross_entropy():
    q = perturbed(flows.real_nvp(2, num_layers=2, hidden_sizes=(4,), rngs=nnx.Rngs(0)), scale=0.05)
    target = lambda x: jax.scipy.stats.norm.logpdf(x, 0.3, 0.9).sum(-1)
    draws = 0.3 + 0.9 * jax.random.normal(KEY, (500, 400, 2))

    def flat(loss):
        grads = nnx.state(jax.grad(loss)(q), nnx.Param)
        return jnp.concatenate([a.ravel() for a in jax.tree.leaves(grads)])

    weighted = lambda key: flat(lambda q: forward_kl(q, target, key, 2000).mean())
    exact = lambda x: flat(lambda q: -q.log_prob(x).mean())
    ours = jax.jit(jax.vmap(weighted))(jax.random.split(KEY, 100))
    theirs = jax.jit(jax.vmap(exact))(draws)
    error = np.sqrt(ours.var(0) / 100 + theirs.var(0) / 500) + 1e-4
    assert np.abs((ours.mean(0) - theirs.mean(0)) / error).max() < 5


def test_an_exact_start_is_not_trained():
    posterior = fitted(
        lambda x: -0.5 * jnp.sum(((x - 3) / jnp.array([1.0, 50.0])) ** 2), event_size=2
    )
    assert posterior.losses.size == posterior.history["elbo"].size == 0
    assert posterior.stop_reason == "finished"
    assert posterior.diagnostics.ess > 9990


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"learning_rate": 0.05}, 200),  # exact by then
        ({"learning_rate": 1e-3}, 300),
        ({"learning_rate": 0.05, "stop_early": True}, 300),
        ({"optimizer": optax.adam(0.05)}, 300),  # whose schedule is not known
        ({"learning_rate": 0.05, "num_steps": 150}, 150),
    ],
)
def test_training_ends_early_where_nothing_is_left_to_gain(options, steps, monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "SHORT", 200)
    target = lambda x: -2 * jnp.sum((x - 1) ** 2)
    options = {
        "flow": wide_flow(), "start": None, "num_steps": 300, "checkpoint_dir": tmp_path,
    } | options  # fmt: skip
    posterior, again = fitted(target, **options), fitted(target, **options)
    assert posterior.losses.size == posterior.history["elbo"].size == steps
    assert posterior.stop_reason == "finished"
    np.testing.assert_array_equal(posterior.losses, again.losses)
    np.testing.assert_array_equal(posterior.sample(seed=KEY), again.sample(seed=KEY))


def test_the_second_part_goes_on_with_the_first_and_with_other_draws(monkeypatch):
    monkeypatch.setattr(stages, "SHORT", 100)
    target = lambda x: -2 * jnp.sum((x - 1) ** 2)
    options = {"flow": wide_flow(), "start": None, "num_steps": 200}
    losses = fitted(target, learning_rate=2e-3, **options).losses
    assert losses[100:130].mean() < losses[70:100].mean() + 0.1 < losses[:30].mean()
    still = fitted(target, learning_rate=1e-12, **options).losses
    assert len(np.unique(still.round(4))) > 190  # no draws are used twice


def test_what_ends_within_the_second_part_keeps_the_first(monkeypatch):
    monkeypatch.setattr(stages, "SHORT", 20)
    target = lambda x: -2 * jnp.sum((x - 1) ** 2)
    options = {"flow": wide_flow(), "start": None, "num_steps": 40, "learning_rate": 1e-3}
    calls, train = [], stages.train

    def failing(*args, **kwargs):
        calls.append(kwargs["num_steps"])
        if len(calls) == 2:
            raise flows.training.NonFiniteError("diverged")
        return train(*args, **kwargs)

    monkeypatch.setattr(stages, "train", failing)
    with pytest.warns(UserWarning, match="that of the first 20 steps: diverged"):
        posterior = flows.fit_posterior(target, key=KEY, progress=False, **options)
    assert posterior.losses.size == 20
    calls.clear()
    interrupted = lambda *args, **kwargs: dataclasses.replace(
        train(*args, **kwargs), stop_reason="interrupted"
    )
    monkeypatch.setattr(stages, "train", interrupted)
    posterior = fitted(target, **options)
    assert posterior.losses.size == 20
    assert posterior.stop_reason == "interrupted"


def test_ctrl_c_while_a_flow_is_judged_loses_no_flow(monkeypatch):
    def judge(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "judge", judge)
    own = wide_flow()
    with pytest.raises(KeyboardInterrupt) as info:
        fitted(lambda x: -jnp.sum(x**2), flow=own, start=None, num_steps=5)
    np.testing.assert_array_equal(
        info.value.module.log_prob(jnp.ones(2)), own.log_prob(jnp.ones(2))
    )


def test_a_stage_of_two_parts_is_lengthened(monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "SHORT", 20)
    options = {
        "flow": wide_flow(), "start": None, "learning_rate": 1e-3, "checkpoint_dir": tmp_path
    }  # fmt: skip
    target = lambda x: -2 * jnp.sum((x - 1) ** 2)
    short, long = (fitted(target, num_steps=steps, **options) for steps in (30, 60))
    assert (short.losses.size, long.losses.size) == (30, 60)
    np.testing.assert_array_equal(short.losses[:30], long.losses[:30])


def bent(x):
    """Its second coordinate follows the square of the first, within a tenth."""
    first = jax.scipy.stats.norm.logpdf(x[0])
    return first + jax.scipy.stats.norm.logpdf(x[1], 1 - x[0] ** 2, 0.1)


@pytest.mark.slow
@pytest.mark.runs_long
def test_tails_that_the_first_stage_leaves_short_are_learnt():
    posterior = fitted(bent, event_size=2, num_steps=600)
    assert len(posterior.history["elbo"]) == 600
    assert len(posterior.history["cross_entropy"]) == 200
    draws = np.asarray(posterior.sample(seed=KEY, sample_shape=(20_000,)))
    assert draws[:, 1].std() == pytest.approx(np.sqrt(2 + 0.1**2), rel=0.1)
    assert abs(posterior.diagnostics.log_evidence.value) < 0.02
    assert posterior.diagnostics.ess > 9000


@pytest.mark.slow
def test_evenly_weighted_tails_need_no_second_stage():
    posterior = fitted(lambda x: -jnp.sum(x**4 / 12 + x**2 / 2), event_size=2, num_steps=300)
    assert posterior.losses.size == 300
    assert "cross_entropy" not in posterior.history


def wide_flow():
    return flows.Flow(flows.DiagonalNormal(2), flows.bijectors.Reverse(2))


def test_both_stages_are_resumed(tmp_path):
    target = lambda x: -jnp.sum(jnp.log1p(x**2 / 3)) * 2
    options = {"flow": wide_flow(), "start": None, "num_steps": 30, "checkpoint_dir": tmp_path}
    first, again = fitted(target, **options), fitted(target, **options)
    for name in ("elbo", "cross_entropy"):
        np.testing.assert_array_equal(first.history[name], again.history[name])
    np.testing.assert_array_equal(first.sample(seed=KEY), again.sample(seed=KEY))
    assert len(fitted(target, **options | {"num_steps": 60}).losses) == 60


def test_draws_that_reach_further_find_the_tails_that_q_lacks():
    """q has a tenth of the mass beyond it; its own draws have even weights."""
    base = flows.DiagonalNormal(1)
    flow = flows.Flow(base, flows.bijectors.Reverse(1))
    target = jax.tree_util.Partial(
        lambda x: jnp.logaddexp(
            jnp.log(0.9) + jax.scipy.stats.norm.logpdf(x[0], 0, 1),
            jnp.log(0.1) + jax.scipy.stats.norm.logpdf(x[0], 0, 6),
        )
    )
    diagnostics = judge(flow, target, KEY, 128)
    assert diagnostics.sd_shift > 0.5
    assert any("change a deviation" in reason for reason in diagnostics.reasons)
    assert any("miss" in reason for reason in diagnostics.reasons)
    assert abs(diagnostics.log_evidence.value) < 4 * diagnostics.log_evidence.standard_error + 0.05


def test_nan_where_only_the_wider_draws_go_is_no_mass():
    normal = lambda x: jax.scipy.stats.norm.logpdf(x).sum()
    target = jax.tree_util.Partial(lambda x: jnp.where(jnp.abs(x[0]) > 4.5, jnp.nan, normal(x)))
    flow = flows.Flow(flows.StandardNormal(1), flows.bijectors.Reverse(1))
    evidence = judge(flow, target, KEY, 128).log_evidence
    assert abs(evidence.value - np.log1p(-6.8e-6)) < 4 * evidence.standard_error + 1e-6


def test_a_coordinate_that_cannot_be_resolved_is_said_to_be():
    flow = flows.Flow(flows.DiagonalNormal(2), flows.bijectors.Reverse(2))
    flow.base.loc[...] = jnp.array([0.0, 1e6])
    flow.base.log_scale[...] = jnp.array([0.0, -10.0])
    target = jax.tree_util.Partial(lambda x: -0.5 * x[1] ** 2)
    assert any("100%" in reason for reason in judge(flow, target, KEY, 128).reasons)


def _student_t(df):
    return flows.Flow(flows.StudentT(3, df=df), flows.bijectors.Reverse(3))


def _far_mode(share, distance):
    base = flows.MixtureOfNormals(2, 2)
    base.loc[...] = jnp.array([[0.0, 0.0], [distance, 0.0]])
    base.log_scale[...] = jnp.zeros((2, 2))
    base.logits[...] = jnp.log(jnp.array([1 - share, share]))
    return flows.Flow(base, flows.bijectors.Reverse(2))


@pytest.mark.parametrize(
    ("case", "named"),
    [
        (lambda: _student_t(2.5), True),
        (lambda: _student_t(5.0), False),
        (lambda: _far_mode(0.003, 30.0), False),  # heavy, but known
    ],
    ids=["t(2.5)", "t(5)", "far mode"],
)
def test_a_variance_that_rests_on_few_draws_is_named(case, named):
    """Of q that is the target: the tail by itself is no flaw of q, which training would mend."""
    flow = case()
    exact = jax.tree_util.Partial(lambda x: flow.log_prob(x))
    for seed in range(3):
        diagnostics = judge(flow, exact, jax.random.key(seed), 128)
        assert named == any("of a variance rests" in reason for reason in diagnostics.reasons)
        assert dataclasses.replace(diagnostics, sd_shift=0.0).exact


@pytest.mark.parametrize(("far", "named"), [(9.0, True), (0.5, False)], ids=["stray", "near"])
def test_stray_draws_that_make_a_variance_of_a_parameter_are_named(far, named):
    """Two in a thousand draws at 9 deviations are little, and all that is seen of their exp."""
    flow = _far_mode(0.002, far)

    def model():
        numpyro.sample("scale", numpyro.distributions.LogNormal(0.0, 1.0))
        numpyro.sample("place", numpyro.distributions.Normal(0.0, 1.0))

    made = flows.targets.from_numpyro(model)
    assert made.names == ("place", "scale")  # the second coordinate is the log of the scale
    of_model = judging.judge(flow, made, KEY, 128)
    assert named == any("next to none make" in reason for reason in of_model.reasons)
    plain = judge(flow, made.log_density, KEY, 128)
    assert not any("next to none make" in reason for reason in plain.reasons)
    assert of_model.stray_share >= plain.stray_share


def test_parameters_that_overflow_are_stray_and_those_that_are_nan_do_not_count():
    """One of a thousand draws, of which the target has nothing."""
    normal = np.random.default_rng(0).normal(size=(1000, 1))
    log_p = np.zeros(1000)
    log_p[0] = -50.0
    draws = WeightedDraws(normal, log_p, np.zeros(1000), np.zeros(1000))
    assert stray_share(normal, draws, 0.0) < 0.02
    for value, share in ((np.inf, 0.999), (np.nan, 0.0)):  # the others are off the mean then
        parameters = normal.copy()
        parameters[0] = value
        np.testing.assert_allclose(stray_share(parameters, draws, 0.0), share, atol=1e-6)


@pytest.mark.parametrize("stage", ["ELBO", "forward KL"])
def test_ctrl_c_ends_all_stages(monkeypatch, stage):
    """No other stage begins, and the result says that it was interrupted."""
    train, begun = stages.train, []

    def interrupted(*arguments, description, **options):
        begun.append(description)
        result = train(*arguments, description=description, **options)
        reason = "interrupted" if description == stage else result.stop_reason
        return dataclasses.replace(result, stop_reason=reason)

    monkeypatch.setattr(stages, "train", interrupted)
    target = lambda x: -jnp.sum(jnp.log1p(x**2 / 3)) * 2
    posterior = fitted(target, flow=wide_flow(), start=None, num_steps=5)
    assert posterior.stop_reason == "interrupted"
    assert begun[-1] == stage


def test_the_error_of_the_evidence_covers_it():
    """Also where the control variate takes most of it away."""
    flow = wide_flow()
    target = jax.tree_util.Partial(lambda x: jax.scipy.stats.norm.logpdf(x, 0.1, 1.1).sum())
    errors = []
    for seed in range(100):
        evidence = judge(flow, target, jax.random.key(seed), 128).log_evidence
        errors.append(float(evidence.value) / float(evidence.standard_error))
        assert evidence.standard_error < 0.003
    assert abs(np.mean(np.abs(errors) < 1.96) - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 100)


def test_a_deviation_is_no_longer_than_the_density_falls():
    """On a ring the curvature along it is none."""
    ring = jax.tree_util.Partial(lambda x: -0.5 * ((jnp.linalg.norm(x) - 5.0) / 0.5) ** 2)
    fits = laplace_fits(ring, jnp.array([[4.0, 0.0], [0.0, -3.0]]))
    for tril in np.asarray(fits.scale_tril):
        short, long = np.sort(np.linalg.svd(tril, compute_uv=False))
        assert short == pytest.approx(0.5, rel=0.05)
        assert 0.7 < long < 5


def test_where_a_climb_ends_between_two_modes_there_is_none():
    between = jax.tree_util.Partial(
        lambda x: jnp.logaddexp(*(-0.5 * jnp.sum((x - m) ** 2) for m in (-3.0, 3.0)))
    )
    fits = laplace_fits(between, jnp.array([[0.0, 0.0], [2.0, 3.0]]))
    np.testing.assert_array_equal(np.isfinite(fits.log_mass), [False, True])


def two_scales(share, distance):
    """A wide normal in four dimensions, and a narrow one that hides beside it."""

    def target(x):
        wide = jax.scipy.stats.norm.logpdf(x, -distance, 1.5).sum()
        narrow = jax.scipy.stats.norm.logpdf(x, distance, 0.2).sum()
        return jnp.logaddexp(jnp.log(1 - share) + wide, jnp.log(share) + narrow)

    return target


@pytest.mark.slow
def test_a_narrow_mode_is_found():
    posterior = fitted(two_scales(0.3, 2.5), event_size=4, num_steps=20)
    assert posterior.diagnostics.trustworthy, posterior.diagnostics
    assert abs(posterior.diagnostics.log_evidence.value) < 0.02


@pytest.mark.slow
def test_training_begins_again_with_the_modes_that_were_lost(monkeypatch):
    find, calls = starts._mixture_of_modes, []

    def blind_at_first(*arguments):
        calls.append(arguments)
        return None if len(calls) == 1 else find(*arguments)

    monkeypatch.setattr(starts, "_mixture_of_modes", blind_at_first)
    posterior = fitted(two_scales(0.3, 2.5), event_size=4, num_steps=20)
    assert len(calls) == 2
    assert posterior.diagnostics.lost_modes == ()
    assert posterior.diagnostics.trustworthy, posterior.diagnostics

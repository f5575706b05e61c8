"""Ensembles: the mixture of flows fitted to shares of the rows."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import perturbed, skewed_data

import flows
from flows import supports
from flows.density.ensemble import _widths
from flows.density.repeats import jitter_of

KEY = jax.random.key(0)
OPTIONS = {"key": KEY, "progress": False}


def member(seed, **options):
    options = {"num_layers": 2, "hidden_sizes": (8,), "permutation": "random"} | options
    return perturbed(flows.maf(2, rngs=nnx.Rngs(seed), **options), seed)


def member_of(rngs):
    return flows.maf(2, num_layers=1, rngs=rngs)


def test_density_is_the_mean_of_the_densities():
    members = [member(seed) for seed in range(3)]
    ensemble = flows.Ensemble(members)
    x = jax.random.normal(KEY, (50, 2))
    expected = np.log(np.mean([np.exp(flow.log_prob(x)) for flow in members], axis=0))
    np.testing.assert_allclose(ensemble.log_prob(x), expected, atol=1e-5)
    for mine, theirs in zip(ensemble.members, members, strict=True):
        np.testing.assert_allclose(mine.log_prob(x), theirs.log_prob(x), atol=1e-5)


def test_draws_come_from_all_members_in_equal_shares_and_independently():
    members = [flows.DiagonalNormal(1) for _ in range(4)]
    for i, base in enumerate(members):
        base.loc[...] = jnp.array([10.0 * i])
    identity = flows.bijectors.Elementwise(1)
    ensemble = flows.Ensemble([flows.Flow(base, identity) for base in members])
    draws = np.asarray(ensemble.sample(seed=KEY, sample_shape=(500, 40)))[..., 0]
    share = np.stack([(np.round(draws / 10) == i).sum(axis=1) for i in range(4)])
    assert (share.sum(axis=0) == 40).all()
    np.testing.assert_allclose(share.mean(axis=1), 10, atol=4 * np.sqrt(7.5 / 500))
    assert abs(share[0].var() - 7.5) < 2  # as of independent draws
    assert len(np.unique(draws)) > 0.99 * draws.size
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.2
    assert abs((draws - 10 * np.round(draws / 10)).std() - 1) < 0.05


@pytest.mark.slow
def test_an_ensemble_is_distilled():
    real = flows.Ensemble([member(seed) for seed in range(2)])
    report = flows.distill(real, key=KEY, num_steps=500, progress=False).report
    assert report.kl_teacher_student.value < 0.2


@pytest.mark.parametrize("batch", [(), (7,)])
def test_with_a_context(batch):
    ensemble = flows.Ensemble([member(seed, context_size=3) for seed in range(3)])
    assert ensemble.context_size == 3
    with pytest.raises(ValueError, match="context is missing"):
        ensemble.log_prob(jnp.zeros(2))
    bound = ensemble.condition(jax.random.normal(KEY, (*batch, 3)))
    assert bound.batch_shape == batch
    x, log_prob = bound.sample_and_log_prob(seed=KEY, sample_shape=(5,))
    assert x.shape == (5, *batch, 2)
    np.testing.assert_allclose(bound.log_prob(x), log_prob, rtol=1e-5)


def test_files_and_divergences(tmp_path):
    options = {"support": [supports.positive, supports.integers(0)]}
    ensemble = flows.Ensemble([member(seed, **options) for seed in range(2)])
    flows.save(tmp_path / "ensemble.npz", ensemble)
    loaded = flows.load(tmp_path / "ensemble.npz")
    x = ensemble.sample(seed=KEY, sample_shape=(20,))
    supports.require_inside("draws", x, ensemble.support)
    np.testing.assert_array_equal(loaded.log_prob(x), ensemble.log_prob(x))
    real = flows.Ensemble([member(seed) for seed in range(2)])
    assert flows.divergences.kl(real, real.members[0], key=KEY).value > 0
    with pytest.raises(ValueError, match="p and q must be over the same things"):
        flows.divergences.kl(real, ensemble, key=KEY)


def test_gradients_of_divergences_follow_the_score():
    """d KL / d loc of one of two normals, against quadrature."""
    target = flows.StandardNormal(1)

    def two_normals(loc):
        bases = [flows.DiagonalNormal(1) for _ in range(2)]
        for base, value in zip(bases, loc, strict=True):
            base.loc[...] = value[None]
        return flows.Ensemble([flows.Flow(b, flows.bijectors.Elementwise(1)) for b in bases])

    def by_draws(loc):
        return flows.divergences.kl(two_normals(loc), target, key=KEY, num_samples=100_000).value

    def exact(loc):
        grid = jnp.linspace(-10, 10, 4001)[:, None]
        log_p = two_normals(loc).log_prob(grid)
        return (jnp.exp(log_p) * (log_p - target.log_prob(grid))).sum() * 20 / 4000

    loc = jnp.array([-0.5, 1.5])
    found, wanted = (jax.jit(jax.grad(f))(loc) for f in (by_draws, exact))
    np.testing.assert_allclose(found, wanted, atol=0.03)


@pytest.mark.slow
def test_fit_ensemble_beats_one_fit():
    x = np.random.default_rng(0).normal(size=(2200, 8)) ** 3  # too few rows for the network
    x, test = x[:200], x[200:]
    make = lambda rngs: flows.maf(
        8, num_layers=2, permutation="random", standardize_with=x, rngs=rngs
    )
    options = OPTIONS | {"max_epochs": 10, "batch_size": 32}
    result = flows.fit_ensemble(make, x, num_members=4, **options)
    one = flows.fit(make(nnx.Rngs(0)), x, **options)
    assert result.flow.log_prob(test).mean() > one.flow.log_prob(test).mean() + 0.3
    assert result.stop_reason in ("finished", "patience")
    assert len(result.history["validation"]) == 40


def test_fit_ensemble_of_a_conditional_flow_goes_on(tmp_path):
    x, c = skewed_data(200), np.ones((200, 1)) + np.arange(200)[:, None] % 2
    make = lambda rngs: flows.maf(2, num_layers=1, context_size=1, rngs=rngs)
    options = OPTIONS | {
        "context": c, "weights": np.arange(200.0), "num_members": 2, "max_epochs": 2,
        "checkpoint_dir": tmp_path,
    }  # fmt: skip
    first = flows.fit_ensemble(make, x, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["member_0", "member_1"]
    second = flows.fit_ensemble(make, x, **options)
    np.testing.assert_array_equal(first.losses, second.losses)


def test_jitter_is_in_standard_deviations_on_the_real_line():
    """A density fitted to rows with noise of sd 0.5 is that of the sum."""
    rng = np.random.default_rng(0)
    x = np.stack([1e3 + 100 * rng.normal(size=4000), np.exp(0.1 * rng.normal(size=4000))], axis=1)
    columns = [supports.real, supports.positive]
    flow = flows.maf(2, num_layers=1, support=columns, standardize_with=x, rngs=nnx.Rngs(0))
    result = flows.fit(flow, x, jitter=0.5, max_epochs=30, validation=None, **OPTIONS)
    draws = np.array(result.flow.sample(seed=KEY, sample_shape=(20_000,)))
    np.testing.assert_allclose(draws[:, 0].std(), 100 * 1.25**0.5, rtol=0.03)
    np.testing.assert_allclose(np.log(draws[:, 1]).std(), 0.1 * 1.25**0.5, rtol=0.03)


def test_jitter_of_angles_and_of_weighted_rows():
    angles = np.random.default_rng(0).normal(0, 0.05, (500, 1))
    columns = (supports.circle(),)
    for turn in (0.0, np.pi):
        scale = jitter_of(0.1, ((angles + turn) % (2 * np.pi)).astype(np.float32), columns)
        np.testing.assert_allclose(scale, 0.005, rtol=0.1)
    x = np.random.default_rng(0).normal(size=(300, 2))
    x[:5] = 1e4
    scale = jitter_of(0.1, x, None, np.r_[np.zeros(5), np.ones(295)])
    np.testing.assert_allclose(scale, 0.1, rtol=0.1)


def test_what_is_told_of_all_rows():
    x = np.repeat(np.random.default_rng(0).normal(size=(60, 2)), 3, axis=0)
    options = OPTIONS | {"num_members": 2, "max_epochs": 1, "jitter": None}
    with pytest.warns(UserWarning, match="120 of the 180 rows of x repeat others"):
        flows.fit_ensemble(member_of, x, **options)
    x = np.random.default_rng(0).integers(0, 6, (90, 2)).astype(float)
    x[7, 0] = 2.5
    np.testing.assert_array_equal(_widths(x, member(0)), [0.5, 1.0])
    flows.fit_ensemble(member_of, x, dequantize=True, **options)


def test_an_interrupted_member_has_no_share():
    started = []

    def make(rngs):
        started.append(1)
        return member(len(started))

    def stop_the_third(state):
        if len(started) == 3:
            signal.raise_signal(signal.SIGINT)

    options = OPTIONS | {"num_members": 4, "max_epochs": 3, "callback": stop_the_third}
    result = flows.fit_ensemble(make, skewed_data(300), **options)
    assert result.flow.num_members == 2
    assert result.stop_reason == "interrupted"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: flows.Ensemble([]), ValueError, "members must be flows, got none"),
        (lambda: flows.Ensemble([3]), TypeError, r"members\[0\] must be a flows.Flow"),
        (
            lambda: flows.Ensemble([member(0), member(0, num_layers=1)]),
            ValueError,
            "members must be made by one and the same call",
        ),
        (
            lambda: flows.fit_ensemble(member, np.zeros((3, 2)), **OPTIONS),
            ValueError,
            "num_members must be from 2 to the 3 rows, got 10",
        ),
        (
            lambda: flows.fit_ensemble(member, iter([]), **OPTIONS),
            ValueError,
            "x must be in memory",
        ),
        (
            lambda: flows.fit_ensemble(member, np.zeros((30, 2)), validation=0.1, **OPTIONS),
            TypeError,
            "validation is no argument",
        ),
        (
            lambda: flows.fit_ensemble(
                member, np.zeros((30, 2)), context=np.zeros((3, 1)), **OPTIONS
            ),
            ValueError,
            "context has 3 rows and x has 30",
        ),
        (
            lambda: flows.fit_ensemble(lambda rngs: 3, np.zeros((30, 2)), **OPTIONS),
            TypeError,
            "make_flow.* must be a flows.Flow",
        ),
        (
            lambda: flows.fit_ensemble(member(0), np.zeros((30, 2)), **OPTIONS),
            TypeError,
            "make_flow must make a new flow for each member, .* got a Flow",
        ),
        (
            lambda: flows.fit(member(0), np.eye(2)[[0, 1] * 9], jitter=-1.0, **OPTIONS),
            ValueError,
            "jitter must be positive",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_ensemble_on_the_real_line_is_what_its_support_is_the_image_of():
    members = [
        perturbed(flows.maf(2, num_layers=1, support=supports.positive, rngs=nnx.Rngs(i)))
        for i in range(3)
    ]
    ensemble = flows.Ensemble(members)
    u = np.random.default_rng(0).normal(size=(20, 2))
    x = np.exp(u)  # log|det dx/du| is the sum of u
    expected = ensemble.log_prob(x) + u.sum(axis=1)
    np.testing.assert_allclose(ensemble.unconstrained().log_prob(u), expected, rtol=1e-4, atol=1e-4)

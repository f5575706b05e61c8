"""What a student may minimise, and what is said of it beside its teacher."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import perturbed

import flows
from flows.distillation import baseline, one_sided, stages, students
from flows.distillation.objectives import POLISH
from flows.distillation.regions import lost, region_shares

KEY = jax.random.key(0)
GRID = jnp.linspace(-12.0, 12.0, 5_001)
CENTRES = 3.0 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
SHARES = np.array([0.94, 0.03, 0.02, 0.01])


def maf(event_size=2, **options):
    arguments = {"num_layers": 2, "hidden_sizes": (16,), "rngs": nnx.Rngs(0)} | options
    return perturbed(flows.maf(event_size, **arguments))


def normal(location, log_scale):
    """N(location, exp(2 log_scale)) as a flow."""
    affine = flows.bijectors.Elementwise(1, flows.bijectors.Affine(max_log_scale=1e9))
    affine.params = nnx.Param(jnp.array([[location, log_scale]]))
    return flows.Flow(flows.StandardNormal(1), affine)


def by_quadrature(name, teacher, student):
    """The divergence itself, on a grid."""
    log_t, log_s = (flow.log_prob(GRID[:, None]) for flow in (teacher, student))
    log_m = jnp.logaddexp(log_t, log_s) - jnp.log(2.0)
    mean = lambda log_p, values: jnp.trapezoid(jnp.exp(log_p) * values, GRID)
    return {
        "path": mean(log_s, log_s - log_t),
        "forward": mean(log_t, -log_s),  # less a constant
        "jeffreys": mean(log_t, log_t - log_s) + mean(log_s, log_s - log_t),
        "js": (mean(log_t, log_t - log_m) + mean(log_s, log_s - log_m)) / 2,
    }[name]


@pytest.mark.parametrize("name", POLISH)
def test_objectives_have_the_value_and_the_gradient_of_their_divergence(name):
    num_blocks, size = 40, 2000
    with jax.enable_x64(True):
        teacher = normal(0.5, 0.2)
        graphdef, params = nnx.split(normal(-0.4, -0.3))
        x = teacher.sample(seed=KEY, sample_shape=(num_blocks, size))

        def of_block(params, x, key):
            student = nnx.merge(graphdef, params)
            return POLISH[name](teacher, student, (x, None, None), key).mean()

        of_blocks = jax.vmap(jax.value_and_grad(of_block), in_axes=(None, 0, 0))
        drawn = jax.jit(of_blocks)(params, x, jax.random.split(jax.random.key(1), num_blocks))
        exact = jax.value_and_grad(
            lambda params: by_quadrature(name, teacher, nnx.merge(graphdef, params))
        )(params)
        for draws, value in zip(jax.tree.leaves(drawn), jax.tree.leaves(exact), strict=True):
            error = draws.std(axis=0, ddof=1) / num_blocks**0.5
            assert (error < 0.05 * jnp.abs(value).max()).all()  # so that it can tell
            assert (jnp.abs(draws.mean(axis=0) - value) < 4 * error).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", POLISH)
def test_the_polish_minimises_what_is_asked_for(name, monkeypatch):
    monkeypatch.setattr(stages, "CLOSE", 0.0)
    teacher = maf(num_layers=3)
    own = flows.iaf_like(teacher, num_passes=0, rngs=nnx.Rngs(1))
    run = lambda num_steps: flows.distill(
        teacher, own, objective=name, key=KEY, num_steps=num_steps, progress=False
    )
    short, long = run(50), run(1500)
    assert list(long.history) == ["warm_start", "polish"]
    of = {"path": "kl_student_teacher", "forward": "kl_teacher_student", "js": "jensen_shannon"}
    before, after = (getattr(r.report, of.get(name, "jeffreys")).value for r in (short, long))
    assert after < 0.1 * before


def mixture(rng, shares, n=10_000):
    return CENTRES[rng.choice(4, size=n, p=shares)] + 0.3 * rng.normal(size=(n, 2))


@pytest.mark.parametrize(
    ("shares", "missing"),
    [(SHARES, 0.0), ([0.94, 0.03, 0.03, 0.0], 0.01), ([0.955, 0.005, 0.02, 0.02], 0.03)],
    ids=["all", "one lost", "one short"],
)
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_regions_where_a_student_has_no_mass(shares, missing, scale):
    rng = np.random.default_rng(0)
    of_teacher = 1e3 + scale * mixture(rng, SHARES)
    of_student = 1e3 + scale * mixture(rng, shares)
    of_student[:5] = np.nan
    found = region_shares(of_teacher, of_student)
    assert found.shape == (50, 2)
    np.testing.assert_allclose(found.sum(axis=0), [1.0, 0.9995])
    assert (np.diff(found[:, 0]) <= 0).all()
    gone = lost(found)[:, 0].sum()
    assert gone == 0 if missing == 0 else abs(gone - missing) < 0.5 * missing


@pytest.mark.parametrize(("event_size", "share"), [(1, 0.05), (20, 0.05), (100, 0.3), (300, 0.5)])
@pytest.mark.parametrize("far", [8.0, 50.0])
def test_a_mode_that_is_lost_among_many_columns(event_size, share, far):
    rng = np.random.default_rng(0)
    normal = lambda: rng.normal(size=(10_000, event_size))
    of_teacher = normal()
    of_teacher[:, 0] += far * (rng.random(10_000) < share)
    gone = lost(region_shares(of_teacher, normal()))[:, 0].sum()
    assert 0.7 * share < gone < 1.2 * share
    assert not len(lost(region_shares(normal(), normal())))


def test_regions_of_draws_without_any():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10_000, 3))
    assert region_shares(np.full_like(x, np.nan), x).shape == (0, 2)
    assert region_shares(x, np.full_like(x, np.nan)).shape == (0, 2)
    equal = region_shares(np.ones_like(x), np.ones_like(x))
    assert len(lost(equal)) == 0
    far = region_shares(x, 1e30 * x)
    assert lost(far)[:, 0].sum() > 0.5


def test_a_lost_region_and_a_better_baseline_are_reasons():
    report = flows.distill(maf(), key=KEY, num_steps=2, batch_size=32, progress=False).report
    assert "most different of 50 regions" in str(report)
    assert "baseline" not in str(report)
    assert np.asarray(json.loads(json.dumps(report.to_dict()))["region_shares"]).shape == (50, 2)
    assert not any("its draws are where" in reason for reason in report._reasons())
    shares = report.region_shares.copy()
    shares[:2, 1] = 0.001
    lossy = dataclasses.replace(report, region_shares=shares)
    expected = f"not safe: 0.2% of its draws are where {shares[:2, 0].sum():.1%} of the teacher's"
    assert expected in lossy.verdict
    nll = flows.divergences.Estimate.from_draws(jnp.array([1.0, 1.1]))
    infinite = (-jnp.inf, True), (jnp.inf, False), (jnp.nan, False)
    for gap, is_reason in ((-0.3, True), (-0.04, False), (0.3, False), *infinite):
        draws = gap + 0.001 * jnp.array([1.0, -1.0])
        other = dataclasses.replace(
            report, nll_baseline=nll, baseline_gap=flows.divergences.Estimate.from_draws(draws)
        )
        assert "NLL of one without the teacher" in str(other)
        assert ("without the teacher, is" in other.verdict) == is_reason
        json.dumps(other.to_dict(), allow_nan=False)


def test_a_student_without_its_teacher_is_fitted_in_as_many_steps(tmp_path):
    """To what is taught badly: the teacher is off by 2, the data are not."""
    x = 2.0 + np.random.default_rng(0).normal(size=(4000, 2))
    options = {"baseline": True, "key": KEY, "progress": False}
    run = lambda: (
        flows.distill(
            maf(num_layers=1),
            data=x,
            num_steps=800,
            batch_size=64,
            checkpoint_dir=tmp_path,
            **options,
        ).report
    )
    report = run()
    entropy = np.log(2 * np.pi * np.e)
    assert abs(report.nll_baseline.value - entropy) < 5 * report.nll_baseline.standard_error + 0.1
    np.testing.assert_allclose(
        report.baseline_gap.value, report.nll_baseline.value - report.nll_student.value, atol=1e-5
    )
    assert report.nll_student.num_samples == 400  # a tenth is scored
    assert "maximum likelihood on data, without the teacher, is" in report.verdict
    assert run().nll_baseline.value == report.nll_baseline.value  # resumed at its end


@pytest.mark.parametrize(
    ("num_rows", "batch_size", "num_epochs"), [(100, 64, 50), (1000, 64, 6), (10_000, 64, 1)]
)
def test_steps_are_counted_in_whole_epochs(num_rows, batch_size, num_epochs, monkeypatch):
    seen = {}
    monkeypatch.setattr(one_sided, "fit", lambda *_, **options: seen.update(options))
    x = np.zeros((num_rows, 2))
    options = {"num_steps": 100, "batch_size": batch_size}
    one_sided.by_likelihood(None, x, None, "auto", **options)
    assert (seen["max_epochs"], seen["batch_size"]) == (num_epochs, 64)
    one_sided.by_likelihood(None, x[:20], None, x, **options)
    assert seen["batch_size"] == 20


@pytest.mark.parametrize(
    ("way", "match"),
    [
        ("constant", "x is constant in column 1"),
        ("error", "boom"),
        pytest.param("interrupted", "interrupted", marks=pytest.mark.slow),
    ],
)
def test_a_baseline_that_fails_loses_no_report(way, match, monkeypatch):
    def by_likelihood(*arguments, **options):
        if way == "error":
            raise RuntimeError("boom")
        run = one_sided.by_likelihood(*arguments, **options)
        return dataclasses.replace(run, stop_reason="interrupted") if way != "constant" else run

    monkeypatch.setattr(baseline, "by_likelihood", by_likelihood)
    x = np.random.default_rng(0).normal(size=(300, 2))
    x[:, 1] *= way != "constant"
    with pytest.warns(UserWarning, match=f"no fit without the teacher to compare with: .*{match}"):
        report = flows.distill(
            maf(), data=x, baseline=True, key=KEY, num_steps=2, batch_size=32, progress=False
        ).report
    assert report.nll_baseline is None
    assert np.isfinite(report.nll_student.value)


def test_what_is_fitted_without_the_teacher_has_none_of_its_networks():
    teacher = maf()
    fresh = students.untaught(flows.iaf_like(teacher, rngs=nnx.Rngs(0)), teacher, nnx.Rngs(1))
    assert "Unrolled" not in str(fresh)
    own = flows.real_nvp(2, num_layers=1, hidden_sizes=(4,), rngs=nnx.Rngs(0))
    assert students.untaught(own, teacher, nnx.Rngs(1)) is own


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"context_size": 1},
        {"support": flows.supports.positive},
        {"support": [flows.supports.integers(0, 9), flows.supports.real]},
        {"support": flows.supports.circle(1.0)},
    ],
    ids=["context", "positive", "integers", "circle"],
)
@pytest.mark.parametrize("with_data", [True, False])
def test_every_kind_of_student_is_fitted_without_its_teacher(options, with_data):
    make = flows.ncsf if "circle" in str(options) else flows.maf
    options = {"num_layers": 2, "hidden_sizes": (16,), "rngs": nnx.Rngs(0)} | options
    teacher = perturbed(make(2, **options))
    context = jax.random.normal(KEY, (500, 1)) if "context_size" in options else None
    bound = teacher if context is None else teacher.condition(context)
    x = bound.sample(seed=KEY, sample_shape=() if context is not None else (500,))
    data = x if context is None else (x, context)
    report = flows.distill(
        teacher, data=data if with_data or context is not None else None, baseline=True, key=KEY,
        num_steps=600, batch_size=64, progress=False,
    ).report  # fmt: skip
    assert report.held_out == ("data" if with_data or context is not None else "teacher draws")
    assert np.isfinite(report.nll_baseline.value)
    assert abs(report.nll_baseline.value - report.nll_teacher.value) < 1.0


@pytest.mark.parametrize("ends", [KeyboardInterrupt, RuntimeError])
def test_what_ends_the_report_has_the_student(ends, monkeypatch):
    def compare(*_):
        raise ends

    monkeypatch.setattr(sys.modules["flows.distillation.distill"], "compare", compare)
    with pytest.raises(ends) as info:
        flows.distill(maf(), key=KEY, num_steps=2, batch_size=32, progress=False)
    assert info.value.module.log_prob(jnp.zeros(2)).shape == ()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"objective": "kl"}, r"objective must be one of \['forward', 'jeffreys', 'js', 'path'\]"),
        ({"objective": "js", "teacher": np.ones((50, 2))}, "objective is for a teacher with draws"),
        ({"baseline": True, "teacher": np.ones((50, 2))}, "baseline is for a teacher with draws"),
        ({"baseline": True, "data": np.ones((19, 2))}, "data must have at least 20 rows"),
    ],
    ids=range(4),
)
def test_bad_input(arguments, match):
    with pytest.raises(ValueError, match=match):
        flows.distill(**({"teacher": maf(), "key": KEY, "num_steps": 4} | arguments))

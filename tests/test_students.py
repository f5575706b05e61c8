"""Students: made after their teacher, and of every kind of teacher."""

import functools
import itertools
import json

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import jacobians, normals, perturbed
from tensorflow_probability.substrates.jax import bijectors as tfb
from tensorflow_probability.substrates.jax import distributions as tfd

import flows
from flows.bijectors import TriangularAffine
from flows.conditioners import Unrolled
from flows.distillation import measures, stages, students
from flows.distillation.layerwise import is_layered
from flows.distillation.samples import compare_draws
from flows.distillation.teachers import (
    check_draws,
    columns_of,
    on_real_line,
    on_support,
    teacher_draws,
)
from flows.divergences.supports import ends

KEY = jax.random.key(0)
BATCHES = measures.BATCHES
ONE = jnp.ones(2)
FIVES = 5 + np.random.default_rng(0).normal(size=(900, 2)).astype(np.float32)
NORMAL = distrax.MultivariateNormalDiag(jnp.zeros(2), ONE)


def maf(event_size=4, **options):
    arguments = {"num_layers": 2, "hidden_sizes": (16,), "rngs": nnx.Rngs(0)} | options
    return perturbed(flows.maf(event_size, **arguments))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"context_size": 2},
        {"transformer": flows.bijectors.RationalQuadraticSpline(4)},
        {"support": flows.supports.positive, "permutation": "random"},
    ],
    ids=["plain", "context", "splines", "support"],
)
def test_with_as_many_passes_as_coordinates_a_student_is_its_teacher_untrained(options):
    teacher = maf(**options)
    exact = flows.iaf_like(teacher, num_passes=4, rngs=nnx.Rngs(1))
    rough = flows.iaf_like(teacher, num_passes=1, rngs=nnx.Rngs(1))
    if "context_size" in options:
        context = normals(3, 20, 2)
        teacher, exact, rough = (flow.condition(context) for flow in (teacher, exact, rough))
    x, log_prob = teacher.sample_and_log_prob(seed=KEY, sample_shape=(20,))
    y, log_q = exact.sample_and_log_prob(seed=KEY, sample_shape=(20,))
    np.testing.assert_allclose(y, x, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(log_q, log_prob, rtol=1e-3, atol=1e-3)
    z = rough.sample(seed=KEY, sample_shape=(20,))
    assert np.abs(z - x).max() > 0.05  # one pass is not enough, so the test tells them apart


@pytest.mark.slow
def test_a_student_that_is_not_close_or_safe_gets_more_passes(monkeypatch):
    passes = lambda flow: flow.bijector.layers.bijectors[0].conditioner.num_passes
    run = lambda: flows.distill(maf(), key=KEY, num_steps=2, batch_size=32, progress=False)
    monkeypatch.setattr(stages, "SAFE", 1e9)
    monkeypatch.setattr(stages, "CLOSE", 1e9)
    rough = run()
    assert passes(rough.student) == 2
    assert rough.report.worst_log_ratio > 0.1
    monkeypatch.setattr(stages, "SAFE", 0.1)
    result = run()  # with as many passes as coordinates it is the teacher, untrained
    assert passes(result.student) > 2
    assert result.report.worst_log_ratio < 0.1


@pytest.fixture
def speeds(monkeypatch):
    """The students that are tried draw 1, 1.5, 2, 3, 4 and 5 times as fast as their teacher."""
    speedups = itertools.cycle([1.0, 1.5, 2.0, 3.0, 4.0, 5.0])
    measured = lambda dists, context, key, batches: iter([(batches[0], [next(speedups), 1.0])])
    monkeypatch.setattr(students, "seconds_of_draws", measured)


@pytest.mark.parametrize(
    ("speedup", "passes", "widths"),
    [
        (0.9, 2, 0),
        (1.2, 1, 0),
        (2, 0, (128, 64)),
        (3, 0, (64, 32)),
        (4, 0, (32, 16)),
        (5, 0, (16, 8)),
    ],
)  # fmt: skip
def test_the_closest_of_the_students_that_are_as_fast(speeds, speedup, passes, widths):
    teacher = maf(hidden_sizes=(128, 64))
    student = students.fast_student(teacher, speedup, None, KEY, nnx.Rngs(0))
    network = student.bijector.layers.bijectors[0].conditioner
    if passes:
        assert network.num_passes == passes
    else:
        assert network.hidden_sizes == widths


def test_students_of_conditional_and_bounded_teachers_are_timed():
    """By the clock itself: any is a thousandth as fast, and none a million times."""
    teacher = maf(context_size=2, support=flows.supports.positive)
    student = students.fast_student(teacher, 1e-3, normals(3, 20, 2), KEY, nnx.Rngs(0))
    assert (student.context_size, student.support) == (2, teacher.support)
    with pytest.raises(ValueError, match="no student here draws more than"):
        students.fast_student(maf(2, hidden_sizes=(4,)), 1e6, None, KEY, nnx.Rngs(0))


def test_no_student_is_tried_twice():
    """Of 10 units there are 10, 8 and then no fewer; of one column a pass is all."""
    tried = lambda teacher: list(students._faster_and_faster(teacher))
    assert [options["num_passes"] for options in tried(maf(hidden_sizes=(10,)))] == [2, 1, 0, 0]
    assert [options["num_passes"] for options in tried(maf(1, hidden_sizes=(4,)))] == [1, 0]


@pytest.mark.slow
def test_a_student_as_fast_as_is_asked_for(speeds, monkeypatch):
    """It gets no passes beside; what none reaches is said before anything is trained."""
    monkeypatch.setattr(stages, "SAFE", 0.0)
    options = {"num_steps": 40, "batch_size": 32, "progress": False}
    result = flows.distill(maf(), speedup=1.5, key=KEY, **options)
    assert result.student.bijector.layers.bijectors[0].conditioner.num_passes == 1
    assert result.report.kl_teacher_student.value < 0.5
    with pytest.raises(ValueError, match=r"speedup is 9, and no student here draws more than 5 ti"):
        flows.distill(maf(), speedup=9, key=KEY, callback=pytest.fail, **options)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"speedup": 0}, ValueError, "speedup must be positive"),
        ({"speedup": "3"}, TypeError, "speedup must be a number"),
        ({"student": "coupling"}, ValueError, 'speedup is for student="iaf" of a teacher'),
        ({"teacher": NORMAL}, ValueError, "with layers as flows.maf makes them"),
        ({"teacher": FIVES}, ValueError, "with layers as flows.maf makes them"),
    ],
    ids=range(5),
)
def test_speedups_that_cannot_be(arguments, error, match):
    with pytest.raises(error, match=match):
        flows.distill(**({"teacher": maf(), "speedup": 2.0, "key": KEY} | arguments))


def test_the_network_of_the_teacher_is_copied_and_never_trained():
    teacher = maf()
    student = flows.iaf_like(teacher, rngs=nnx.Rngs(1))
    network = lambda flow: flow.bijector.layers.bijectors[0].conditioner.network
    theirs = teacher.bijector.layers.bijectors[0].bijector.conditioner
    same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, *map(jax.tree.leaves, (a, b)))
    same(network(student), theirs)
    x = teacher.sample(seed=KEY, sample_shape=(500,))
    trained = flows.fit(student, x, key=KEY, max_epochs=2, progress=False).flow
    same(network(trained), theirs)
    guess = lambda flow: flow.bijector.layers.bijectors[0].conditioner.guess.layers[0].kernel[...]
    assert np.abs(guess(trained) - guess(student)).max() > 0


@pytest.mark.parametrize(
    "transformer", [flows.bijectors.Affine(), flows.bijectors.CircularSpline(4)]
)
def test_an_unrolled_layer_is_triangular_and_inverted_exactly(transformer):
    with jax.enable_x64(True):
        layer = flows.bijectors.MaskedAutoregressive(
            5,
            transformer=transformer,
            conditioner=functools.partial(Unrolled, transformer=transformer, num_passes=2),
            hidden_sizes=(16,),
            rngs=nnx.Rngs(0),
        )
        network = layer.conditioner.network
        layer.conditioner.network = jax.tree.map(lambda a: a + 0.3 * normals(5, *a.shape), network)
        z = normals(1, 20, 5)
        y, log_det = layer.forward_and_log_det(z)
        assert np.abs(y - z).max() > 0.1
        back, inverse_log_det = layer.inverse_and_log_det(y)
        np.testing.assert_allclose(back, z, atol=1e-8)
        np.testing.assert_allclose(inverse_log_det, -log_det, atol=1e-8)
        jacobian = np.asarray(jacobians("forward", layer, z))
        np.testing.assert_allclose(np.triu(jacobian, 1), 0, atol=1e-12)
        np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], log_det, atol=1e-8)


@pytest.mark.slow
def test_a_smaller_flow_of_the_teachers_own_kind_learns_layer_by_layer():
    teacher = perturbed(flows.real_nvp(4, num_layers=4, hidden_sizes=(16,), rngs=nnx.Rngs(0)))
    # Layers are shuffled at random, by the key: a student has the orders of its teacher.
    student = flows.real_nvp(4, num_layers=4, hidden_sizes=(12,), rngs=nnx.Rngs(0))
    assert is_layered(teacher.bijector, student.bijector)
    before = flows.divergences.kl(student, teacher, key=KEY).value
    result = flows.distill(teacher, student, key=KEY, num_steps=800, progress=False)
    assert result.report.jeffreys.value < 0.1 * before


@pytest.mark.slow
@pytest.mark.runs_long
def test_a_maf_learns_from_a_maf_layer_by_layer():
    result = flows.distill(
        maf(), maf(hidden_sizes=(12,), rngs=nnx.Rngs(3)), key=KEY, num_steps=500, progress=False
    )
    assert isinstance(result.student.bijector.layers.bijectors[0], flows.bijectors.Inverse)
    assert result.report.jeffreys.value < 0.3


@pytest.mark.slow
@pytest.mark.runs_long
@pytest.mark.parametrize(
    "teacher",
    [
        tfd.Independent(tfd.Gamma(jnp.array([1.0, 2, 3, 0.5, 5, 6]), jnp.arange(1.0, 7)), 1),
        distrax.Independent(distrax.Beta(jnp.array([0.5, 2.0]), jnp.array([0.5, 3.0])), 1),
        tfd.Independent(tfd.Uniform(jnp.array([-1.0, 2.0]), jnp.array([1.0, 500.0])), 1),
        tfd.TransformedDistribution(
            tfd.MultivariateNormalTriL(jnp.zeros(2), jnp.array([[1.0, 0], [0.8, 0.3]])), tfb.Exp()
        ),
    ],
    ids=["gamma", "beta", "uniform", "lognormal"],
)
def test_bounded_teachers_are_learnt_on_the_real_line(teacher):
    report = flows.distill(teacher, key=KEY, num_steps=2000, progress=False).report
    assert report.kl_teacher_student.value < 0.05
    assert report.kl_student_teacher.value < 0.05
    assert np.isfinite(report.nll_teacher.value)
    assert report.num_non_finite == 0


@pytest.mark.slow
@pytest.mark.runs_long
def test_a_student_of_a_bounded_teacher_draws_within_its_bounds():
    teacher = tfd.Independent(tfd.Uniform(-ONE, 3 * ONE), 1)
    result = flows.distill(teacher, "coupling", key=KEY, num_steps=400, progress=False)
    x = result.student.sample(seed=KEY, sample_shape=(2000,))
    assert (x > -1).all()
    assert (x < 3).all()
    assert result.student.support == (flows.supports.interval(-1, 3),) * 2
    assert result.report.kl_teacher_student.value < 0.1


def test_bounds_that_are_known_are_not_looked_for():
    # Far up the real line that it is mapped to, the square of x is infinite in float32.
    teacher = tfd.Independent(tfd.Chi(0.05 * ONE), 1)
    columns = columns_of(teacher)
    source = on_real_line(teacher, columns)
    x = teacher_draws(source, None, KEY)[0]
    check_draws(source, x)
    with pytest.raises(ValueError, match="has no density beyond"):
        check_draws(teacher, on_support(columns, x))


def test_a_tfp_distribution_over_all_numbers_is_a_teacher():
    teacher = tfd.MultivariateNormalDiag(3 * ONE, ONE)
    small = flows.real_nvp(2, num_layers=2, standardize_with=FIVES - 2, rngs=nnx.Rngs(0))
    report = flows.distill(teacher, small, key=KEY, num_steps=20, progress=False).report
    assert report.kl_teacher_student.value < 0.05
    assert np.isfinite(report.worst_log_ratio)


@pytest.mark.parametrize(
    ("dist", "low", "high"),
    [
        (tfd.Independent(tfd.InverseGamma(ONE, ONE), 1), 0, np.inf),
        (tfd.Sample(tfd.Beta(1.0, 2.0), 2), 0, 1),
        (tfd.Independent(tfd.TruncatedNormal(ONE, 1.0, -1.0, 2.0), 1), -1, 2),
        (tfd.Pareto(2.0, 3 * ONE), 3, np.inf),
        (distrax.Transformed(NORMAL, distrax.Block(distrax.Sigmoid(), 1)), 0, 1),
        (
            distrax.Transformed(
                NORMAL,
                distrax.Block(
                    distrax.Chain([distrax.ScalarAffine(5.0, -1.0), distrax.Lambda(jnp.exp)]), 1
                ),
            ),
            -np.inf,
            5,
        ),
        (
            distrax.MixtureSameFamily(
                distrax.Categorical(probs=ONE / 2),
                distrax.Independent(distrax.Uniform(jnp.eye(2), 1 + 3 * jnp.ones((2, 2))), 1),
            ),
            0,
            4,
        ),
        (NORMAL, -np.inf, np.inf),
        (distrax.MultivariateNormalTri(jnp.zeros(2), jnp.eye(2)), -np.inf, np.inf),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "log_prob") else str(value),
)
def test_the_ends_of_distributions_are_known(dist, low, high):
    for end, value in zip(ends(dist), (low, high), strict=True):
        np.testing.assert_array_equal(end, [value, value])


POSITIVE = flows.real_nvp(2, num_layers=2, support=flows.supports.positive, rngs=nnx.Rngs(0))
RECIPROCALS = distrax.Transformed(  # of which nobody says that they are positive
    distrax.Independent(distrax.Gamma(ONE, ONE), 1),
    distrax.Block(distrax.Lambda(lambda x: 1 / x), 1),
)


class Partial(distrax.Distribution):
    """A normal around 5, of which only some is known."""

    def __init__(self, known):
        self.known = known

    event_shape = (2,)
    batch_shape = ()

    def _sample_n(self, key, n):
        if "draws" not in self.known:
            raise NotImplementedError
        return 5 + jax.random.normal(key, (n, 2))

    def log_prob(self, value):
        if "density" not in self.known:
            raise NotImplementedError
        return NORMAL.log_prob(value - 5)


@pytest.mark.slow
def test_a_teacher_of_draws_alone():
    small = flows.real_nvp(2, num_layers=2, standardize_with=FIVES, rngs=nnx.Rngs(0))
    result = flows.distill(Partial("draws"), small, key=KEY, num_steps=300, progress=False)
    assert flows.divergences.kl(result.student, Partial("density"), key=KEY).value < 0.01
    assert result.report.deploy
    assert "cannot be told apart" in str(result.report)
    json.dumps(result.report.to_dict())
    far = flows.real_nvp(2, num_layers=2, rngs=nnx.Rngs(0))
    untrained = flows.distill(FIVES, far, key=KEY, num_steps=2, learning_rate=1e-9, progress=False)
    assert not untrained.report.deploy
    assert "can be told from" in untrained.report.verdict
    few = flows.distill(FIVES[:30], far, key=KEY, num_steps=2, learning_rate=1e-9, progress=False)
    assert not few.report.deploy  # three rows tell nothing
    assert few.report.verdict.startswith("not known")


@pytest.mark.parametrize("kind", ["all", "some", "far"])
def test_draws_that_are_not_finite_lose_no_report(kind):
    loc = jnp.full(2, jnp.inf if kind == "all" else 0.0)
    scale = {"all": 1.0, "some": 3e38, "far": 1e30}[kind]
    student = flows.Flow(flows.StandardNormal(2), TriangularAffine(loc, scale * jnp.eye(2)))
    report = compare_draws(student, (FIVES[:300], None, None), KEY)
    number = report.num_non_finite
    assert {"all": number == 300, "some": 50 < number < 250, "far": number == 0}[kind]
    words = "not close" if kind == "far" else f"not safe: {number} draws are not finite"
    assert report.verdict.startswith(words)
    assert not report.deploy
    assert report.to_dict()["num_non_finite"] == number
    assert not report.energy_distance.value < 1e6
    str(report)


def test_contexts_far_from_zero_are_not_far_draws():
    student = flows.maf(2, context_size=1, standardize_with=(FIVES, None), rngs=nnx.Rngs(0))
    context = jnp.full((300, 1), 1e13)
    report = compare_draws(student, (jnp.asarray(FIVES[:300]), context, None), KEY)
    assert report.num_non_finite == 0


@pytest.mark.slow
@pytest.mark.runs_long
def test_conditional_draws_alone():
    rng = np.random.default_rng(0)
    context = rng.normal(size=(2000, 1))
    x = 3 * context + rng.normal(size=(2000, 2))
    result = flows.distill((x, context), "coupling", key=KEY, num_steps=300, progress=False)
    means = result.student.condition(jnp.full((4000, 1), 1.5)).sample(seed=KEY).mean(axis=0)
    np.testing.assert_allclose(means, 4.5, atol=0.3)


def test_a_teacher_of_a_density_alone():
    result = flows.distill(Partial("density"), key=KEY, num_steps=100, progress=False)
    assert result.report.trustworthy
    np.testing.assert_allclose(
        result.student.sample(seed=KEY, sample_shape=(4000,)).mean(0), 5, atol=0.1
    )
    flow = flows.real_nvp(2, num_layers=2, rngs=nnx.Rngs(0))
    of_function = flows.distill(
        lambda x: NORMAL.log_prob(x), flow, key=KEY, num_steps=50, progress=False
    )
    assert of_function.report.trustworthy


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"teacher": Partial("")}, ValueError, "teacher must have draws or a density"),
        ({"teacher": lambda x: x.sum()}, ValueError, "student must be a flow, such as"),
        ({"teacher": Partial("density"), "data": np.ones((5, 2))}, ValueError, "data is for a"),
        ({"teacher": np.ones(5)}, ValueError, r"teacher must have shape \[rows, columns\]"),
        ({"teacher": 3.0}, TypeError, "teacher must be a distrax or TFP distribution, draws of"),
        ({"teacher": RECIPROCALS}, ValueError, "has no density beyond .* in column 0: give a stu"),
        ({"teacher": tfd.Sample(tfd.Zipf(3.0), 2)}, ValueError, "teacher must be over real numb"),
        (
            {"teacher": NORMAL, "student": POSITIVE},
            ValueError,
            "the draws of teacher has .* values outside of their support",
        ),
        ({"teacher": Partial("density"), "student": "nsf"}, ValueError, "student must be one of"),
    ],
    ids=range(9),
)
def test_what_is_no_teacher_is_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        flows.distill(**{"key": KEY, "progress": False} | arguments)
    with pytest.raises(ValueError, match="num_passes must be at least 0, got -1"):
        flows.iaf_like(maf(), num_passes=-1, rngs=nnx.Rngs(0))


def test_the_report_agrees_with_the_divergences(monkeypatch):
    monkeypatch.setattr(measures, "BATCHES", BATCHES)
    teacher = maf(2, num_layers=1)
    student = flows.iaf_like(teacher, num_passes=0, hidden_sizes=(2,), rngs=nnx.Rngs(1))
    result = flows.distill(teacher, student, key=KEY, num_steps=2, progress=False)
    report, student = result.report, result.student
    at = {"key": jax.random.key(9), "num_samples": 100_000}
    for ours, theirs in [
        (report.kl_student_teacher, flows.divergences.kl(student, teacher, **at)),
        (report.kl_teacher_student, flows.divergences.kl(teacher, student, **at)),
        (report.jeffreys, flows.divergences.jeffreys(teacher, student, **at)),
        (report.jensen_shannon, flows.divergences.jensen_shannon(teacher, student, **at)),
    ]:
        error = np.hypot(ours.standard_error, theirs.standard_error)
        assert abs(ours.value - theirs.value) < 5 * error
        assert ours.value > 10 * error
    apart = flows.divergences.total_variation(teacher, student, **at)
    assert abs(report.accuracy.value - (1 + apart.value) / 2) < 5 * apart.standard_error
    assert report.worst_log_ratio == max(np.abs(ratios).max() for ratios in report.log_ratios)
    assert report.kl_student_teacher.value + report.kl_teacher_student.value > stages.CLOSE
    assert not report.deploy
    assert report.verdict.startswith("not close")
    assert [timing.num_draws for timing in report.timings] == [1, 1000, 100_000]
    numbers = json.loads(json.dumps(report.to_dict()))
    assert numbers["kl_student_teacher"]["value"] == float(report.kl_student_teacher.value)
    assert len(report.plot().axes) == 2

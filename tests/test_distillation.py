import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import perturbed
from tensorflow_probability.substrates.jax import distributions as tfd

import flows
from flows.bijectors import Inverse, MaskedAutoregressive
from flows.distillation import stages
from flows.distillation.layerwise import is_layered, matching_loss
from flows.distillation.students import has_maf_layers

KEY = jax.random.key(0)
COUPLING = flows.bijectors.Coupling(2, rngs=nnx.Rngs(0))


def teacher(**options):
    arguments = {"event_size": 2, "num_layers": 3, "hidden_sizes": (16,), "rngs": nnx.Rngs(0)}
    return perturbed(flows.maf(**(arguments | options)))


def monte_carlo_kl(p, q, n=50_000):
    x, log_p = p.sample_and_log_prob(seed=jax.random.key(5), sample_shape=(n,))
    ratio = np.asarray(log_p - q.log_prob(x), np.float64)
    return ratio.mean(), ratio.std() / np.sqrt(n)


def test_distil_maf_into_iaf():
    maf = teacher()
    points = maf.sample(seed=jax.random.key(3), sample_shape=(2000,))
    result = flows.distill(maf, data=points, key=KEY, num_steps=1500, progress=False)
    report = result.report
    assert str(result).startswith("DistillResult: ")
    assert str(result).endswith(f"\n{report}")
    for p, q, estimate in [
        (result.student, maf, report.kl_student_teacher),
        (maf, result.student, report.kl_teacher_student),
    ]:
        value, error = monte_carlo_kl(p, q)
        assert abs(estimate.value - value) < 5 * np.hypot(error, estimate.standard_error)
        assert value < 0.02
    gap = np.asarray(maf.log_prob(points) - result.student.log_prob(points))
    np.testing.assert_allclose(report.nll_gap.value, gap.mean(), atol=1e-4)
    np.testing.assert_allclose(report.nll_teacher.value, -maf.log_prob(points).mean(), rtol=1e-4)
    assert report.held_out == "data"
    assert report.seconds_teacher > 0
    assert report.seconds_student > 0
    assert result.history["warm_start"].shape == (1200,)
    assert "polish" not in result.history  # none was needed
    # The student is an IAF: its autoregressive layers run from noise to data.
    layer = result.student.bijector.layers.bijectors[0]
    assert isinstance(layer, MaskedAutoregressive)
    assert isinstance(maf.bijector.layers.bijectors[0], Inverse)


@pytest.mark.slow
@pytest.mark.runs_long
def test_all_four_modes_are_kept():
    rng = np.random.default_rng(0)
    centres = 3.0 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    x = centres[rng.integers(4, size=8000)] + 0.3 * rng.normal(size=(8000, 2))
    maf = flows.maf(2, num_layers=6, hidden_sizes=(32, 32), rngs=nnx.Rngs(0))
    maf = flows.fit(maf, x, key=KEY, max_epochs=40, progress=False).flow
    result = flows.distill(maf, key=KEY, num_steps=4000, progress=False)
    draws = np.asarray(result.student.sample(seed=KEY, sample_shape=(20_000,)))
    quadrants = np.bincount((draws[:, 0] > 0) * 2 + (draws[:, 1] > 0), minlength=4) / len(draws)
    np.testing.assert_allclose(quadrants, 0.25, atol=0.05)
    assert result.report.kl_teacher_student.value < 0.3
    assert result.report.held_out == "teacher draws"


@pytest.mark.slow
def test_conditional_distillation_in_raw_units():
    rng = np.random.default_rng(0)
    context = 50 + 7 * rng.normal(size=(3000, 1))
    scaled = (context - 50) / 7
    x = 100 + 20 * rng.normal(size=(3000, 2)) * np.exp(0.3 * scaled) + [[30, -10]] * scaled
    maf = teacher(context_size=1, standardize_with=(x, context))
    result = flows.distill(maf, data=(x, context), key=KEY, num_steps=2000, progress=False)
    assert result.report.kl_teacher_student.value < 0.05
    assert result.report.kl_student_teacher.value < 0.05
    one = jnp.array([56.0])
    value, _ = monte_carlo_kl(maf.condition(one), result.student.condition(one))
    assert value < 0.05
    assert np.median(result.history["warm_start"][-50:]) < 0.05  # the layers were matched


@pytest.mark.slow
def test_a_bound_teacher_gets_an_iaf_like_it():
    bound = teacher(context_size=1).condition(jnp.ones(1))
    result = flows.distill(bound, key=KEY, num_steps=400, batch_size=64, progress=False)
    layer = result.student.bijector.bijector.layers.bijectors[0]
    assert isinstance(layer, MaskedAutoregressive)
    assert result.report.kl_teacher_student.value < 0.01


@pytest.mark.slow
def test_layers_that_are_no_maf_are_copied():
    coupling = perturbed(COUPLING)
    mixed = flows.Flow(
        flows.StandardNormal(2), flows.bijectors.Chain([coupling, teacher().bijector])
    )
    like = flows.iaf_like(mixed, rngs=nnx.Rngs(0))
    x = jax.random.normal(KEY, (50, 2))
    np.testing.assert_array_equal(like.bijector.bijectors[0].forward(x), coupling.forward(x))
    result = flows.distill(mixed, like, key=KEY, num_steps=400, progress=False)
    assert result.report.kl_teacher_student.value < 0.01
    assert result.report.kl_student_teacher.value < 0.01


def test_a_polish_that_diverges_leaves_the_student_of_the_warm_start(monkeypatch):
    monkeypatch.setattr(stages, "POLISH_RATE", 1.0)
    maf = teacher()
    own = flows.iaf_like(maf, num_passes=0, hidden_sizes=(1,), rngs=nnx.Rngs(1))
    result = flows.distill(maf, own, key=KEY, num_steps=800, progress=False)
    assert np.mean(result.history["polish"][-20:]) > 2 * result.report.jeffreys.value
    assert result.report.kl_teacher_student.value < 0.3


def test_a_polish_that_is_never_finite_leaves_the_student_of_the_warm_start(monkeypatch):
    never = lambda teacher, student, batch, key: jnp.full(len(batch[0]), jnp.nan)
    monkeypatch.setitem(stages.POLISH, "jeffreys", never)
    monkeypatch.setattr(stages, "CLOSE", 0.0)
    maf = teacher()
    own = flows.iaf_like(maf, num_passes=0, rngs=nnx.Rngs(1))
    with pytest.warns(UserWarning, match="The student is that of the warm start"):
        result = flows.distill(maf, own, key=KEY, num_steps=500, progress=False)
    assert list(result.history) == ["warm_start"]
    assert result.report.kl_teacher_student.value < 0.1


@pytest.mark.parametrize(
    "make_teacher",
    [
        pytest.param(
            lambda: distrax.MultivariateNormalTri(
                jnp.array([5.0, 1.0]), jnp.array([[2.0, 0], [1.0, 0.1]])
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: perturbed(flows.real_nvp(2, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0))),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: perturbed(flows.ncsf(2, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0))),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["normal", "real_nvp", "ncsf"],
)
def test_other_teachers_are_learnt_from_their_draws(make_teacher):
    other = make_teacher()
    result = flows.distill(other, key=KEY, num_steps=300, batch_size=64, progress=False)
    assert result.report.kl_teacher_student.value < 0.1
    assert result.report.kl_student_teacher.value < 0.1


@pytest.mark.slow
def test_a_student_of_ones_own():
    maf = teacher()
    own = flows.real_nvp(2, num_layers=8, hidden_sizes=(32,), rngs=nnx.Rngs(1))
    result = flows.distill(maf, own, key=KEY, num_steps=1500, batch_size=64, progress=False)
    assert jax.tree.structure(result.student) == jax.tree.structure(own)
    assert result.report.kl_teacher_student.value < 0.1


@pytest.mark.parametrize("options", [{}, {"permutation": "random"}, {"base": flows.StudentT(2)}])
def test_matching_loss_walks_the_teacher_and_sees_differences(options):
    maf = teacher(**options)
    like = flows.iaf_like(maf, rngs=nnx.Rngs(1)).bijector
    assert is_layered(maf.bijector, like)
    x = maf.sample(seed=KEY, sample_shape=(50,))
    noise, loss = matching_loss(maf.bijector, like, x, None)
    np.testing.assert_allclose(noise, maf.bijector.inverse(x), atol=1e-5)
    assert loss.shape == (50,)
    assert (loss > 0).all()


def test_matching_loss_is_zero_where_the_layers_are_the_same_map():
    # With constant networks a MAF layer and an IAF layer are the same affine map.
    maf = flows.maf(2, num_layers=3, hidden_sizes=(4,), rngs=nnx.Rngs(0))
    iaf = flows.iaf_like(maf, num_passes=0, rngs=nnx.Rngs(1))
    constant = lambda b: jax.tree.map(
        lambda a: jnp.broadcast_to(0.1 * jnp.arange(a.shape[-1]), a.shape) * (a.ndim == 2), b
    )
    maf, iaf = constant(maf.bijector), constant(iaf.bijector)
    x = jax.random.normal(KEY, (50, 2))
    np.testing.assert_allclose(maf.inverse(x), iaf.inverse(x), atol=1e-6)
    assert np.abs(maf.inverse(x) - x).max() > 0.1
    np.testing.assert_allclose(matching_loss(maf, iaf, x, None)[1], 0, atol=1e-6)


def test_divergence_of_affine_maps_against_distrax():
    p, q = distrax.Normal(0.3, 0.5), distrax.Normal(-0.2, 1.7)
    affine = flows.bijectors.Affine(max_log_scale=1e9)
    params = jnp.array([[0.3, jnp.log(0.5)], [-0.2, jnp.log(1.7)]])
    np.testing.assert_allclose(
        affine.divergence(*params), p.kl_divergence(q) + q.kl_divergence(p), rtol=1e-5
    )
    by_quadrature = flows.bijectors.Transformer.divergence(affine, *params)
    np.testing.assert_allclose(by_quadrature, affine.divergence(*params), rtol=0.3)


def test_layouts_are_told_apart():
    maf = teacher().bijector
    iaf = lambda **options: (
        flows.iaf(**({"event_size": 2, "num_layers": 3, "rngs": nnx.Rngs(0)} | options)).bijector
    )
    assert is_layered(maf, iaf())
    assert is_layered(maf, maf)
    assert is_layered(iaf(), maf)
    assert not is_layered(maf, iaf(num_layers=4))
    assert not is_layered(maf, iaf(permutation="random"))
    assert not is_layered(flows.bijectors.Reverse(2), flows.bijectors.Reverse(2))
    coupling = lambda sizes: flows.bijectors.Coupling(3, hidden_sizes=sizes, rngs=nnx.Rngs(0))
    assert is_layered(coupling((8, 8)), coupling((4,)))
    assert not is_layered(coupling((8, 8)), flows.bijectors.Inverse(coupling((4,))))
    assert not is_layered(
        coupling((8, 8)), flows.bijectors.MaskedAutoregressive(3, rngs=nnx.Rngs(0))
    )
    x, c = np.random.default_rng(0).normal(size=(2, 50, 2))
    conditional = teacher(context_size=2, standardize_with=(x, c)).bijector
    assert is_layered(conditional, iaf(context_size=2, standardize_with=(x, c)))
    assert not is_layered(conditional, iaf(context_size=2, standardize_with=(x, 10 + 5 * c)))


def test_layouts_with_other_transformers_or_contexts_are_told_apart():
    affine = lambda bound: flows.bijectors.Affine(max_log_scale=bound)
    iaf = lambda **options: flows.iaf(2, num_layers=3, rngs=nnx.Rngs(0), **options).bijector
    narrow = teacher(transformer=affine(0.1)).bijector
    assert is_layered(narrow, iaf(transformer=affine(0.1)))
    assert not is_layered(narrow, iaf(transformer=affine(10.0)))
    assert not is_layered(teacher(context_size=2).bijector, iaf())


@pytest.mark.slow
def test_a_student_with_another_base_learns_from_draws():
    maf = teacher(base=flows.DiagonalNormal(2), num_layers=2)
    own = flows.iaf(2, num_layers=2, hidden_sizes=(16, 16), rngs=nnx.Rngs(1))
    result = flows.distill(maf, own, key=KEY, num_steps=800, batch_size=64, progress=False)
    assert result.report.kl_teacher_student.value < 0.05


@pytest.mark.parametrize(
    ("bijector", "has_twin"),
    [
        (lambda maf: maf, True),
        (lambda maf: flows.bijectors.Chain([flows.bijectors.Elementwise(2), maf]), True),
        (lambda maf: Inverse(maf), False),
        (lambda maf: flows.bijectors.Reverse(2), False),
        (lambda maf: flows.bijectors.Chain([maf, COUPLING]), True),
    ],
)  # fmt: skip
def test_which_teachers_can_be_copied(bijector, has_twin):
    maf = flows.Flow(flows.StandardNormal(2), bijector(teacher().bijector))
    assert has_maf_layers(maf) == has_twin
    if not has_twin:
        with pytest.raises(ValueError, match=r"teacher must have layers as flows\.maf"):
            flows.iaf_like(maf, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"teacher": "maf"}, TypeError, "teacher must be a distrax or TFP distribution"),
        ({"teacher": distrax.Normal(0.0, 1.0)}, ValueError, "teacher must have vector events"),
        (
            {"teacher": flows.maf(2, context_size=1, rngs=nnx.Rngs(0))},
            ValueError,
            "the context, is missing",
        ),
        ({"student": distrax.Normal(0.0, 1.0)}, TypeError, "student must be a flows.Flow"),
        ({"student": "maf"}, ValueError, r"student must be one of \['coupling', 'iaf'\]"),
        (
            {"student": flows.maf(2, support=flows.supports.positive, rngs=nnx.Rngs(0))},
            ValueError,
            r"student must be over what the teacher is over: .*support= \(real\)",
        ),
        (
            {"teacher": tfd.Dirichlet([1.0, 1.0, 1.0])},
            ValueError,
            "Dirichlet is over no product of intervals",
        ),
        (
            {"teacher": tfd.Independent(tfd.Poisson([1.0, 2.0]), 1)},
            ValueError,
            "teacher must be over real numbers, and .* is over integers",
        ),
        ({"student": flows.maf(3, rngs=nnx.Rngs(0))}, ValueError, "student has event size 3"),
        ({"data": np.ones((5, 3))}, ValueError, "data must have 2 columns"),
        ({"data": np.full((5, 2), np.nan)}, ValueError, "data has 10 non-finite"),
        (
            {
                "teacher": flows.maf(2, context_size=1, rngs=nnx.Rngs(0)),
                "data": (np.ones((5, 2)), np.ones((5, 1))),
            },
            ValueError,
            "data must have at least 20 rows",
        ),
        ({"data": (np.ones((5, 2)), np.ones((5, 1)))}, ValueError, "the context, was given"),
        ({"num_steps": 1}, ValueError, "num_steps must be at least 2"),
        (
            {"teacher": flows.ncsf(2, rngs=nnx.Rngs(0)), "student": flows.iaf(2, rngs=nnx.Rngs(0))},
            ValueError,
            "student must be over what the teacher is over",
        ),
        ({"key": 0}, TypeError, "key must be a JAX random key"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_input(arguments, error, match):
    arguments = {"teacher": teacher(), "key": KEY, "num_steps": 4, "progress": False} | arguments
    with pytest.raises(error, match=match):
        flows.distill(**arguments)


@pytest.mark.slow
def test_a_distillation_is_lengthened(tmp_path):
    maf = teacher()
    own = flows.iaf_like(maf, num_passes=0, rngs=nnx.Rngs(1))

    def run(num_steps):
        return flows.distill(
            maf, own, key=KEY, num_steps=num_steps, checkpoint_dir=tmp_path, progress=False
        )

    short, long = run(20), run(40)
    np.testing.assert_array_equal(long.losses[:16], short.losses[:16])
    assert [len(long.history[stage]) for stage in ("warm_start", "polish")] == [32, 8]
    np.testing.assert_array_equal(long.losses, np.concatenate(list(long.history.values())))
    np.testing.assert_array_equal(run(40).losses, long.losses)


@pytest.mark.slow
def test_the_options_of_training_are_those_of_fit():
    def losses(**options):
        options = {"key": KEY, "num_steps": 20, "progress": False} | options
        return flows.distill(maf, like, **options).history

    maf = teacher()
    like = flows.iaf_like(maf, num_passes=0, rngs=nnx.Rngs(1))

    default, same = losses(), losses(learning_rate=1e-2)
    slow = losses(learning_rate=1e-5)
    for stage, values in default.items():
        np.testing.assert_array_equal(same[stage], values)
        assert np.abs(slow[stage][-1] - values[-1]) > 1e-3
    own = flows.iaf(2, num_layers=2, hidden_sizes=(16,), rngs=nnx.Rngs(1))
    still = flows.distill(
        teacher(), own, key=KEY, num_steps=20, optimizer=optax.sgd(0.0), progress=False
    ).student
    jax.tree.map(np.testing.assert_array_equal, still, own)
    assert losses(batch_size=64)["polish"][0] != default["polish"][0]
    with pytest.raises(ValueError, match="learning_rate is that of the default optimizer"):
        losses(learning_rate=1e-2, optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match="batch_size must be at most 50000"):
        losses(batch_size=10**6)

"""The seam that families grow on: a transformer of one's own, of one file, goes everywhere."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import jacobians, normals, perturbed

import flows
from flows import bijectors as fb
from flows.conditioners import circle
from flows.distillation.layerwise import is_layered, matching_loss

KEY = jax.random.key(0)


class Sinh(fb.NumericInverse):
    """T(x) = x + e^a (sinh(x - b) + sinh(b)) - ..., with tails that Newton alone overshoots."""

    num_params = 2

    def forward_and_log_det(self, x, params):
        a, b = jnp.exp(params[..., 0]) - 1, params[..., 1]
        a = jnp.abs(a)
        return x + a * (jnp.sinh(x - b) + jnp.sinh(b)), jnp.log1p(a * jnp.cosh(x - b))


def compiled(transformer):
    """Its public methods, compiled, as in a layer."""
    names = "forward_and_log_det", "inverse_and_log_det", "divergence"
    return types.SimpleNamespace(**{n: jax.jit(getattr(transformer, n)) for n in names})


# A new transformer is one line here.
TRANSFORMERS = {
    "spline": fb.RationalQuadraticSpline(num_bins=5, bound=4.0),
    "circular": fb.CircularSpline(num_bins=5),
    "logistics": fb.MixtureOfLogistics(num_components=3),
    "composed": fb.Composed([fb.RationalQuadraticSpline(num_bins=5, bound=2.0), fb.Affine()]),
    "of one's own": Sinh(),
}
all_transformers = pytest.mark.parametrize(
    "transformer", TRANSFORMERS.values(), ids=TRANSFORMERS.keys()
)


@all_transformers
def test_parameters_0_are_the_identity(transformer):
    x = jnp.linspace(-6, 6, 101)
    params = np.zeros((101, transformer.num_params), np.float32)
    y, log_det = compiled(transformer).forward_and_log_det(x, params)
    np.testing.assert_allclose(y, x, atol=1e-6)
    np.testing.assert_allclose(log_det, 0, atol=1e-6)


@all_transformers
def test_parameters_broadcast_against_points(transformer):
    params, run = jax.random.normal(KEY, (3, transformer.num_params)), compiled(transformer)
    for size in (2, 4):  # the number of components less one, and of knots
        x = jax.random.normal(jax.random.key(1), (size, 3))
        each = [run.forward_and_log_det(x[:, i], params[i]) for i in range(3)]
        whole = run.forward_and_log_det(x, params)
        back = run.inverse_and_log_det(whole[0], params)
        np.testing.assert_allclose(np.stack(each, axis=-1), whole, atol=1e-5)
        np.testing.assert_allclose(back[0], x, atol=1e-4)
    layer = perturbed(fb.Elementwise(3, transformer))
    np.testing.assert_allclose(layer.inverse(layer.forward(x)), x, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        pytest.param("spline", flows.iaf, marks=pytest.mark.slow),
        ("circular", flows.real_nvp),
        ("logistics", flows.maf),
        ("composed", flows.maf),
        pytest.param("composed", flows.real_nvp, marks=pytest.mark.slow),
        pytest.param("of one's own", flows.maf, marks=pytest.mark.slow),
        pytest.param("of one's own", flows.iaf, marks=pytest.mark.slow),
        ("of one's own", flows.real_nvp),
    ],
)
def test_a_transformer_goes_into_every_architecture_and_into_files(name, architecture, tmp_path):
    transformer = TRANSFORMERS[name]
    with jax.enable_x64(True):
        base = flows.CircularUniform(3) if name == "circular" else None
        flow = architecture(
            3, num_layers=2, hidden_sizes=(8,), transformer=transformer, base=base,
            rngs=nnx.Rngs(0),
        )  # fmt: skip
        flow = perturbed(flow)
        x = jax.random.normal(KEY, (40, 3))
        z, log_det = flow.bijector.inverse_and_log_det(x)
        assert np.abs(z - x).max() > 0.1
        np.testing.assert_allclose(flow.bijector.forward(z), x, atol=1e-7)
        jacobian = jacobians("inverse", flow.bijector, x)
        np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], log_det, atol=1e-6)
        gradient = jax.jit(jax.grad(lambda flow: flow.log_prob(x).mean()))(flow)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        flows.save(tmp_path / "a", flow)
        np.testing.assert_array_equal(flows.load(tmp_path / "a").log_prob(x), flow.log_prob(x))


@all_transformers
def test_divergences_of_parameters(transformer):
    p, q = 0.5 * jax.random.normal(KEY, (2, 50, transformer.num_params))
    divergence = compiled(transformer).divergence
    np.testing.assert_allclose(divergence(p, p), 0, atol=1e-5)
    assert (divergence(p, q) > 0).all()
    np.testing.assert_allclose(divergence(p, q), divergence(q, p), rtol=1e-4)

    on_circle = isinstance(transformer, fb.CircularSpline)
    log_density = (lambda z: 0.0) if on_circle else (lambda z: -0.5 * z**2)

    @jax.jit
    def log_ratio(first, second, z):
        x, log_det = transformer.forward_and_log_det(z, first[:, None])
        back, log_det_back = transformer.inverse_and_log_det(x, second[:, None])
        return log_density(z) - log_density(back) - log_det - log_det_back

    z = jax.random.normal(jax.random.key(1), (50, 2000))
    if on_circle:
        z = jnp.pi * (2 * jax.scipy.stats.norm.cdf(z) - 1)
    exact = (log_ratio(p, q, z) + log_ratio(q, p, z)).mean(-1)
    np.testing.assert_allclose(divergence(p, q).mean(), exact.mean(), rtol=0.1)


@pytest.mark.parametrize("scale", [5.0, 1e30])
@pytest.mark.parametrize(
    "transformer",
    [
        fb.RationalQuadraticSpline(),
        fb.RationalQuadraticSpline(num_bins=2, bound=1e-3),
        fb.RationalQuadraticSpline(num_bins=30, bound=100.0),
        fb.CircularSpline(),
        fb.Composed([fb.RationalQuadraticSpline(), fb.Affine()]),
        fb.MixtureOfLogistics(),
    ],
    ids=lambda t: f"{type(t).__name__}-{t.num_params}",
)
def test_no_parameters_and_no_inputs_give_a_nan(transformer, scale):
    bound = getattr(transformer, "bound", np.pi)
    rng = np.random.default_rng(0)
    params = (scale * rng.normal(size=(2000, transformer.num_params))).astype(np.float32)
    x = (1.5 * bound * rng.uniform(-1, 1, 2000)).astype(np.float32)
    ends = [0, 1, -1, 1 - 1e-7, 1e-7 - 1, 1 + 1e-7, 1e4, -1e4, 0.5, -0.25]
    x[: len(ends)] = bound * np.array(ends, np.float32)
    y, log_det, back, log_det_back, again, slope, gradients = all_of(transformer)(x, params)
    for array in jax.tree.leaves((y, log_det, gradients)):
        assert np.isfinite(array).all()
    np.testing.assert_allclose(np.log(slope), log_det, atol=1e-4)
    if scale <= 5 and not isinstance(
        transformer, fb.MixtureOfLogistics
    ):  # whose tails are as far as means
        near = np.abs(x) < 2 * bound
        if isinstance(transformer, fb.Composed):  # (y - a) / b has the digits of a, and not of x
            back, x = again, y
        np.testing.assert_allclose(back[near], x[near], atol=2e-5 * bound)
        np.testing.assert_allclose(log_det_back[near], -log_det[near], atol=5e-3)


@functools.cache
def all_of(transformer):
    """Values both ways, there and back and there again, slopes, and gradients of sums."""

    @jax.jit
    def run(x, params):
        y, log_det = transformer.forward_and_log_det(x, params)
        back, log_det_back = transformer.inverse_and_log_det(y, params)
        again = transformer.forward_and_log_det(back, params)[0]
        slope = jax.grad(lambda x: transformer.forward_and_log_det(x, params)[0].sum())(x)
        gradients = [
            jax.grad(lambda *at, f=f: sum(part.sum() for part in f(*at)), (0, 1))(v, params)
            for f, v in [(transformer.forward_and_log_det, x), (transformer.inverse_and_log_det, y)]
        ]
        return y, log_det, back, log_det_back, again, slope, gradients

    return run


def test_slopes_of_mixtures_do_not_cancel_far_out():
    transformer = fb.MixtureOfLogistics(8)
    x = jnp.array([1e3, 1e5, -1e7, 1e8, -1e8])
    _, log_det = transformer.forward_and_log_det(x, jnp.zeros(24))
    np.testing.assert_allclose(log_det, 0, atol=1e-5)


def test_splines_are_smooth_at_their_ends_and_periodic_on_the_circle():
    params = normals(0, 3 * 8 + 1)
    spline = compiled(fb.RationalQuadraticSpline(bound=2.0))
    circular = compiled(fb.CircularSpline())
    ends = np.array([-2.0, -2.0, 2.0, 2.0]) + np.array([-1e-6, 1e-6, -1e-6, 1e-6])
    y, log_det = spline.forward_and_log_det(ends, params[:23])
    np.testing.assert_allclose(y, ends, atol=1e-5)
    np.testing.assert_allclose(log_det, 0, atol=1e-4)
    angles = np.linspace(-3, 3, 7)
    y, log_det = circular.forward_and_log_det(angles, params)
    for turns in (-2, 1, 3):
        more = 2 * np.pi * turns
        y_more, log_det_more = circular.forward_and_log_det(angles + more, params)
        np.testing.assert_allclose(y_more, np.asarray(y) + more, atol=1e-5)
        np.testing.assert_allclose(log_det_more, log_det, atol=1e-4)
    seam = np.array([-1e-6, 1e-6]) + np.pi
    y, log_det = map(np.asarray, circular.forward_and_log_det(seam, params))
    assert abs(y[1] - y[0]) < 1e-4
    assert abs(log_det[1] - log_det[0]) < 1e-3


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: fb.RationalQuadraticSpline(1), ValueError, "num_bins must be at least 2, got 1"),
        (lambda: fb.RationalQuadraticSpline(8.0), TypeError, "num_bins must be an int of at least"),
        (lambda: fb.RationalQuadraticSpline(8, 0.0), ValueError, "bound must be positive and fin"),
        (lambda: fb.RationalQuadraticSpline(8, -1), ValueError, "bound must be positive and finit"),
        (lambda: fb.RationalQuadraticSpline(8, np.nan), ValueError, "bound must be positive and"),
        (lambda: fb.RationalQuadraticSpline(8, "5"), TypeError, "bound must be a number, got '5'"),
        (lambda: fb.CircularSpline(1), ValueError, "num_bins must be at least 2, got 1"),
        (lambda: fb.MixtureOfLogistics(0), ValueError, "num_components must be at least 1, got 0"),
        (lambda: fb.Composed([]), ValueError, r"transformers must be at least one, .* got \[\]"),
        (
            lambda: fb.Composed([fb.Affine(), fb.CircularSpline()]),
            ValueError,
            r"all on the real line or all on the circle, got \['Affine', 'CircularSpline'\]",
        ),
        (lambda: fb.Composed([fb.Affine(), 3]), TypeError, r"transformers\[1\] must be a flows"),
    ],
)
def test_bad_arguments_of_transformers(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(("dtype", "precision"), [("float32", 2e-6), ("float64", 1e-14)])
def test_numeric_inverses_are_exact_to_rounding(dtype, precision):
    with jax.enable_x64(dtype == "float64"):
        x = np.append(jnp.linspace(-30, 30, 201), np.array([0.0, 1e-20, -1e-6], dtype))
        run = compiled(Sinh())
        for params in ([0.0, 0.0], [2.0, 3.0], [-3.0, 10.0], [6.0, -8.0]):
            params = np.tile(np.array(params, dtype), (len(x), 1))
            y, log_det = map(np.asarray, run.forward_and_log_det(x, params))
            back, log_det_back = map(np.asarray, run.inverse_and_log_det(y, params))
            # T rounds sums of terms as large as these.
            terms = np.abs(x) + np.abs(y) + np.exp(np.abs(params).sum(-1))
            again = np.asarray(run.forward_and_log_det(back, params)[0])
            assert (np.abs(again - y) <= precision * terms).all()
            assert (np.abs(back - x) <= precision * (terms * np.exp(-log_det) + np.abs(x))).all()
            np.testing.assert_allclose(log_det_back, -log_det, atol=1e-3)


class Cubic(fb.NumericInverse):
    num_params = 1

    def forward_and_log_det(self, x, params):
        return x + x**3, jnp.log1p(3 * x**2) + 0 * params[..., 0]


def test_numeric_inverses_of_any_scale_and_dtype():
    inverse = compiled(Cubic()).inverse_and_log_det
    with jax.enable_x64(True):
        y = np.array([sign * 10.0**n for sign in (1, -1) for n in range(-300, 300, 7)])
        x = np.asarray(inverse(y, np.zeros((len(y), 1)))[0])
        np.testing.assert_allclose(x + x**3, y, rtol=1e-12)
    ends = np.array([np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(inverse(ends, np.zeros((2, 1), np.float32))[0], ends)
    for y in (jnp.array(2), jnp.array(2, "bfloat16"), jnp.array(2, "float16"), 2):
        x, _ = inverse(y, jnp.zeros(1))
        np.testing.assert_allclose(x, 1.0, rtol=1e-6)


@all_transformers
def test_derivatives_of_the_two_directions_cancel(transformer):
    """To second order, in points and in parameters: inverses may have a rule of their own."""

    def there_and_back(both):
        params = both[1:]
        y, log_det = transformer.forward_and_log_det(both[0], params)
        x, back = transformer.inverse_and_log_det(y, params)
        return jnp.stack([x, log_det + back])

    with jax.enable_x64(True):
        both = jax.random.normal(KEY, (8, 1 + transformer.num_params), jnp.float64)
        slopes = jax.jit(jax.vmap(jax.jacrev(there_and_back)))(both)
        bends = jax.jit(jax.vmap(jax.hessian(there_and_back)))(both)
    expected = np.zeros(slopes.shape)
    expected[:, 0, 0] = 1
    np.testing.assert_allclose(slopes, expected, atol=1e-9)
    np.testing.assert_allclose(bends, 0, atol=1e-7)


def test_derivatives_of_numeric_inverses():
    inverse = compiled(Sinh()).inverse_and_log_det
    with jax.enable_x64(True):
        params = jnp.array([1.0, 0.5])
        jax.test_util.check_grads(inverse, (jnp.float64(2.0), params), order=2, rtol=1e-4)
    params = np.array([0.0, 0.0], np.float32)
    assert np.isnan(inverse(np.float32(1), params * np.nan)[0])
    assert np.isnan(inverse(np.float32(np.nan), params)[0])


def test_layers_of_any_transformer_match_where_they_are_the_same_map():
    maf = flows.maf(
        2,
        num_layers=3,
        hidden_sizes=(4,),
        transformer=fb.RationalQuadraticSpline(5),
        rngs=nnx.Rngs(0),
    )
    iaf = flows.iaf_like(maf, num_passes=0, rngs=nnx.Rngs(1))
    constant = lambda b: jax.tree.map(  # without inputs, MAF and IAF networks are alike
        lambda a: jnp.broadcast_to(0.1 * jnp.arange(a.shape[-1]), a.shape) * (a.ndim == 2), b
    )
    maf, iaf = constant(maf.bijector), constant(iaf.bijector)
    x = jax.random.normal(KEY, (50, 2))
    np.testing.assert_allclose(maf.inverse(x), iaf.inverse(x), atol=1e-5)
    np.testing.assert_allclose(matching_loss(maf, iaf, x, None)[1], 0, atol=1e-4)
    assert (matching_loss(maf, perturbed(iaf), x, None)[1] > 1e-3).all()


class Scaled(fb.Transformer):
    """Has an array of its own, which the twin has to keep."""

    num_params = 1

    def __init__(self, scale):
        self.scale = nnx.Param(scale)

    def forward_and_log_det(self, x, params):
        y = self.scale[...] * x + params[..., 0]
        return y, jnp.broadcast_to(jnp.log(self.scale[...]), y.shape)

    def inverse_and_log_det(self, y, params):
        x = (y - params[..., 0]) / self.scale[...]
        return x, jnp.broadcast_to(-jnp.log(self.scale[...]), x.shape)


def test_a_student_like_a_maf_keeps_the_arrays_of_a_transformer():
    maf = flows.maf(2, num_layers=2, transformer=Scaled(jnp.array(2.0)), rngs=nnx.Rngs(0))
    like = flows.iaf_like(maf, rngs=nnx.Rngs(1)).bijector
    assert is_layered(maf.bijector, like)
    layer = like.layers.bijectors[0]
    for transformer in (layer.transformer, layer.conditioner.transformer):
        np.testing.assert_array_equal(transformer.scale[...], [2.0, 2.0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("transformer", "options"),
    [
        (fb.RationalQuadraticSpline(5), {}),
        (fb.CircularSpline(5), {"features": circle, "base": flows.CircularUniform(2)}),
    ],
)
def test_splines_are_distilled_layer_by_layer(transformer, options):
    teacher = perturbed(
        flows.maf(
            2,
            num_layers=2,
            hidden_sizes=(16,),
            transformer=transformer,
            rngs=nnx.Rngs(0),
            **options,
        ),
    )
    untrained = flows.iaf_like(teacher, num_passes=1, rngs=nnx.Rngs(1))
    result = flows.distill(teacher, untrained, key=KEY, num_steps=1500, progress=False)
    layer = result.student.bijector.layers.bijectors[0]
    assert isinstance(layer, fb.MaskedAutoregressive)
    assert type(layer.transformer) is type(transformer)
    before = flows.divergences.kl(untrained, teacher, key=KEY).value
    after = result.report.kl_student_teacher.value
    assert after < 0.2 * before


@pytest.mark.slow
@pytest.mark.parametrize("make", [flows.nsf, flows.ncsf])
def test_splines_of_couplings_learn_and_are_learnt_from(make):
    teacher = perturbed(make(2, num_layers=2, hidden_sizes=(16,), rngs=nnx.Rngs(0)), scale=0.2)
    student = make(2, num_layers=4, hidden_sizes=(32,), rngs=nnx.Rngs(1))
    before = flows.divergences.kl(student, teacher, key=KEY).value
    result = flows.distill(teacher, student, key=KEY, num_steps=1500, progress=False)
    after = result.report.kl_student_teacher.value
    assert after < 0.2 * before

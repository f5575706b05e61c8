"""The seam that families grow on: a transformer of one's own, of one file, goes everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import perturbed

import flows
from flows import bijectors as fb
from flows.distillation.layerwise import iaf_twin, matching_loss, same_layout

KEY = jax.random.key(0)


class Spline(fb.Transformer):
    """Rational-quadratic spline on [-bound, bound], the identity beyond (arXiv:1906.04032)."""

    def __init__(self, num_bins: int = 5, bound: float = 4.0):
        self.num_bins, self.bound = num_bins, bound

    @property
    def num_params(self):
        return 3 * self.num_bins - 1

    def _knots(self, params):
        widths, heights, slopes = jnp.split(params, [self.num_bins, 2 * self.num_bins], axis=-1)

        def positions(raw):
            share = 1e-3 + (1 - 1e-3 * self.num_bins) * jax.nn.softmax(raw)
            inner = 2 * self.bound * jnp.cumsum(share[..., :-1], axis=-1) - self.bound
            ends = jnp.full((*raw.shape[:-1], 1), self.bound, raw.dtype)
            return jnp.concatenate([-ends, inner, ends], axis=-1)

        one = jnp.ones((*slopes.shape[:-1], 1), slopes.dtype)
        slopes = 1e-3 + (1 - 1e-3) * jax.nn.softplus(slopes + np.log(np.e - 1))
        slopes = jnp.concatenate([one, slopes, one], axis=-1)
        return positions(widths), positions(heights), slopes

    def _map(self, value, params, *, inverse):
        xs, ys, slopes = self._knots(params)
        inside = jnp.abs(value) < self.bound
        value = jnp.where(inside, value, 0.0)
        knots = ys if inverse else xs
        here = (value[..., None] >= knots[..., :-1]) & (value[..., None] < knots[..., 1:])
        pick = lambda array: jnp.where(here, array, 0).sum(-1)
        x0, y0, d0, d1 = (
            pick(xs[..., :-1]),
            pick(ys[..., :-1]),
            pick(slopes[..., :-1]),
            pick(slopes[..., 1:]),
        )
        width, height = pick(jnp.diff(xs)), pick(jnp.diff(ys))
        s = height / width
        bend = d0 + d1 - 2 * s
        if inverse:
            t = value - y0
            a, b, c = height * (s - d0) + t * bend, height * d0 - t * bend, -s * t
            u = 2 * c / (-b - jnp.sqrt(jnp.maximum(b**2 - 4 * a * c, 1e-12)))
        else:
            u = (value - x0) / width
        below = s + bend * u * (1 - u)
        log_slope = 2 * jnp.log(s) + jnp.log(d1 * u**2 + 2 * s * u * (1 - u) + d0 * (1 - u) ** 2)
        log_slope = log_slope - 2 * jnp.log(below)
        out = x0 + u * width if inverse else y0 + height * (s * u**2 + d0 * u * (1 - u)) / below
        return inside, out, log_slope

    def forward_and_log_det(self, x, params):
        inside, y, log_slope = self._map(x, params, inverse=False)
        return jnp.where(inside, y, x), jnp.where(inside, log_slope, 0)

    def inverse_and_log_det(self, y, params):
        inside, x, log_slope = self._map(y, params, inverse=True)
        return jnp.where(inside, x, y), jnp.where(inside, -log_slope, 0)


class Sinh(fb.NumericInverse):
    """T(x) = x + e^a (sinh(x - b) + sinh(b)) - ..., with tails that Newton alone overshoots."""

    num_params = 2

    def forward_and_log_det(self, x, params):
        a, b = jnp.exp(params[..., 0]) - 1, params[..., 1]
        a = jnp.abs(a)
        return x + a * (jnp.sinh(x - b) + jnp.sinh(b)), jnp.log1p(a * jnp.cosh(x - b))


OWN = {"spline": Spline(), "numeric": Sinh()}
own = pytest.mark.parametrize("transformer", OWN.values(), ids=OWN.keys())


@own
def test_parameters_0_are_the_identity(transformer):
    x = jnp.linspace(-6, 6, 101)
    y, log_det = transformer.forward_and_log_det(x, jnp.zeros((101, transformer.num_params)))
    np.testing.assert_allclose(y, x, atol=1e-6)
    np.testing.assert_allclose(log_det, 0, atol=1e-6)


@own
@pytest.mark.parametrize("architecture", [flows.maf, flows.iaf, flows.real_nvp])
def test_a_transformer_goes_into_every_architecture_and_into_files(
    transformer, architecture, tmp_path
):
    with jax.enable_x64(True):
        flow = architecture(
            3, num_layers=2, hidden_sizes=(8,), transformer=transformer, rngs=nnx.Rngs(0)
        )
        flow = perturbed(flow)
        x = jax.random.normal(KEY, (40, 3))
        z, log_det = flow.bijector.inverse_and_log_det(x)
        assert np.abs(z - x).max() > 0.1
        np.testing.assert_allclose(flow.bijector.forward(z), x, atol=1e-7)
        jacobian = jax.vmap(jax.jacobian(flow.bijector.inverse))(x)
        np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], log_det, atol=1e-6)
        gradient = jax.grad(lambda flow: flow.log_prob(x).mean())(flow)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        flows.save(tmp_path / "a", flow)
        np.testing.assert_array_equal(flows.load(tmp_path / "a").log_prob(x), flow.log_prob(x))


@own
def test_divergences_of_parameters(transformer):
    p, q = 0.5 * jax.random.normal(KEY, (2, 200, transformer.num_params))
    np.testing.assert_allclose(transformer.divergence(p, p), 0, atol=1e-5)
    assert (transformer.divergence(p, q) > 0).all()
    np.testing.assert_allclose(
        transformer.divergence(p, q), transformer.divergence(q, p), rtol=1e-4
    )

    def log_ratio(first, second, z):
        x, log_det = transformer.forward_and_log_det(z, first[:, None])
        back, log_det_back = transformer.inverse_and_log_det(x, second[:, None])
        return 0.5 * (back**2 - z**2) - log_det - log_det_back

    z = jax.random.normal(jax.random.key(1), (200, 4000))
    exact = (log_ratio(p, q, z) + log_ratio(q, p, z)).mean(-1)
    np.testing.assert_allclose(transformer.divergence(p, q).mean(), exact.mean(), rtol=0.1)


@pytest.mark.parametrize(("dtype", "precision"), [("float32", 2e-6), ("float64", 1e-14)])
def test_numeric_inverses_are_exact_to_rounding(dtype, precision):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.concatenate([jnp.linspace(-30, 30, 201), jnp.array([0.0, 1e-20, -1e-6])])
        for params in ([0.0, 0.0], [2.0, 3.0], [-3.0, 10.0], [6.0, -8.0]):
            params = jnp.broadcast_to(jnp.array(params), (len(x), 2))
            y, log_det = Sinh().forward_and_log_det(x, params)
            back, log_det_back = Sinh().inverse_and_log_det(y, params)
            # T rounds sums of terms as large as these.
            terms = jnp.abs(x) + jnp.abs(y) + jnp.exp(jnp.abs(params).sum(-1))
            again, _ = Sinh().forward_and_log_det(back, params)
            assert (jnp.abs(again - y) <= precision * terms).all()
            assert (jnp.abs(back - x) <= precision * (terms * jnp.exp(-log_det) + jnp.abs(x))).all()
            np.testing.assert_allclose(log_det_back, -log_det, atol=1e-3)


class Cubic(fb.NumericInverse):
    num_params = 1

    def forward_and_log_det(self, x, params):
        return x + x**3, jnp.log1p(3 * x**2) + 0 * params[..., 0]


def test_numeric_inverses_of_any_scale_and_dtype():
    with jax.enable_x64(True):
        y = jnp.concatenate([10.0 ** jnp.arange(-300, 300, 7), -(10.0 ** jnp.arange(-300, 300, 7))])
        x, _ = Cubic().inverse_and_log_det(y, jnp.zeros((len(y), 1)))
        np.testing.assert_allclose(x + x**3, y, rtol=1e-12)
    ends = jnp.array([jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(Cubic().inverse_and_log_det(ends, jnp.zeros((2, 1)))[0], ends)
    for y in (jnp.array(2), jnp.array(2, "bfloat16"), jnp.array(2, "float16"), 2):
        x, _ = Cubic().inverse_and_log_det(y, jnp.zeros(1))
        np.testing.assert_allclose(x, 1.0, rtol=1e-6)


def test_derivatives_of_numeric_inverses():
    with jax.enable_x64(True):
        params = jnp.array([1.0, 0.5])
        inverse = lambda y, params: Sinh().inverse_and_log_det(y, params)
        jax.test_util.check_grads(inverse, (jnp.float64(2.0), params), order=2, rtol=1e-4)
    assert jnp.isnan(Sinh().inverse_and_log_det(jnp.array(1.0), jnp.full(2, jnp.nan))[0])
    assert jnp.isnan(Sinh().inverse_and_log_det(jnp.array(jnp.nan), jnp.zeros(2))[0])


def test_layers_of_any_transformer_match_where_they_are_the_same_map():
    maf = flows.maf(
        2, num_layers=3, hidden_sizes=(4,), transformer=Spline(), rngs=nnx.Rngs(0)
    ).bijector
    constant = lambda b: jax.tree.map(  # without inputs, MAF and IAF networks are alike
        lambda a: jnp.broadcast_to(0.1 * jnp.arange(a.shape[-1]), a.shape) * (a.ndim == 2), b
    )
    maf, iaf = constant(maf), constant(iaf_twin(maf, nnx.Rngs(1)))
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


def test_a_twin_keeps_the_arrays_of_a_transformer():
    maf = flows.maf(2, num_layers=2, transformer=Scaled(jnp.array(2.0)), rngs=nnx.Rngs(0)).bijector
    twin = iaf_twin(maf, nnx.Rngs(1))
    assert same_layout(maf, twin)
    np.testing.assert_array_equal(twin.layers.bijectors[0].transformer.scale[...], [2.0, 2.0])


@pytest.mark.slow
def test_a_spline_is_distilled_layer_by_layer():
    teacher = perturbed(
        flows.maf(2, num_layers=2, hidden_sizes=(16,), transformer=Spline(), rngs=nnx.Rngs(0)),
    )
    result = flows.distill(teacher, key=KEY, num_steps=1500, progress=False)
    layer = result.student.bijector.layers.bijectors[0]
    assert isinstance(layer, fb.MaskedAutoregressive)
    assert isinstance(layer.transformer, Spline)
    untrained = flows.iaf(2, num_layers=2, rngs=nnx.Rngs(1))
    before = flows.divergences.kl(untrained, teacher, key=KEY).value
    assert result.report.kl_student_teacher.value < 0.2 < 2.0 < before

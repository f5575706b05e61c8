import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import perturbed

import flows
from flows import bijectors as fb

ARCHITECTURES = [flows.maf, flows.iaf, flows.real_nvp]


def gaussianization(event_size, *, num_layers, hidden_sizes, rngs):
    """A flow without networks, whose sizes do not matter."""
    return flows.gaussianization(event_size, num_layers=num_layers, rngs=rngs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_density_integrates_to_one(architecture):
    flow = perturbed(architecture(2, num_layers=2, hidden_sizes=(16,), rngs=nnx.Rngs(0)))
    axis = np.linspace(-30, 30, 401)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    total = np.exp(np.asarray(flow.log_prob(grid), float)).sum() * (axis[1] - axis[0]) ** 2
    assert abs(total - 1) < 1e-3


@pytest.mark.parametrize("event_size", [1, 2])
@pytest.mark.parametrize(
    ("make", "end", "nodes"),
    [
        (flows.nsf, 18, 1000),
        pytest.param(
            functools.partial(flows.nsf, autoregressive=True), 18, 1000, marks=pytest.mark.slow
        ),
        (gaussianization, 12, 500),
        (functools.partial(flows.maf, transformer=fb.Inverted(fb.MixtureOfLogistics(4))), 25, 300),
        pytest.param(flows.ncsf, np.pi, 300, marks=pytest.mark.slow),
        (functools.partial(flows.ncsf, autoregressive=True), np.pi, 300),
    ],
)
def test_density_of_splines_integrates_to_one(make, end, nodes, event_size):
    flow = perturbed(make(event_size, num_layers=2, hidden_sizes=(16,), rngs=nnx.Rngs(0)))
    edges = np.linspace(-end, end, 1 + (20_000 if event_size == 1 else nodes))
    axis = (edges[1:] + edges[:-1]) / 2
    grid = np.stack(np.meshgrid(*[axis] * event_size), axis=-1).reshape(-1, event_size)
    log_prob = flow.log_prob(grid)
    assert np.ptp(log_prob) > 0.5
    total = np.exp(np.asarray(log_prob, float)).sum() * (axis[1] - axis[0]) ** event_size
    assert abs(total - 1) < 1e-3


def test_angles_have_no_seam():
    x = jnp.array([[0.1, -2.0], [3.0, 1.0]])
    flow = perturbed(flows.ncsf(2, num_layers=2, hidden_sizes=(16,), rngs=nnx.Rngs(0)))
    for turns in ([1, 0], [-3, 2]):
        np.testing.assert_allclose(
            flow.log_prob(x + 2 * np.pi * np.array(turns)), flow.log_prob(x), atol=1e-4
        )
    draws = flow.sample(seed=jax.random.key(0), sample_shape=(5000,))
    assert (draws >= -np.pi).all()
    assert (draws < np.pi).all()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: flows.nsf(3, num_bins=1, rngs=nnx.Rngs(0)), "num_bins must be at least 2, got 1"),
        (lambda: flows.nsf(3, bound=-1.0, rngs=nnx.Rngs(0)), "bound must be positive and finite"),
        (lambda: flows.ncsf(3, num_bins=1, rngs=nnx.Rngs(0)), "num_bins must be at least 2"),
        (
            lambda: flows.ncsf(1, standardize_with=np.array([[0.0], [360.0]]), rngs=nnx.Rngs(0)),
            "angles that span 360 in column 0, more than one turn of 6.283",
        ),
        (
            lambda: flows.ncsf(
                1, standardize_with=np.array([[-100], [100]], np.int8), rngs=nnx.Rngs(0)
            ),
            "angles that span 200",
        ),
        (
            lambda: flows.ncsf(2, base=flows.StandardNormal(2), rngs=nnx.Rngs(0)),
            "base must be over angles of period 6.28318531 for the support circle.* over numbers",
        ),
        (
            lambda: flows.ncsf(1, standardize_with=(None, np.eye(2)), rngs=nnx.Rngs(0)),
            r"standardize_with\[1\] was given",
        ),
        (
            lambda: flows.ncsf(1, standardize_with=(np.eye(1), np.eye(1)), rngs=nnx.Rngs(0)),
            r"standardize_with\[1\] was given",
        ),
        (
            lambda: flows.maf(
                2, context_size=2, standardize_with=(np.eye(2), np.eye(3)[:, :2]), rngs=nnx.Rngs(0)
            ),
            r"standardize_with must hold as many rows of x .* shapes \(2, 2\) and \(3, 2\)",
        ),
    ],
)
def test_impossible_arguments_of_splines(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.slow
def test_a_conditional_density_of_two_modes_is_learnt_by_splines():
    """y = +-(2 + 0.3 c) + 0.2 e, of which an affine flow makes one normal: 2.1 nats, not 0.5."""
    rng = np.random.default_rng(0)

    def draw(n):
        c, e = rng.normal(size=(2, n, 1))
        return rng.choice([-1, 1], (n, 1)) * (2 + 0.3 * c) + 0.2 * e, c

    y, c = draw(3000)
    flow = flows.nsf(1, context_size=1, standardize_with=(y, c), rngs=nnx.Rngs(0))
    result = flows.fit(flow, y, context=c, key=jax.random.key(1), max_epochs=20, progress=False)
    y, c = draw(20_000)
    assert -result.flow.condition(c).log_prob(y).mean() < 0.6


def test_angles_around_the_seam_are_learnt():
    angles = np.random.default_rng(0).normal(np.pi, 0.3, size=(3000, 1))
    flow = flows.ncsf(1, num_layers=2, standardize_with=angles, rngs=nnx.Rngs(0))
    result = flows.fit(flow, angles, key=jax.random.key(0), max_epochs=40, progress=False)
    entropy = 0.5 * np.log(2 * np.pi * np.e * 0.3**2)
    assert abs(-result.flow.log_prob(angles).mean() - entropy) < 0.05
    draws = np.asarray(result.flow.sample(seed=jax.random.key(1), sample_shape=(4000,)))
    assert abs(np.exp(1j * draws).mean() + np.exp(-(0.3**2) / 2)) < 0.03


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_dimensional_conditional_density_integrates_to_one(architecture):
    flow = perturbed(architecture(1, context_size=2, hidden_sizes=(16,), rngs=nnx.Rngs(0)))
    axis = jnp.linspace(-60, 60, 20001)
    for context in ([0.0, 0.0], [2.0, -1.0]):
        log_prob = flow.condition(jnp.array(context)).log_prob(axis[:, None])
        total = np.exp(np.asarray(log_prob, float)).sum() * (axis[1] - axis[0])
        assert abs(total - 1) < 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_unconditional_event_size_one_works(architecture):
    flow = architecture(1, num_layers=2, rngs=nnx.Rngs(0))
    x = flow.sample(seed=jax.random.key(0), sample_shape=(5,))
    np.testing.assert_allclose(
        flow.log_prob(x), flow.sample_and_log_prob(seed=jax.random.key(0), sample_shape=(5,))[1],
        atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_standardize_with_gives_the_moments_of_raw_data(architecture):
    rng = np.random.default_rng(0)
    mixing = np.array([[1e3, 0, 0], [2e-3, 1e-3, 0], [1.0, 1.0, 1.0]])
    x = rng.normal(size=(2000, 3)) @ mixing.T + [5e4, 0, -3]
    flow = architecture(3, standardize_with=x, rngs=nnx.Rngs(0))
    draws = np.asarray(flow.sample(seed=jax.random.key(0), sample_shape=(50_000,)), np.float64)
    scale = x.std(0)
    np.testing.assert_allclose((draws.mean(0) - x.mean(0)) / scale, 0, atol=0.05)
    np.testing.assert_allclose(np.cov(draws.T) / np.outer(scale, scale), np.corrcoef(x.T), atol=0.1)


def test_standardize_with_context_makes_raw_contexts_work():
    rng = np.random.default_rng(0)
    x, context = rng.normal(size=(500, 2)), 1e5 + 1e3 * rng.normal(size=(500, 3))
    flow = flows.maf(2, context_size=3, standardize_with=(x, context), rngs=nnx.Rngs(0))
    plain = flows.maf(2, context_size=3, standardize_with=x, rngs=nnx.Rngs(0))
    scaled = (context - context.mean(0)) / context.std(0)
    np.testing.assert_allclose(
        flow.condition(context).log_prob(x), plain.condition(scaled).log_prob(x), atol=1e-3
    )
    of_context = flows.maf(
        2, context_size=3, standardize_with=(None, context), rngs=nnx.Rngs(0)
    ).condition(context)
    as_it_is = flows.maf(2, context_size=3, rngs=nnx.Rngs(0)).condition(scaled)
    np.testing.assert_allclose(of_context.log_prob(x), as_it_is.log_prob(x), atol=1e-3)


def test_repeated_columns_can_be_standardised():
    x = np.random.default_rng(0).normal(size=(500, 1)).repeat(3, axis=1)
    flow = flows.maf(3, standardize_with=x, rngs=nnx.Rngs(0))
    assert np.isfinite(flow.log_prob(x)).all()


def test_custom_transformer_and_base():
    transformer = flows.bijectors.Affine(max_log_scale=0.5)
    flow = flows.iaf(2, transformer=transformer, base=flows.DiagonalNormal(2), rngs=nnx.Rngs(0))
    flow = perturbed(flow, scale=30.0)
    x = jax.random.normal(jax.random.key(0), (100, 2))
    _, log_det = flow.bijector.forward_and_log_det(x)
    assert np.abs(log_det).max() <= 5 * 2 * 0.5 + 1e-5


@pytest.mark.parametrize("event_size", [2, 3, 4, 7])
@pytest.mark.parametrize("num_layers", [2, 3, 8])
def test_couplings_leave_no_coordinate_out(event_size, num_layers):
    for seed in range(20):
        flow = flows.real_nvp(
            event_size, num_layers=num_layers, hidden_sizes=(4,), rngs=nnx.Rngs(seed)
        )
        graphdef, params, rest = nnx.split(flow, nnx.Param, ...)
        ones = jax.tree.map(jnp.ones_like, params)  # each layer shifts what it maps, upwards
        y = nnx.merge(graphdef, ones, rest).bijector.forward(jnp.zeros(event_size))
        assert (y > 0).all()


def test_float64_data_with_a_large_offset_is_warned_about():
    x = 2460000.5 + np.random.default_rng(0).uniform(0, 2, (200, 1))
    with pytest.warns(UserWarning, match="standardize_with column 0 varies by .* only"):
        flows.maf(1, standardize_with=x, rngs=nnx.Rngs(0))


def test_depth_is_compiled_once():
    def lines(num_layers):
        flow = flows.maf(3, num_layers=num_layers, hidden_sizes=(8,), rngs=nnx.Rngs(0))
        return len(str(jax.make_jaxpr(lambda f, x: f.log_prob(x))(flow, jnp.ones((2, 3)))))

    assert lines(32) < 1.05 * lines(2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"event_size": 0}, ValueError, "event_size must be at least 1, got 0"),
        ({"event_size": 2.5}, TypeError, "event_size must be an int"),
        ({"num_layers": 0}, ValueError, "num_layers must be at least 1"),
        ({"hidden_sizes": (8, 0)}, ValueError, "hidden_sizes must be at least 1"),
        ({"hidden_sizes": 8}, TypeError, "hidden_sizes must be a sequence"),
        ({"hidden_sizes": ()}, ValueError, "hidden_sizes must name at least one"),
        ({"hidden_sizes": (8, 4), "residual": True}, ValueError, "residual=True needs equal"),
        ({"context_size": 0}, ValueError, "context_size must be at least 1"),
        ({"permutation": "swap"}, ValueError, "permutation must be one of .* got 'swap'"),
        ({"activation": "swish"}, ValueError, "activation must be one of"),
        ({"transformer": "spline"}, TypeError, "transformer must be a flows.bijectors.Transformer"),
        ({"base": "normal"}, TypeError, "base must be a flows.distributions.Distribution"),
        ({"base": flows.StandardNormal(5)}, ValueError, "base has event size 5"),
        ({"rngs": 0}, TypeError, "rngs must be an nnx.Rngs"),
        ({"standardize_with": np.ones((5, 2))}, ValueError, "must have 3 columns"),
        ({"standardize_with": np.ones((5, 3))}, ValueError, "constant in column 0"),
        ({"standardize_with": np.full((5, 3), np.nan)}, ValueError, "15 non-finite"),
        (
            {"standardize_with": (np.eye(3), np.eye(3))},
            ValueError,
            r"standardize_with\[1\] was given",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_impossible_arguments(architecture, options, error, match):
    with pytest.raises(error, match=match):
        architecture(**({"event_size": 3, "rngs": nnx.Rngs(0)} | options))


def test_linear_layers_are_what_they_say():
    lu = perturbed(fb.LULinear(5))
    lower, upper = lu.factors()
    np.testing.assert_allclose(jnp.diagonal(lower), 1)
    x = jax.random.normal(jax.random.key(0), (7, 5))
    np.testing.assert_allclose(lu.forward(x), x @ (lower @ upper).T + lu.loc[...], atol=1e-5)
    rotation = perturbed(fb.Orthogonal(5, rngs=nnx.Rngs(0)), scale=1.0)
    matrix = rotation.matrix()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(5), atol=1e-5)
    assert np.abs(matrix - np.eye(5)).max() > 0.3
    np.testing.assert_allclose(np.linalg.det(matrix), 1, atol=1e-5)
    np.testing.assert_allclose(rotation.forward(x), x @ matrix.T, atol=1e-5)
    for scale in (1e-30, 1e30):
        rotation.directions[...] = scale * rotation.directions[...] / jnp.abs(matrix).max()
        matrix = rotation.matrix()
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(5), atol=1e-5)
        rotation.directions[...] = rotation.directions[...] / scale
    with pytest.raises(ValueError, match="num_reflections must be even, got 3"):
        fb.Orthogonal(5, num_reflections=3, rngs=nnx.Rngs(0))

"""What every bijector and every flow must do."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import BIJECTORS, FLOWS, bound, jacobians, made, make, normals

import flows
from flows import supports

# Made of layers, transformers and options that others have in other combinations.
OF_KNOWN_PARTS = (
    "coupling spline",
    "coupling composed",
    "autoregressive circular",
    "iaf context",
    "iaf D=1 context",
    "iaf D=2 residual",
    "iaf bells",
    "real_nvp D=1 context",
    "real_nvp D=2 residual",
    "nsf autoregressive context",
    "gaussianization context",
    "gaussianization of data",
    "ncsf beside numbers",
)


# All tests of one bijector or flow follow one another, at points of the same shapes, so that what
# was compiled for one serves the next.
def marked(names):
    slow = lambda name: [pytest.mark.slow] * (name in OF_KNOWN_PARTS)
    return [pytest.param(name, marks=slow(name)) for name in names]


@pytest.fixture(scope="module", params=marked(BIJECTORS))
def name(request):
    return request.param


@pytest.fixture
def maker(name):
    return BIJECTORS[name]


@pytest.fixture(scope="module", params=marked(FLOWS))
def flow_maker(request):
    return FLOWS[request.param]


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    with jax.enable_x64(request.param == "float64"):
        yield {"float32": 1e-4, "float64": 1e-9}[request.param]


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def points(module):
    return normals(1, 6, module.event_size)


def context_for(module):
    return None if module.context_size is None else normals(2, 6, module.context_size)


def test_round_trip(maker, precision):
    bijector = make(maker)
    x, context = points(bijector), context_for(bijector)
    y, log_det = bijector.forward_and_log_det(x, context)
    back, inverse_log_det = bijector.inverse_and_log_det(y, context)
    assert y.shape == x.shape
    assert log_det.shape == x.shape[:1]
    assert y.dtype == log_det.dtype == x.dtype
    np.testing.assert_allclose(back, x, atol=precision, rtol=0)
    np.testing.assert_allclose(log_det, -inverse_log_det, atol=precision, rtol=0)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_log_det_is_that_of_the_jacobian(maker, direction, float64):
    bijector = make(maker)
    x, context = points(bijector), context_for(bijector)
    _, log_det = getattr(bijector, f"{direction}_and_log_det")(x, context)
    jacobian = jacobians(direction, bijector, x, context)
    np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], log_det, atol=1e-8)


LOWER = np.tril(np.ones((4, 4)), 0)
ZERO_PATTERNS = {
    "elementwise": np.eye(4),
    "triangular": LOWER,
    "reverse": np.eye(4)[::-1],
    "coupling": np.eye(4) + np.pad(np.ones((2, 2)), ((2, 0), (0, 2))),
    "coupling context": np.eye(4) + np.pad(np.ones((2, 2)), ((2, 0), (0, 2))),
    "autoregressive": LOWER,
    "autoregressive residual": LOWER,
    "autoregressive context": LOWER,
    "autoregressive inverted": LOWER,
    "inverse": LOWER,
    "autoregressive D=2": np.tril(np.ones((2, 2))),
}


@pytest.mark.parametrize("name", ZERO_PATTERNS)
def test_zero_pattern_of_the_jacobian(name, maker, float64):
    bijector = make(maker)
    jacobian = jacobians("forward", bijector, points(bijector), context_for(bijector))
    pattern = np.broadcast_to(ZERO_PATTERNS[name] > 0, jacobian.shape)
    np.testing.assert_array_equal(np.abs(jacobian) > 0, pattern)


def test_broadcasts_and_has_both_parents(maker):
    bijector = make(maker)
    assert isinstance(bijector, nnx.Module)
    assert isinstance(bijector, distrax.Bijector)
    x, context = points(bijector), context_for(bijector)
    one = None if context is None else context[1]
    of_one = None if context is None else np.broadcast_to(one, context.shape)
    expected, expected_log_det = bijector.forward_and_log_det(x, of_one)
    y, log_det = bijector.forward_and_log_det(x.reshape(2, 3, -1), one)
    assert y.shape == (2, 3, bijector.event_size)
    assert log_det.shape == (2, 3)
    np.testing.assert_allclose(y.reshape(x.shape), expected, atol=1e-5)
    np.testing.assert_allclose(log_det.reshape(6), expected_log_det, atol=1e-5)


def test_refuses_wrong_sizes_and_contexts(maker):
    bijector = make(maker)
    x, context = points(bijector), context_for(bijector)
    with pytest.raises(ValueError, match=rf"x must have shape \[\.\.\., {bijector.event_size}\]"):
        bijector.forward_and_log_det(jnp.zeros((6, bijector.event_size + 1)), context)
    if context is None:
        with pytest.raises(ValueError, match="context was given"):
            bijector.inverse_and_log_det(x, jnp.zeros((6, 2)))
    else:
        with pytest.raises(ValueError, match="context is missing"):
            bijector.inverse_and_log_det(x)
        with pytest.raises(ValueError, match="context must have shape"):
            bijector.inverse_and_log_det(x, jnp.zeros((6, 7)))


def test_starts_near_the_identity_up_to_a_fixed_linear_map(maker, float64):
    bijector = made(maker)
    x, context = points(bijector), context_for(bijector)
    context = None if context is None else np.broadcast_to(context[:1], context.shape)
    jacobian = jacobians("forward", bijector, x, context)
    np.testing.assert_allclose(jacobian, np.broadcast_to(jacobian[:1], jacobian.shape), atol=0.1)


def test_flow_round_trip_and_log_det(flow_maker, precision):
    flow = bound(make(flow_maker))
    z = points(flow)
    x, log_det = flow.bijector.forward_and_log_det(z)
    back, inverse_log_det = flow.bijector.inverse_and_log_det(x)
    difference = back - z
    if flow.support is not None:  # angles
        turns = jnp.round(difference / (2 * np.pi))
        difference -= 2 * np.pi * turns * supports.of_kind(flow.support, "circle")
    np.testing.assert_allclose(difference, 0, atol=precision, rtol=0)
    np.testing.assert_allclose(log_det, -inverse_log_det, atol=precision * 10, rtol=0)


@jax.jit
def noise_to_data(flow, z):
    x = flow.bijector.forward(z)
    return x if flow.support is None else supports.from_real(flow.support, x)[0]


def test_flow_log_prob_is_change_of_variables(flow_maker, float64):
    flow = bound(make(flow_maker))
    z = points(flow)
    log_det = np.linalg.slogdet(jacobians(noise_to_data, flow, z))[1]
    expected = flow.base.log_prob(z) - log_det
    np.testing.assert_allclose(flow.log_prob(noise_to_data(flow, z)), expected, atol=1e-8)


def draws_of(flow):
    """Draws [2, 3, D] and their log densities [2, 3], by any of 3 contexts or by none."""
    shape = (2,) if flow.batch_shape else (2, 3)
    return flow.sample_and_log_prob(seed=jax.random.key(5), sample_shape=shape)


def test_flow_sample_and_log_prob_agree(flow_maker):
    unbound = make(flow_maker)
    flow = bound(unbound, (3,))
    assert flow.batch_shape == (() if unbound.context_size is None else (3,))
    x, log_prob = draws_of(flow)
    assert x.shape == (2, 3, flow.event_size)
    np.testing.assert_allclose(log_prob, flow.log_prob(x), rtol=1e-4, atol=1e-3)
    same = flow.sample(seed=jax.random.key(5), sample_shape=(2,) if flow.batch_shape else (2, 3))
    np.testing.assert_allclose(x, same, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_parameter(flow_maker):
    flow = made(flow_maker)
    x, context = 2 + points(flow), context_for(flow)

    def loss(flow):
        return (flow if context is None else flow.condition(context)).log_prob(x).sum()

    grads = jax.jit(jax.grad(loss))(flow)
    assert jax.tree.structure(grads) == jax.tree.structure(flow)
    for path, grad in jax.tree_util.tree_leaves_with_path(nnx.state(grads, nnx.Param)):
        assert not grad.size or np.abs(grad).max() > 0, jax.tree_util.keystr(path)
    for grad in jax.tree.leaves(nnx.state(grads, flows.bijectors.Buffer)):
        assert not np.any(grad)


def test_flow_is_a_pytree_module_and_distribution(flow_maker):
    flow = bound(make(flow_maker), (3,))
    assert isinstance(flow, nnx.Module)
    assert isinstance(flow, distrax.Distribution)
    x, _ = draws_of(flow)
    expected = flow.log_prob(x)
    traces = []

    @jax.jit
    def jitted(flow, x):
        traces.append(1)
        return flow.log_prob(x), jax.vmap(flow.log_prob)(x)

    for log_prob in jitted(flow, x):
        np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)
    flow.event_shape, flow.batch_shape, flow.dtype  # noqa: B018  reading these must not retrace
    jitted(flow, x)
    assert len(traces) == 1
    merged = nnx.merge(*nnx.split(flow))
    np.testing.assert_allclose(merged.log_prob(x), expected, rtol=1e-6)


def test_save_and_load(flow_maker, tmp_path):
    flow = make(flow_maker)
    flows.save(tmp_path / "flow.npz", flow)
    loaded = flows.load(tmp_path / "flow.npz")
    assert jax.tree.structure(loaded) == jax.tree.structure(flow)
    jax.tree.map(np.testing.assert_array_equal, flow, loaded)
    x = jnp.ones((2, 3, flow.event_size))
    np.testing.assert_array_equal(bound(flow, (3,)).log_prob(x), bound(loaded, (3,)).log_prob(x))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_log_prob_of_a_non_finite_point_is_not_finite(flow_maker, bad):
    flow = bound(make(flow_maker), (3,))
    x = np.zeros((2, 3, flow.event_size), np.float32)
    x[1, 0, 0] = bad
    finite = np.isfinite(flow.log_prob(x))
    assert finite.tolist() == [[True] * 3, [False, True, True]]


def test_ensembles_by_vmap(flow_maker):
    keys = jax.random.split(jax.random.key(0), 3)
    ensemble = jax.jit(jax.vmap(lambda key: flow_maker(nnx.Rngs(key))))(keys)
    x = jnp.ones((2, 3, ensemble.event_size))
    log_probs = jax.vmap(lambda flow: bound(flow, (3,)).log_prob(x))(ensemble)
    assert log_probs.shape == (3, 2, 3)
    second = jax.tree.map(lambda a: a[1], ensemble)
    np.testing.assert_allclose(log_probs[1], bound(second, (3,)).log_prob(x), rtol=1e-5)

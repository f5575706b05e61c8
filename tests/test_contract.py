"""What every bijector and every flow must do."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import BIJECTORS, FLOWS, bound, make

import flows
from flows import supports

bijectors = pytest.mark.parametrize("maker", BIJECTORS.values(), ids=BIJECTORS.keys())
all_flows = pytest.mark.parametrize("maker", FLOWS.values(), ids=FLOWS.keys())


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    with jax.enable_x64(request.param == "float64"):
        yield {"float32": 1e-4, "float64": 1e-9}[request.param]


def points(module, n=50):
    return jax.random.normal(jax.random.key(1), (n, module.event_size))


def context_for(module, n=50):
    if module.context_size is None:
        return None
    return jax.random.normal(jax.random.key(2), (n, module.context_size))


@bijectors
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


@bijectors
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_log_det_is_that_of_the_jacobian(maker, direction):
    with jax.enable_x64(True):
        bijector = make(maker)
        x, context = points(bijector, 5), context_for(bijector, 5)
        _, log_det = getattr(bijector, f"{direction}_and_log_det")(x, context)
        jacobian = jax.vmap(jax.jacobian(getattr(bijector, direction)))(x, context)
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


@pytest.mark.parametrize(("name", "pattern"), ZERO_PATTERNS.items(), ids=ZERO_PATTERNS.keys())
def test_zero_pattern_of_the_jacobian(name, pattern):
    bijector = make(BIJECTORS[name])
    context = context_for(bijector, 1)
    context = None if context is None else context[0]
    jacobian = jax.jacobian(lambda x: bijector.forward(x, context))(points(bijector, 1)[0])
    np.testing.assert_array_equal(np.abs(jacobian) > 0, pattern > 0)


@bijectors
def test_broadcasts_and_has_both_parents(maker):
    bijector = make(maker)
    assert isinstance(bijector, nnx.Module)
    assert isinstance(bijector, distrax.Bijector)
    x, context = points(bijector, 6).reshape(2, 3, -1), context_for(bijector, 3)
    y, log_det = bijector.forward_and_log_det(x, context)
    assert y.shape == x.shape
    assert log_det.shape == (2, 3)
    one = None if context is None else context[1]
    y_one, log_det_one = bijector.forward_and_log_det(x[0, 1], one)
    np.testing.assert_allclose(y_one, y[0, 1], atol=1e-5)
    np.testing.assert_allclose(log_det_one, log_det[0, 1], atol=1e-5)


@bijectors
def test_refuses_wrong_sizes_and_contexts(maker):
    bijector = make(maker)
    x, context = points(bijector), context_for(bijector)
    with pytest.raises(ValueError, match=rf"x must have shape \[\.\.\., {bijector.event_size}\]"):
        bijector.forward_and_log_det(jnp.zeros((5, bijector.event_size + 1)), context)
    if context is None:
        with pytest.raises(ValueError, match="context was given"):
            bijector.inverse_and_log_det(x, jnp.zeros((50, 2)))
    else:
        with pytest.raises(ValueError, match="context is missing"):
            bijector.inverse_and_log_det(x)
        with pytest.raises(ValueError, match="context must have shape"):
            bijector.inverse_and_log_det(x, jnp.zeros((50, 7)))


@bijectors
def test_starts_near_the_identity_up_to_a_fixed_linear_map(maker):
    bijector = maker(nnx.Rngs(0))
    x, context = points(bijector), context_for(bijector)
    jacobian = jax.vmap(jax.jacobian(lambda p, c: bijector.forward(p, c)), (0, None))(
        x, None if context is None else context[0]
    )
    np.testing.assert_allclose(jacobian, jnp.broadcast_to(jacobian[:1], jacobian.shape), atol=0.1)


@all_flows
def test_flow_round_trip_and_log_det(maker, precision):
    flow = bound(make(maker), (20,))
    z = jax.random.normal(jax.random.key(1), (20, flow.event_size))
    x, log_det = flow.bijector.forward_and_log_det(z)
    back, inverse_log_det = flow.bijector.inverse_and_log_det(x)
    difference = back - z
    if flow.support is not None:  # angles
        turns = jnp.round(difference / (2 * np.pi))
        difference -= 2 * np.pi * turns * supports.of_kind(flow.support, "circle")
    np.testing.assert_allclose(difference, 0, atol=precision, rtol=0)
    np.testing.assert_allclose(log_det, -inverse_log_det, atol=precision * 10, rtol=0)


@all_flows
def test_flow_log_prob_is_change_of_variables(maker):
    with jax.enable_x64(True):
        flow = bound(make(maker))
        z = jax.random.normal(jax.random.key(1), (5, flow.event_size))
        forward = flow.bijector.forward
        if flow.support is not None:
            forward = lambda z: supports.from_real(flow.support, flow.bijector.forward(z))[0]
        x = forward(z)
        jacobians = jax.vmap(jax.jacobian(forward))(z)
        expected = flow.base.log_prob(z) - np.linalg.slogdet(jacobians)[1]
        np.testing.assert_allclose(flow.log_prob(x), expected, atol=1e-8)


@all_flows
def test_flow_sample_and_log_prob_agree(maker):
    unbound = make(maker)
    flow = bound(unbound, (3,))
    key = jax.random.key(5)
    x, log_prob = flow.sample_and_log_prob(seed=key, sample_shape=(2, 4))
    assert x.shape == (2, 4, *flow.batch_shape, flow.event_size)
    assert flow.batch_shape == (() if unbound.context_size is None else (3,))
    np.testing.assert_allclose(log_prob, flow.log_prob(x), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(x, flow.sample(seed=key, sample_shape=(2, 4)), rtol=1e-4, atol=1e-5)


@all_flows
def test_gradient_reaches_every_parameter(maker):
    flow = maker(nnx.Rngs(0))
    context = context_for(flow, 20)
    x = 2 + jax.random.normal(jax.random.key(1), (20, flow.event_size))

    def loss(flow):
        return (flow if context is None else flow.condition(context)).log_prob(x).sum()

    grads = nnx.state(jax.grad(loss)(flow), nnx.Param)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert not grad.size or np.abs(grad).max() > 0, jax.tree_util.keystr(path)


@all_flows
def test_flow_is_a_pytree_module_and_distribution(maker):
    flow = bound(make(maker))
    assert isinstance(flow, nnx.Module)
    assert isinstance(flow, distrax.Distribution)
    x = flow.sample(seed=jax.random.key(0), sample_shape=(6,))
    expected = flow.log_prob(x)
    traces = []

    @jax.jit
    def jitted(flow, x):
        traces.append(1)
        return flow.log_prob(x)

    np.testing.assert_allclose(jitted(flow, x), expected, rtol=1e-4, atol=1e-4)
    flow.event_shape, flow.batch_shape, flow.dtype  # noqa: B018  reading these must not retrace
    jitted(flow, x)
    assert len(traces) == 1
    np.testing.assert_allclose(jax.vmap(flow.log_prob)(x), expected, rtol=1e-4, atol=1e-4)
    merged = nnx.merge(*nnx.split(flow))
    np.testing.assert_allclose(merged.log_prob(x), expected, rtol=1e-6)
    grads = jax.grad(lambda flow: flow.log_prob(x).sum())(flow)
    assert jax.tree.structure(grads) == jax.tree.structure(flow)
    for gradient in jax.tree.leaves(nnx.state(grads, flows.bijectors.Buffer)):
        assert not np.any(gradient)


@all_flows
def test_save_and_load(maker, tmp_path):
    flow = make(maker)
    flows.save(tmp_path / "flow.npz", flow)
    loaded = flows.load(tmp_path / "flow.npz")
    assert jax.tree.structure(loaded) == jax.tree.structure(flow)
    jax.tree.map(np.testing.assert_array_equal, flow, loaded)
    x = jnp.ones((3, flow.event_size))
    np.testing.assert_array_equal(bound(flow).log_prob(x), bound(loaded).log_prob(x))


@all_flows
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_log_prob_of_a_non_finite_point_is_not_finite(maker, bad):
    flow = bound(make(maker))
    x = jnp.zeros((2, flow.event_size)).at[1, 0].set(bad)
    assert np.isfinite(flow.log_prob(x)).tolist() == [True, False]


@all_flows
def test_ensembles_by_vmap(maker):
    keys = jax.random.split(jax.random.key(0), 3)
    ensemble = jax.vmap(lambda key: maker(nnx.Rngs(key)))(keys)
    x = jnp.ones((5, ensemble.event_size))
    log_probs = jax.vmap(lambda flow: bound(flow).log_prob(x))(ensemble)
    assert log_probs.shape == (3, 5)
    second = jax.tree.map(lambda a: a[1], ensemble)
    np.testing.assert_allclose(log_probs[1], bound(second).log_prob(x), rtol=1e-5)

"""The inverse of autoregressive layers: exact by every method, and so are its derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import naive_inverse, normals, perturbed
from jax.test_util import check_grads

import flows
from flows.bijectors import MaskedAutoregressive, fixed_point
from flows.conditioners import MaskedMLP, circle, masked

LAYERS = {
    "D=1": {"event_size": 1},
    "D=1 context": {"event_size": 1, "context_size": 2},
    "D=2": {"event_size": 2},
    "narrow": {"event_size": 9, "hidden_sizes": (3,)},
    "uneven": {"event_size": 7, "hidden_sizes": (16, 5, 9)},
    "residual": {"event_size": 12, "hidden_sizes": (16, 16, 16), "residual": True},
    "features": {"event_size": 12, "hidden_sizes": (16, 16), "features": circle},
    "context": {"event_size": 12, "hidden_sizes": (40, 16), "context_size": 2},
    "all": {
        "event_size": 30, "hidden_sizes": (50, 50, 50), "residual": True, "context_size": 2,
        "activation": "tanh", "transformer": flows.bijectors.Inverted(flows.bijectors.Affine()),
    },
}  # fmt: skip
methods = pytest.mark.parametrize("inverse", ["blocked", "jacobi"])


def example(options, inverse="blocked", num_points=5, scale=0.5):
    """A layer far from the identity, points and contexts; all float64."""
    layer = perturbed(
        MaskedAutoregressive(**options, inverse=inverse, rngs=nnx.Rngs(0)), None, scale
    )
    y = normals(1, num_points, layer.event_size)
    context = normals(2, num_points, layer.context_size) if layer.context_size else None
    return layer, y, context


@jax.jit
def inverse_of(layer, y, context):
    return layer.inverse_and_log_det(y, context)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind, marks=[pytest.mark.slow] * (kind in ("D=1 context", "narrow", "features"))
        )
        for kind in LAYERS
    ],
)
@methods
def test_inverse_and_gradients_are_those_of_the_naive_loop(kind, inverse):
    with jax.enable_x64(True):
        at = example(LAYERS[kind], inverse)

        def loss(function, at):
            x, log_det = function(*at)
            return jnp.sin(x).sum() + (log_det**2).sum(), (x, log_det)

        run = lambda function: jax.jit(
            lambda at: jax.grad(lambda at: loss(function, at), has_aux=True)(at)
        )(at)
        for ours, naive in zip(
            jax.tree.leaves(run(inverse_of)), jax.tree.leaves(run(naive_inverse)), strict=True
        ):
            ours, naive = np.asarray(ours), np.asarray(naive)
            scale = 1 + np.abs(naive).max(initial=0)
            np.testing.assert_allclose(ours / scale, naive / scale, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "kind",
    [
        "uneven",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("D=2", "residual", "context")),
    ],
)
@methods
def test_second_derivatives_are_those_of_the_naive_loop(kind, inverse):
    with jax.enable_x64(True):
        layer, y, context = example(LAYERS[kind], inverse, num_points=1)
        weights = np.arange(1.0, layer.event_size + 1)

        def hessian(function):
            def value(y):
                x, log_det = function(layer, y, context)
                return (weights * x).sum() + log_det.sum()

            return jax.jit(jax.hessian(value))(y)

        np.testing.assert_allclose(hessian(inverse_of), hessian(naive_inverse), rtol=0, atol=1e-10)


@pytest.mark.slow
@methods
def test_check_grads_to_second_order_in_both_modes(inverse):
    with jax.enable_x64(True):
        options = {"event_size": 3, "hidden_sizes": (6, 6), "residual": True, "context_size": 2}
        layer, y, context = example(options, inverse, num_points=2, scale=0.2)
        graphdef, state = nnx.split(layer)
        check_grads(
            jax.jit(lambda *at: inverse_of(nnx.merge(graphdef, at[0]), *at[1:])),
            (state, y, context),
            order=2,
            rtol=1e-4,
        )


@pytest.fixture(scope="module", params=["maf", "iaf"])
def peaked_flow(request):
    """A flow fitted to a thin curved sheet, and data: sharply peaked, far from the identity."""
    x = np.random.default_rng(0).normal(size=(2000, 6))
    for i in range(1, 6):
        x[:, i] = np.sin(2 * x[:, i - 1]) + 0.01 * x[:, i]
    x = x.astype(np.float32)
    flow = getattr(flows, request.param)(
        6, num_layers=3, hidden_sizes=(32, 32), standardize_with=x, rngs=nnx.Rngs(0)
    )
    result = flows.fit(
        flow, x, key=jax.random.key(0), learning_rate=3e-3, max_epochs=30, progress=False
    )
    return result.flow, x[:500]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-11)])
def test_methods_agree_on_trained_sharply_peaked_flows(peaked_flow, dtype, tolerance, monkeypatch):
    flow, x = peaked_flow
    with jax.enable_x64(dtype == "float64"):
        flow, x = jax.tree.map(lambda a: jnp.asarray(a, dtype), (flow, x))
        z = flow.bijector.inverse(x)  # by substitution for the IAF
        sharpness = -flow.bijector.forward_log_det_jacobian(z)
        assert sharpness.max() > 10  # nats: trained indeed
        sequential = flow.bijector.inverse if _is_iaf(flow) else flow.bijector.forward
        start = x if _is_iaf(flow) else z
        values = {}
        for method in ("blocked", "jacobi"):
            _layer(flow).method = method
            values[method] = sequential(start)
        monkeypatch.setattr(MaskedAutoregressive, "_inverse_and_log_det", naive_inverse)
        naive = sequential(start)
        for value in values.values():
            np.testing.assert_allclose(value, naive, rtol=tolerance, atol=tolerance)


def _is_iaf(flow):
    return isinstance(flow.bijector.bijectors[1].layers.bijectors[0], MaskedAutoregressive)


def _layer(flow):
    layer = flow.bijector.bijectors[1].layers.bijectors[0]
    return layer if _is_iaf(flow) else layer.bijector


@methods
def test_vmap_over_points_and_over_layers(inverse):
    with jax.enable_x64(True):
        layer, y, context = example(LAYERS["context"], inverse)
        expected = inverse_of(layer, y, context)
        for ours, wanted in zip(
            jax.vmap(inverse_of, (None, 0, 0))(layer, y, context), expected, strict=True
        ):
            np.testing.assert_allclose(ours, wanted, atol=1e-12)
        second = perturbed(layer, 8)
        both = jax.tree.map(lambda *a: np.stack(a), layer, second)
        x, _ = jax.vmap(inverse_of, (0, None, None))(both, y, context)
        np.testing.assert_allclose(x[1], inverse_of(second, y, context)[0], atol=1e-12)


@methods
def test_batch_shapes(inverse):
    with jax.enable_x64(True):
        layer, _, contexts = example(LAYERS["context"], inverse, num_points=3)
        y = normals(4, 2, 3, 12)
        for context in (contexts, contexts[0]):
            expected = jax.jit(naive_inverse)(layer, y, context)
            for ours, wanted in zip(inverse_of(layer, y, context), expected, strict=True):
                np.testing.assert_allclose(ours, wanted, atol=1e-12)
        x, log_det = inverse_of(layer, y[:0, :0], contexts[0])
        assert (x.shape, log_det.shape) == ((0, 0, 12), (0, 0))


@methods
def test_gradients_of_small_losses_are_as_exact(inverse):
    layer, y, context = example(LAYERS["context"], inverse)
    gradient = jax.jit(jax.grad(lambda y, weight: weight * inverse_of(layer, y, context)[0].sum()))
    tiny = 2.0**-27  # a power of 2, which rounds nothing
    np.testing.assert_allclose(gradient(y, tiny) / tiny, gradient(y, 1.0), rtol=1e-5, atol=1e-5)


@methods
def test_float32_layers_stay_float32_where_float64_is_enabled(inverse):
    layer, y, context = example(LAYERS["context"], inverse)
    with jax.enable_x64(True):
        for both in (inverse_of(layer, y, context), layer.forward_and_log_det(y, context)):
            assert {a.dtype for a in both} == {jnp.dtype("float32")}


@methods
def test_a_bad_row_leaves_the_others_alone(inverse):
    layer, y, _ = example(LAYERS["residual"], inverse)
    x, log_det = inverse_of(layer, y.at[1, 3].set(jnp.nan), None)
    assert np.isfinite(log_det).tolist() == [True, False, True, True, True]
    np.testing.assert_allclose(x[2:], inverse_of(layer, y, None)[0][2:], rtol=1e-5)


@pytest.mark.parametrize(("matrix", "sweeps"), [(np.zeros((9, 9)), 2), (np.eye(9, k=-1), 9)])
def test_jacobi_stops_as_soon_as_nothing_moves_and_is_exact_after_d_sweeps(matrix, sweeps):
    b, calls = jnp.arange(1.0, 10.0), []

    def update(v):
        calls.append(1)
        return b + matrix @ v

    with jax.disable_jit():
        v = fixed_point._iterate(update, jnp.zeros(9), 9)
    np.testing.assert_allclose(v, np.linalg.solve(np.eye(9) - matrix, b), rtol=1e-6)
    assert len(calls) == sweeps


def test_auto_takes_the_substitution_also_for_points_under_vmap():
    flow = flows.iaf(8, num_layers=2, hidden_sizes=(16,), rngs=nnx.Rngs(0))
    program = str(jax.make_jaxpr(jax.vmap(flow.log_prob))(jnp.ones((1000, 8))))
    assert "while[" not in program  # of Jacobi's sweeps


@pytest.mark.slow
def test_all_orders_of_derivatives_of_a_whole_flow_at_one_point():
    flow = perturbed(flows.iaf(3, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0)))
    x = jnp.array([[0.3, -0.2, 0.5], [1.0, 0.0, -1.0]])
    derivatives = jax.jacrev(jax.grad(flow.log_prob)), jax.hessian(flow.log_prob)
    by_reverse, by_both = (jax.jit(jax.vmap(second))(x) for second in derivatives)
    np.testing.assert_allclose(by_reverse, by_both, atol=1e-4)


def test_program_grows_with_the_root_of_the_event_and_not_with_the_layers():
    def length(event_size, num_layers):
        make = functools.partial(flows.maf, event_size, num_layers=num_layers, hidden_sizes=(32,))
        flow = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
        sample = lambda flow, key: flow.sample(seed=key, sample_shape=(10,))
        return len(str(jax.make_jaxpr(sample)(flow, jax.random.key(0))).splitlines())

    assert length(400, 1) < 2.5 * length(100, 1)  # as the number of groups, sqrt(D)
    assert length(100, 8) == length(100, 2)


def test_unknown_inverse_is_refused():
    with pytest.raises(ValueError, match=r"inverse must be one of.*'fast'"):
        MaskedAutoregressive(2, inverse="fast", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="inverse must be one of"):
        flows.iaf(2, inverse="fast", rngs=nnx.Rngs(0))


@pytest.mark.parametrize("num_points", [1, 100])
def test_large_products_in_two_halves_are_the_masked_product(num_points, monkeypatch):
    monkeypatch.setattr(masked, "SPLIT_WIDTH", 4)
    net = perturbed(MaskedMLP(7, 2, (13, 9), rngs=nnx.Rngs(0)))
    x = normals(0, num_points, 13)

    @jax.jit
    def dense(net):
        kernel = jnp.where(net.masks()[1], net.layers[1].kernel[...], 0)
        return x @ kernel + net.layers[1].bias[...]

    @jax.jit
    def ours(net):
        return net.linear(1, x)

    np.testing.assert_allclose(ours(net), dense(net), atol=1e-5)
    by_kernel = lambda function: jax.jit(jax.jacobian(function))(net).layers[1].kernel[...]
    np.testing.assert_allclose(by_kernel(ours), by_kernel(dense), atol=1e-5)

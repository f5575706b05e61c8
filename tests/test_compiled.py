"""Public methods outside `jit` are compiled once, and inside it they are the caller's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import bound, perturbed

import flows
from flows._programs import _normals, normals, quick_jit
from flows.conditioners import compute_in

KEY = jax.random.key(0)
FLOWS = {
    "maf": flows.maf(3, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0)),
    "iaf": flows.iaf(3, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0)),
    "real_nvp": flows.real_nvp(3, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0)),
    "conditional maf": flows.maf(
        3, num_layers=2, hidden_sizes=(8,), context_size=2, rngs=nnx.Rngs(0)
    ),
}
all_flows = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)

CALLS = {
    "log_prob": lambda flow: flow.log_prob(X),
    "sample": lambda flow: flow.sample(seed=KEY, sample_shape=(5,)),
    "sample_and_log_prob": lambda flow: flow.sample_and_log_prob(seed=KEY, sample_shape=(5,)),
    "from_normals": lambda flow: flow.from_normals(X),
    "forward": lambda flow: flow.bijector.forward(X),
    "inverse_and_log_det": lambda flow: flow.bijector.inverse_and_log_det(X),
    "conditionals": lambda flow: flow.conditionals(X).loc,
}


class Traces:
    """Counts how often a network is traced."""

    def __init__(self, monkeypatch):
        self.number = 0
        for cls in (flows.bijectors.MaskedAutoregressive, flows.bijectors.Coupling):
            for name in ("_forward_and_log_det", "_inverse_and_log_det"):
                monkeypatch.setattr(cls, name, self._counted(getattr(cls, name)))
        jax.clear_caches()

    def _counted(self, method):
        def counted(*args):
            self.number += 1
            return method(*args)

        return counted


@all_flows
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_call_outside_jit_is_traced_once(flow, call, monkeypatch):
    flow = bound(flow)
    traces = Traces(monkeypatch)
    try:
        first = call(flow)
    except NotImplementedError:
        pytest.skip("not known for this flow")
    number = traces.number
    assert number > 0
    other = call(perturbed(flow))
    assert traces.number == number
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)
    assert any(np.any(a != b) for a, b in leaves)  # the weights are arguments


def test_inside_a_transformation_of_the_caller_the_answer_is_the_same():
    flow = FLOWS["maf"]
    expected = flow.log_prob(X)
    np.testing.assert_allclose(jax.jit(lambda f, x: f.log_prob(x))(flow, X), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(flow.log_prob)(X), expected, rtol=1e-5)
    gradient = jax.grad(lambda x: flow.log_prob(x).sum())
    np.testing.assert_allclose(jax.jit(gradient)(X), gradient(X), rtol=1e-4, atol=1e-5)


def test_what_was_compiled_in_one_dtype_is_not_used_for_another():
    flow = perturbed(FLOWS["maf"])
    exact = flow.log_prob(X)
    with compute_in(jnp.bfloat16):
        coarse = flow.log_prob(X)
    assert 1e-4 < np.abs(coarse - exact).max() < 1
    np.testing.assert_array_equal(flow.log_prob(X), exact)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: a.astype(float), flow)
        assert double.log_prob(X.astype(np.float64)).dtype == jnp.float64


def test_lists_and_integers_are_points_outside_jit_too():
    flow = FLOWS["maf"]
    np.testing.assert_array_equal(
        flow.log_prob([[0, 1, 2]]), flow.log_prob(np.array([[0.0, 1, 2]]))
    )


def test_an_altered_flow_is_not_taken_for_the_one_before():
    flow = perturbed(flows.maf(3, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0)))
    before = flow.log_prob(X)
    flow.base = flows.StudentT(3)
    assert np.all(flow.log_prob(X) != before)
    flow.base = flows.DiagonalNormal(3)
    np.testing.assert_allclose(flow.log_prob(X), before, rtol=1e-5)
    flow.base.loc[...] = jnp.ones(3)
    assert np.all(flow.log_prob(X) != before)


@all_flows
@pytest.mark.parametrize("closure", [True, False])
def test_log_prob_is_exported_for_any_batch(flow, closure):
    flow = bound(flow)
    (batch,) = jax.export.symbolic_shape("batch")
    rows = jax.ShapeDtypeStruct((batch, 3), jnp.float32)
    if closure:
        log_prob = jax.export.export(jax.jit(flow.log_prob))(rows).call
    else:
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), flow)
        exported = jax.export.export(jax.jit(lambda flow, x: flow.log_prob(x)))(shapes, rows)
        log_prob = lambda x: exported.call(flow, x)
    for x in (X, X[:1], np.concatenate([X] * 30)):
        np.testing.assert_allclose(log_prob(x), flow.log_prob(x), rtol=1e-4, atol=1e-5)


def test_wide_networks_are_exported_for_any_batch():
    flow = flows.maf(8, num_layers=1, hidden_sizes=(512, 512), rngs=nnx.Rngs(0))
    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(jax.jit(flow.log_prob))(
        jax.ShapeDtypeStruct((batch, 8), jnp.float32)
    )
    x = np.ones((100, 8), np.float32)
    np.testing.assert_allclose(exported.call(x), flow.log_prob(x), rtol=1e-4)


class Counting(flows.bijectors.Bijector):
    def __init__(self):
        super().__init__(3)
        self.count = nnx.Variable(jnp.zeros(()))

    def _forward_and_log_det(self, x, context):
        self.count[...] = self.count[...] + 1
        return x, jnp.zeros(x.shape[:-1])

    _inverse_and_log_det = _forward_and_log_det


def test_a_bijector_that_a_call_would_change_is_refused():
    flow = flows.Flow(flows.StandardNormal(3), Counting())
    with pytest.raises(TypeError, match="must not change the module"):
        flow.log_prob(X)


@pytest.mark.parametrize(
    ("log_det", "match"),
    [
        (lambda x: jnp.zeros(x.shape), r"log-determinants \(5,\), .* got \(5, 3\) and \(5, 3\)"),
        (lambda x: jnp.zeros(1), r"Own must map \(5, 3\) to \(5, 3\) .* got \(5, 3\) and \(1,\)"),
    ],
)
def test_log_determinants_of_another_shape_are_refused(log_det, match):
    for call in ("forward", "inverse", "forward_and_log_det", "inverse_and_log_det"):
        with pytest.raises(ValueError, match=match):
            getattr(Own(log_det), call)(np.ones((5, 3), np.float32))


def test_one_log_determinant_stands_for_all():
    flow = flows.Flow(flows.StandardNormal(3), Own(lambda x: 2.0 + jnp.zeros(())))
    log_prob = flow.log_prob(X)
    np.testing.assert_allclose(log_prob, flows.StandardNormal(3).log_prob(X) + 2.0, rtol=1e-6)
    assert Own(lambda x: jnp.zeros(())).forward_log_det_jacobian(X).shape == X.shape[:1]


class Own(flows.bijectors.Bijector):
    """The identity, with a log-determinant as a user might give it."""

    def __init__(self, log_det):
        super().__init__(3)
        self.log_det = log_det

    def _forward_and_log_det(self, x, context):
        return x, self.log_det(x)

    _inverse_and_log_det = _forward_and_log_det


@pytest.mark.runs_long  # or they are those of jax.jit
def test_quick_programs_are_those_of_jax_wherever_they_are_called():
    program = quick_jit(lambda x, n: n * jnp.sin(x), once=True, static_argnames="n")
    calls = {
        "outside": lambda: program(2.0, n=3),
        "jit": lambda: jax.jit(lambda x: program(x, n=3))(2.0),
        "a constant in jit": lambda: jax.jit(lambda x: program(2.0, n=3) + 0 * x)(1.0),
        "vmap": lambda: jax.vmap(lambda x: program(x, n=3))(jnp.full(2, 2.0))[1],
        "a constant in vmap": lambda: jax.vmap(lambda x: program(2.0, n=3) + 0 * x)(X[:2, 0])[1],
        "scan": lambda: jax.lax.scan(lambda c, x: (c, program(x, n=3)), 0.0, jnp.full(2, 2.0))[1][
            1
        ],
    }
    for name, call in calls.items():
        np.testing.assert_allclose(call(), 3 * np.sin(2.0), rtol=1e-6, err_msg=name)
    slope = jax.grad(lambda x: program(x, n=3) + program(1.0, n=2))(2.0)
    np.testing.assert_allclose(slope, 3 * np.cos(2.0), rtol=1e-6)
    number = program._cache_size()
    assert float(program(1.0, n=3)) != float(program(2.0, n=3))
    assert program._cache_size() == number


def test_quick_programs_have_their_options_where_they_are_wanted(monkeypatch):
    monkeypatch.setattr("flows._programs.QUICK", {"xla_is_there_such_an_option": 1})
    program = quick_jit(lambda x: 2 * x)
    assert program(1.0) == 2.0  # most tests leave out even more
    jax.config.update("jax_disable_most_optimizations", False)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_is_there_such_an_option"):
        program(1.0)
    assert jax.jit(program)(1.0) == 2.0
    assert jax.grad(program)(1.0) == 2.0


def test_weights_are_the_same_wherever_a_flow_is_made():
    def make(key):
        rngs = nnx.Rngs(key)
        return [flows.maf(3, rngs=rngs), flows.nsf(3, permutation="random", rngs=rngs)]

    inside = jax.jit(make)(KEY)
    for one in (make(KEY), jax.tree.map(lambda a: a[1], jax.vmap(make)(jnp.stack([KEY, KEY])))):
        assert jax.tree.structure(one) == jax.tree.structure(inside)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(inside), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-6)
    with jax.enable_x64(True):
        assert flows.maf(3, rngs=nnx.Rngs(0)).log_prob(np.zeros(3)).dtype == jnp.float64


def test_flows_of_other_sizes_draw_their_weights_by_the_same_program():
    flows.maf(3, rngs=nnx.Rngs(0))
    number = _normals._cache_size()
    flows.real_nvp(7, num_layers=3, hidden_sizes=(50, 30), context_size=2, rngs=nnx.Rngs(0))
    assert _normals._cache_size() == number


@pytest.mark.parametrize("shape", [(), (0, 3), (5, 3), (4096,), (4097, 2), (17, 1000)])
def test_normals_are_those_of_jax(shape):
    expected = jax.random.normal(KEY, shape)
    np.testing.assert_array_equal(normals(KEY, shape), expected)
    np.testing.assert_allclose(jax.jit(lambda: normals(KEY, shape))(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{"hidden_sizes": [(8,), (16,)]}, {"activation": ["relu", "tanh"]}]
)
def test_layers_that_are_not_alike_make_no_stack(options):
    ((name, values),) = options.items()
    turns = iter(values)
    make = lambda rngs: flows.bijectors.Coupling(2, **{name: next(turns)}, rngs=rngs)
    with pytest.raises(ValueError, match="make_layer must make layers of equal structure"):
        flows.bijectors.Stack(make, 2, rngs=nnx.Rngs(0))


def test_layers_may_make_their_own_functions():
    make = lambda rngs: flows.bijectors.Coupling(2, activation=lambda h: jnp.sin(h), rngs=rngs)
    stack = flows.bijectors.Stack(make, 2, rngs=nnx.Rngs(0))
    assert stack.forward(X[:, :2]).shape == (5, 2)

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from helpers import perturbed
from tensorflow_probability.substrates.jax import distributions as tfd

import flows


def test_bases_against_scipy():
    x = np.linspace(-3, 3, 20).reshape(10, 2)
    np.testing.assert_allclose(
        flows.StandardNormal(2).log_prob(x), scipy.stats.norm.logpdf(x).sum(1), rtol=1e-5
    )
    normal = perturbed(flows.DiagonalNormal(2))
    np.testing.assert_allclose(
        normal.log_prob(x),
        scipy.stats.norm.logpdf(x, normal.loc[...], np.exp(normal.log_scale[...])).sum(1),
        rtol=1e-4,
    )
    t = perturbed(flows.StudentT(2, df=4.0))
    np.testing.assert_allclose(
        t.log_prob(x),
        scipy.stats.t.logpdf(x, np.exp(t.log_df[...]), t.loc[...], np.exp(t.log_scale[...])).sum(1),
        rtol=1e-4,
    )


@pytest.mark.parametrize("base", [flows.StandardNormal, flows.DiagonalNormal, flows.StudentT])
def test_draws_of_bases_follow_their_density(base):
    dist = perturbed(base(2)) if base is not flows.StandardNormal else base(2)
    x = np.asarray(dist.sample(seed=jax.random.key(0), sample_shape=(20_000,)))
    for i in range(2):
        if base is flows.StandardNormal:
            cdf = scipy.stats.norm.cdf
        else:
            loc, scale = float(dist.loc[i]), float(np.exp(dist.log_scale[i]))
            if base is flows.DiagonalNormal:
                cdf = scipy.stats.norm(loc, scale).cdf
            else:
                cdf = scipy.stats.t(float(np.exp(dist.log_df[i])), loc, scale).cdf
        assert scipy.stats.kstest(x[:, i], cdf).pvalue > 1e-3


def test_standard_normal_has_no_leaves_and_bases_own_few():
    assert not jax.tree.leaves(flows.StandardNormal(3))
    assert len(jax.tree.leaves(flows.DiagonalNormal(3))) == 2
    assert len(jax.tree.leaves(flows.StudentT(3))) == 3


def pair():
    make = lambda seed: perturbed(
        flows.maf(3, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0)), seed, 0.2
    )
    return make(1), make(2)


def written_out_kl(p, q, n=200_000):
    x, log_p = p.sample_and_log_prob(seed=jax.random.key(11), sample_shape=(n,))
    ratio = np.asarray(log_p - q.log_prob(x), np.float64)
    return ratio.mean(), ratio.std() / np.sqrt(n)


def test_kl_of_two_flows_of_one_architecture_is_not_zero():
    for p, q in (pair(), pair()[::-1]):
        value, error = written_out_kl(p, q)
        assert value > 50 * error  # far from zero
        estimate = flows.divergences.kl(p, q, key=jax.random.key(0), num_samples=100_000)
        assert estimate.method == "monte_carlo"
        spread = 4 * np.hypot(error, estimate.standard_error)
        assert abs(estimate.value - value) < spread
        drawn = p.kl_divergence(q, key=jax.random.key(0), num_samples=100_000)
        assert drawn == estimate.value


def test_kl_between_a_flow_and_other_distributions_goes_through_the_registry():
    p, _ = pair()
    normal = distrax.MultivariateNormalDiag(jnp.zeros(3), 2 * jnp.ones(3))
    for a, b in ((p, normal), (normal, p), (p, flows.StandardNormal(3))):
        value, error = written_out_kl(a, b)
        drawn = flows.divergences.kl(a, b, key=jax.random.key(0)).value
        assert abs(drawn - value) < 5 * np.sqrt(20) * error
        for ask in (a.kl_divergence, functools.partial(tfd.kl_divergence, a)):
            with pytest.raises(ValueError, match="key is needed"):
                ask(b)


def test_no_key_of_a_kl_divergence_is_hidden():
    p, q = pair()
    with pytest.raises(ValueError, match=r"key is needed.*flows\.divergences\.kl\(p, q, key="):
        p.kl_divergence(q)
    values = [p.kl_divergence(q, key=jax.random.key(i), num_samples=100) for i in range(2)]
    assert values[0] != values[1]
    base = perturbed(flows.DiagonalNormal(3))  # under one bijector: a closed form
    closed = flows.Flow(base, p.bijector).kl_divergence(p)
    expected = base.kl_divergence(flows.StandardNormal(3))
    np.testing.assert_allclose(closed, expected, rtol=1e-5)


def test_the_kl_divergence_of_normal_bases_keeps_its_digits_near_equality():
    base = flows.DiagonalNormal(2)
    base.log_scale[...] = jnp.full(2, 1e-4)
    np.testing.assert_allclose(base.kl_divergence(flows.StandardNormal(2)), 2e-8, rtol=1e-3)


def test_kl_of_a_flow_with_itself_is_exactly_zero():
    p, _ = pair()
    assert p.kl_divergence(p) == 0


def test_context_errors_of_flows():
    conditional = flows.maf(2, context_size=3, rngs=nnx.Rngs(0))
    plain = flows.maf(2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"context is missing.*context_size=3"):
        conditional.log_prob(jnp.zeros(2))
    with pytest.raises(ValueError, match=r"context is missing.*context_size=3"):
        conditional.sample(seed=jax.random.key(0))
    with pytest.raises(ValueError, match="context was given"):
        plain.condition(jnp.zeros(3))
    with pytest.raises(ValueError, match=r"context must have shape \[\.\.\., 3\]"):
        conditional.condition(jnp.zeros(2))
    bound = conditional.condition(jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"broadcast, got \(5,\) and \(4,\)"):
        bound.log_prob(jnp.zeros((5, 2)))


@pytest.mark.parametrize(
    "given", [None, "a", [["a", "b"]], [[1, 2], [3]], 10**30, jax.random.key(0), [1j]]
)
def test_what_is_no_array_of_numbers_is_refused_by_name(given):
    flow = flows.maf(2, context_size=2, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="context must "):
        flow.condition(given)
    with pytest.raises(TypeError, match="value must "):
        flow.condition(jnp.zeros(2)).log_prob(given)
    with pytest.raises(TypeError, match="x must "):
        flow.bijector.forward(given, jnp.zeros(2))
    with pytest.raises(TypeError, match=r"make_layer.* must be"):
        flows.bijectors.Stack(lambda rngs: given, 2, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="make_layer must be a function"):
        flows.bijectors.Stack(given, 2, rngs=nnx.Rngs(0))


def test_flows_refuse_raw_distrax_parts():
    raw = distrax.Chain([flows.bijectors.Coupling(2, rngs=nnx.Rngs(0))])
    with pytest.raises(TypeError, match=r"bijector must be .*flows\.bijectors\.Chain"):
        flows.Flow(flows.StandardNormal(2), raw)
    with pytest.raises(TypeError, match=r"bijectors\[0\] must be"):
        flows.bijectors.Chain([raw])
    with pytest.raises(TypeError, match="bijector must be"):
        flows.bijectors.Inverse(distrax.Tanh())
    with pytest.raises(TypeError, match="base must be"):
        flows.Flow(distrax.Normal(jnp.zeros(2), 1.0), flows.bijectors.Reverse(2))


def test_gradient_flows_to_the_context():
    flow = perturbed(flows.real_nvp(2, context_size=3, rngs=nnx.Rngs(0)))
    grad = jax.grad(lambda c: flow.condition(c).log_prob(jnp.ones(2)))(jnp.ones(3))
    assert (np.abs(grad) > 0).all()


@pytest.mark.parametrize("base", [flows.StandardNormal, flows.DiagonalNormal, flows.StudentT])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 1), (2, 5)])
def test_points_of_the_wrong_size_are_refused(base, shape):
    dist, points = base(2), jnp.zeros(shape)
    needed = rf"\[\.\.\., 2\] for {dist.name}, got shape \({', ?'.join(map(str, shape))},?\)"
    with pytest.raises(ValueError, match=f"value must have shape {needed}"):
        dist.log_prob(points)
    if base is not flows.StudentT:
        with pytest.raises(ValueError, match=f"noise must have shape {needed}"):
            dist.from_normals(points)
    flow = flows.maf(2, num_layers=1, base=dist, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="value must have shape"):
        flow.conditionals(points)


def test_points_of_integers_are_points():
    flow = flows.maf(2, num_layers=1, rngs=nnx.Rngs(0))
    for dist in (flows.StandardNormal(2), flows.DiagonalNormal(2), flows.StudentT(2), flow):
        assert dist.log_prob([0, 1]) == dist.log_prob(jnp.array([0.0, 1.0]))
    assert flow.conditionals([0, 1]).batch_shape == (2,)


def test_degrees_of_freedom_are_those_after_training(tmp_path):
    x = jnp.asarray(np.random.default_rng(0).standard_t(2.0, size=(200, 2)))
    flow = flows.Flow(flows.StudentT(2, df=[4.0, 30.0]), flows.bijectors.Reverse(2))
    np.testing.assert_allclose(flow.base.df, [4.0, 30.0], rtol=1e-6)
    gradient = jax.grad(lambda flow: -flow.log_prob(x).mean())(flow)
    trained = jax.tree.map(lambda a, g: a - 5 * g, flow, gradient)
    np.testing.assert_allclose(trained.base.df, jnp.exp(trained.base.log_df[...]))
    assert (trained.base.df < flow.base.df).all()
    flows.save(tmp_path / "flow.npz", trained)
    again = flows.load(tmp_path / "flow.npz")
    np.testing.assert_array_equal(again.base.df, trained.base.df)
    np.testing.assert_array_equal(again.log_prob(x), trained.log_prob(x))


@pytest.mark.parametrize(
    ("df", "match"),
    [
        (0.0, "df must be positive and finite, got 0.0"),
        ([1.0, -1.0], "df must be positive and finite"),
        (jnp.nan, "df must be positive and finite, got nan"),
        (jnp.ones(3), r"df must be a number or have shape \[2\], got shape \(3,\)"),
    ],
)
def test_degrees_of_freedom_that_are_none(df, match):
    with pytest.raises(ValueError, match=match):
        flows.StudentT(2, df=df)


CONTEXTS = jax.random.normal(jax.random.key(1), (5, 3))


def bound_somewhere(where):
    """A flow with 5 contexts bound in a part of its bijector."""
    conditional = flows.real_nvp(2, context_size=3, num_layers=2, rngs=nnx.Rngs(0))
    conditional = perturbed(conditional, scale=0.1)
    bound = conditional.condition(CONTEXTS).bijector
    make_layer = lambda rngs: flows.bijectors.Conditioned(
        flows.bijectors.Coupling(2, hidden_sizes=(8,), context_size=3, rngs=rngs), CONTEXTS
    )
    return flows.Flow(
        flows.StandardNormal(2),
        {
            "last": lambda: flows.bijectors.Chain([flows.bijectors.Elementwise(2), bound]),
            "first": lambda: flows.bijectors.Chain([bound, flows.bijectors.Elementwise(2)]),
            "inverse": lambda: flows.bijectors.Inverse(bound),
            "stack": lambda: flows.bijectors.Stack(make_layer, 2, rngs=nnx.Rngs(0)),
            "twice": lambda: flows.bijectors.Chain(
                [bound, conditional.condition(CONTEXTS[:1]).bijector]
            ),
        }[where](),
    )


@pytest.mark.parametrize("where", ["last", "first", "inverse", "stack", "twice"])
def test_the_batch_shape_of_contexts_bound_in_a_part(where):
    flow = bound_somewhere(where)
    assert flow.batch_shape == (5,)
    x, log_prob = flow.sample_and_log_prob(seed=jax.random.key(0), sample_shape=(7,))
    assert x.shape == (7, 5, 2)
    assert len(np.unique(np.asarray(x))) == x.size  # each draw has noise of its own
    np.testing.assert_allclose(flow.log_prob(x), log_prob, atol=1e-4)
    assert flow.sample(seed=jax.random.key(0)).shape == (5, 2)
    assert jax.jit(lambda flow: jnp.zeros(flow.batch_shape))(flow).shape == (5,)


def test_each_member_of_a_batch_follows_its_own_context():
    flow, conditional = bound_somewhere("last"), bound_somewhere("last").bijector.bijectors[1]
    x = flow.sample(seed=jax.random.key(0), sample_shape=(7,))

    def alone(context):
        one = flows.bijectors.Conditioned(conditional.bijector, context)
        chain = flows.bijectors.Chain([flow.bijector.bijectors[0], one])
        return flows.Flow(flows.StandardNormal(2), chain)

    log_prob = jax.vmap(lambda c, x: alone(c).log_prob(x), (0, 1), 1)(CONTEXTS, x)
    np.testing.assert_allclose(flow.log_prob(x), log_prob, atol=1e-5)
    draws = jax.vmap(lambda c: alone(c).sample(seed=jax.random.key(0), sample_shape=(3,)))
    assert draws(CONTEXTS).shape == (5, 3, 2)


def test_bases_that_wait_for_a_context_or_have_a_batch_are_refused():
    conditional = flows.real_nvp(2, context_size=3, num_layers=2, rngs=nnx.Rngs(0))
    reverse = flows.bijectors.Reverse(2)
    with pytest.raises(ValueError, match=r"of base is missing.*context_size=3"):
        flows.Flow(conditional, reverse)
    for base in (conditional.condition(CONTEXTS), bound_somewhere("last")):
        with pytest.raises(ValueError, match=r"base must have no batch shape, got \(5,\)"):
            flows.Flow(base, reverse)
    single = flows.Flow(conditional.condition(CONTEXTS[0]), reverse)
    assert single.sample(seed=jax.random.key(0), sample_shape=(4,)).shape == (4, 2)


def test_bound_parts_take_single_points_and_incompatible_ones_are_refused():
    def layer(rngs, number=5):
        coupling = flows.bijectors.Coupling(2, hidden_sizes=(4,), context_size=1, rngs=rngs)
        return flows.bijectors.Conditioned(coupling, jnp.arange(number)[:, None] / 5.0)

    stack = perturbed(flows.bijectors.Stack(layer, 2, rngs=nnx.Rngs(0)))
    x = jnp.ones(2)
    y, log_det = stack.forward_and_log_det(x)
    assert (y.shape, log_det.shape) == ((5, 2), (5,))
    np.testing.assert_allclose(y, stack.forward(jnp.ones((5, 2))), rtol=1e-6)
    with pytest.raises(ValueError, match=r"batch shapes \[\(5,\), \(3,\)\], which do not broadc"):
        flows.bijectors.Chain([layer(nnx.Rngs(0)), layer(nnx.Rngs(0), 3)])


def test_points_and_noise_of_the_wrong_size_are_named():
    flow = flows.maf(2, num_layers=1, hidden_sizes=(4,), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"value must have shape \[\.\.\., 2\]"):
        flow.log_prob(jnp.ones((5, 3)))
    with pytest.raises(ValueError, match=r"noise must have shape \[\.\.\., 2\]"):
        flow.from_normals(jnp.ones(()))


def test_angles_are_not_compared_with_numbers():
    angles = flows.CircularUniform(2)
    flow = flows.ncsf(2, num_layers=1, hidden_sizes=(4,), rngs=nnx.Rngs(0))
    key = jax.random.key(0)
    for numbers in (flows.DiagonalNormal(2), flows.maf(2, num_layers=1, rngs=nnx.Rngs(0))):
        for p, q in [(numbers, angles), (angles, numbers), (numbers, flow), (flow, numbers)]:
            with pytest.raises(ValueError, match="angles of period 6"):
                flows.divergences.kl(p, q, key=key)
    assert abs(flows.divergences.kl(flow, angles, key=key).value) < 1e-3  # a flow starts near it
    von_mises = tfd.Independent(tfd.VonMises(jnp.zeros(2), jnp.ones(2)), 1)
    assert flows.divergences.kl(von_mises, flow, key=key).value > 0.2

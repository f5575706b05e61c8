import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import perturbed
from scipy import special, stats
from tensorflow_probability.substrates.jax import bijectors as tfb
from tensorflow_probability.substrates.jax import distributions as tfd

import flows
from flows import divergences
from flows.divergences import Estimate, kl, mixture_kl
from flows.divergences.draws import scrambled_sobol
from flows.divergences.symmetric import _alpha_of


def test_closed_form_of_normals():
    p, q = distrax.Normal(0.3, 1.5), distrax.Normal(-1.0, 2.0)
    expected = np.log(2 / 1.5) + (1.5**2 + 1.3**2) / (2 * 4) - 0.5
    estimate = kl(p, q)
    np.testing.assert_allclose(estimate.value, expected, rtol=1e-6)
    assert (estimate.method, estimate.num_samples, float(estimate.standard_error)) == (
        "closed_form", 0, 0.0,
    )  # fmt: skip


def test_multivariate_normals_are_closed_although_distrax_makes_them_pushforwards():
    loc, scale = jnp.array([1.0, -1.0]), jnp.array([0.5, 2.0])
    p, q = distrax.MultivariateNormalDiag(loc, scale), flows.DiagonalNormal(2)
    expected = 0.5 * (scale**2 + loc**2 - 1 - 2 * jnp.log(scale)).sum()
    estimate = kl(p, distrax.MultivariateNormalDiag(jnp.zeros(2), jnp.ones(2)))
    assert estimate.method == "closed_form"
    np.testing.assert_allclose(estimate.value, expected, rtol=1e-5)
    own = kl(perturbed(q), flows.StandardNormal(2))
    assert own.method == "closed_form"


def test_transformed_distributions_never_take_the_false_zero():
    normal = distrax.MultivariateNormalDiag(jnp.zeros(2), jnp.ones(2))
    shifted = lambda by: distrax.Transformed(
        normal, distrax.Block(distrax.ScalarAffine(jnp.array([by, by]), jnp.ones(2)), 1)
    )
    p, q = shifted(0.0), shifted(5.0)
    assert float(p.kl_divergence(q)) == 0.0  # the trap in distrax itself
    estimate = kl(p, q, key=jax.random.key(0))
    assert estimate.method == "monte_carlo"
    assert abs(estimate.value - 25.0) < 4 * estimate.standard_error
    inside = distrax.Independent(
        distrax.Transformed(distrax.Normal(jnp.zeros(2), 1.0), distrax.ScalarAffine(0.0, 3.0)), 1
    )
    assert kl(inside, inside, key=jax.random.key(0)).method == "monte_carlo"


def test_monte_carlo_value_and_error_on_a_known_pair():
    # A flow that is exactly N(loc, L L^T), against the closed form.
    loc, tril = jnp.array([0.5, -1.0]), jnp.array([[1.0, 0], [0.4, 0.6]])
    p = flows.Flow(flows.StandardNormal(2), flows.bijectors.TriangularAffine(loc, tril))
    q = flows.StandardNormal(2)
    exact = kl(
        distrax.MultivariateNormalTri(loc, tril),
        distrax.MultivariateNormalDiag(jnp.zeros(2), jnp.ones(2)),
    ).value
    run = jax.jit(jax.vmap(lambda key: kl(p, q, key=key, num_samples=500)))
    estimates = jax.tree.map(np.asarray, run(jax.random.split(jax.random.key(0), 400)))
    z = (estimates.value - exact) / estimates.standard_error
    assert abs(z.mean()) < 4 / np.sqrt(400)  # unbiased
    inside = float((abs(z) < 1.96).mean())
    assert abs(inside - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 400)  # the error bar is honest


def test_works_inside_jit_and_is_differentiable():
    p = flows.DiagonalNormal(2)
    flow = flows.Flow(p, flows.bijectors.Reverse(2))
    q = distrax.MultivariateNormalDiag(jnp.ones(2), jnp.ones(2))

    @jax.jit
    def value(flow, key):
        return kl(flow, q, key=key, num_samples=20_000).value

    grad = jax.grad(value)(flow, jax.random.key(0))
    np.testing.assert_allclose(grad.base.loc[...], -1.0, atol=0.05)  # d/dm of (m - 1)^2 / 2 at 0


def test_batch_shapes_are_kept():
    flow = flows.maf(2, context_size=1, rngs=nnx.Rngs(0)).condition(jnp.zeros((5, 1)))
    estimate = kl(flow, flows.StandardNormal(2), key=jax.random.key(0), num_samples=100)
    assert estimate.value.shape == estimate.standard_error.shape == (5,)


def test_estimate_of_draws():
    draws = jnp.array([1.0, 2.0, 3.0, 6.0])
    estimate = Estimate.from_draws(draws)
    assert float(estimate.value) == 3.0
    np.testing.assert_allclose(estimate.standard_error, np.std(draws, ddof=1) / 2, rtol=1e-6)


def test_errors():
    flow = flows.maf(2, rngs=nnx.Rngs(0))
    other = flows.maf(3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"event shape, got \(2,\) and \(3,\)"):
        kl(flow, other, key=jax.random.key(0))
    with pytest.raises(TypeError, match=r"p must be a distribution .* got ndarray: draws are"):
        kl(np.ones((9, 2)), flow, key=jax.random.key(0))
    with pytest.raises(TypeError, match=r"q must be a distribution .* got ArrayImpl: draws are"):
        kl(flow, jnp.ones((9, 2)), key=jax.random.key(0))
    same = flows.maf(2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="key is needed"):
        kl(flow, same)
    with pytest.raises(TypeError, match="key must be a JAX random key"):
        kl(flow, same, key=0)
    with pytest.raises(ValueError, match="num_samples must be at least 2"):
        kl(flow, same, key=jax.random.key(0), num_samples=1)
    with pytest.raises(TypeError, match="num_samples must be an int"):
        kl(flow, same, key=jax.random.key(0), num_samples=1.5)
    with pytest.raises(ValueError, match="method must be one of"):
        kl(flow, same, key=jax.random.key(0), method="exact")
    with pytest.raises(ValueError, match="method='closed_form': none is known"):
        kl(flow, same, method="closed_form")
    with pytest.raises(ValueError, match="needs the normal conditionals"):
        kl(flow, same, key=jax.random.key(0), method="rao_blackwell")
    uniform = distrax.Uniform(0.0, 1.0)
    with pytest.raises(ValueError, match="needs a p whose draws follow standard normals"):
        kl(uniform, distrax.Normal(0.0, 1.0), key=jax.random.key(0), sampling="sobol")
    with pytest.raises(ValueError, match="order must be a positive number, got -1"):
        divergences.renyi(uniform, uniform, -1)
    indefinite = distrax.MultivariateNormalFullCovariance(
        jnp.zeros(2), jnp.array([[1.0, 2.0], [2.0, 1.0]])
    )
    with pytest.raises(ValueError, match="q must have a positive definite covariance"):
        kl(distrax.MultivariateNormalDiag(jnp.zeros(2), jnp.ones(2)), indefinite)


KEY = jax.random.key(0)
P, Q = distrax.Normal(0.0, 1.0), distrax.Normal(0.4, 1.3)  # a pair with everything known


def z_score(estimate, exact):
    return abs(float((estimate.value - exact) / estimate.standard_error))


def single_layer(seed):
    """A flow with known conditionals, and a layer in front and a permutation behind."""
    data = np.random.default_rng(7).normal(size=(200, 3)) @ np.tri(3) + 1
    return perturbed(
        flows.maf(
            3, num_layers=1, hidden_sizes=(16,), base=flows.DiagonalNormal(3),
            standardize_with=data, rngs=nnx.Rngs(seed),
        ),
        scale=0.1,
    )  # fmt: skip


def test_one_bijector_under_two_bases_has_a_closed_form():
    bijector = perturbed(flows.maf(2, hidden_sizes=(8,), rngs=nnx.Rngs(0))).bijector
    base = perturbed(flows.DiagonalNormal(2))
    p, q = flows.Flow(base, bijector), flows.Flow(flows.StandardNormal(2), bijector)
    estimate = kl(p, q)
    assert estimate.method == "closed_form"
    assert z_score(kl(p, q, key=KEY, method="monte_carlo"), estimate.value) < 4
    other = flows.Flow(flows.StandardNormal(2), nnx.clone(bijector))
    assert kl(p, other, key=KEY).method == "monte_carlo"
    shift = distrax.ScalarAffine(1.0, 3.0)
    raw = kl(distrax.Transformed(P, shift), distrax.Transformed(Q, shift))
    np.testing.assert_allclose(raw.value, kl(P, Q).value)


@pytest.mark.parametrize("sampling", ["independent", "antithetic", "sobol"])
@pytest.mark.parametrize("method", ["monte_carlo", "control_variate"])
@pytest.mark.parametrize("far", [1.0, pytest.param(8.0, marks=pytest.mark.slow)])
def test_all_estimators_find_the_value(method, sampling, far):
    p = flows.DiagonalNormal(2)
    q = distrax.MultivariateNormalDiag(jnp.array([0.2, -0.1]) * far, jnp.array([1.2, 0.9]))
    exact = kl(p, q).value
    options = {"num_samples": 2000, "method": method, "sampling": sampling}
    run = jax.jit(jax.vmap(lambda key: kl(p, q, key=key, **options)))
    estimates = jax.tree.map(np.asarray, run(jax.random.split(KEY, 200)))
    error = estimates.value.std() / np.sqrt(200)
    assert abs(estimates.value.mean() - exact) < 4 * error
    inside = np.mean(abs(estimates.value - exact) < 1.96 * estimates.standard_error)
    nominal = 0.946 if sampling == "sobol" else 0.95  # 64 nets: P(|t| < 1.96), 63 degrees
    assert abs(inside - nominal) < 4 * np.sqrt(0.05 * 0.95 / 200)


def test_control_variate_is_less_variable_near_and_falls_back_far_off():
    near, far = distrax.Normal(0.05, 1.0), distrax.Normal(3.0, 0.3)
    plain, controlled = (
        kl(P, near, key=KEY, method=method) for method in ("monte_carlo", "control_variate")
    )
    assert controlled.standard_error < plain.standard_error / 10
    assert controlled.method == "control_variate"
    for q in (far, distrax.MixtureSameFamily(  # half of whose mass no draw of p sees
        distrax.Categorical(probs=jnp.array([0.5, 0.5])),
        distrax.Normal(jnp.array([0.0, 50.0]), jnp.ones(2)),
    )):  # fmt: skip
        plain, controlled = (
            kl(P, q, key=KEY, method=method) for method in ("monte_carlo", "control_variate")
        )
        np.testing.assert_allclose(controlled.value, plain.value)
        assert controlled.method == "monte_carlo"


def test_the_method_says_what_nobody_knows_beforehand():
    method = lambda q: kl(P, q, key=KEY, method="control_variate").method
    assert method(distrax.Normal(jnp.array([0.05, 5.0]), 1.0)) == "guarded_control_variate"
    inside_jit = jax.jit(lambda key: kl(P, Q, key=key, method="control_variate"))(KEY)
    assert inside_jit.method == "guarded_control_variate"


def test_conditionals_multiply_to_the_density():
    for flow in (single_layer(0), perturbed(flows.iaf(2, num_layers=1, rngs=nnx.Rngs(0)))):
        x = flow.sample(seed=KEY, sample_shape=(50,))
        conditionals = flow.conditionals(x)
        np.testing.assert_allclose(
            conditionals.log_prob(x).sum(-1), flow.log_prob(x), rtol=1e-4, atol=1e-4
        )
    # Those of a coordinate do not see the later ones.
    moved = single_layer(0).conditionals(x := jnp.ones((1, 3)))
    again = single_layer(0).conditionals(x.at[:, 2].set(5.0))
    np.testing.assert_allclose(moved.loc[:, :3], again.loc[:, :3], rtol=1e-4)
    context = perturbed(flows.maf(2, num_layers=1, context_size=1, rngs=nnx.Rngs(0)))
    bound = context.condition(jnp.ones((4, 1)))
    assert bound.conditionals(jnp.zeros(2)).batch_shape == (4, 2)
    for unknown in (
        flows.maf(2, rngs=nnx.Rngs(0)),  # two orders
        flows.real_nvp(2, num_layers=1, rngs=nnx.Rngs(0)),
        flows.maf(2, num_layers=1, base=flows.StudentT(2), rngs=nnx.Rngs(0)),
    ):
        with pytest.raises(NotImplementedError):
            unknown.conditionals(jnp.zeros(2))


def test_rao_blackwell_agrees_and_varies_less():
    p, q = single_layer(0), single_layer(1)
    plain = kl(p, q, key=KEY, num_samples=20_000)
    conditional = kl(p, q, key=jax.random.key(1), num_samples=20_000, method="rao_blackwell")
    error = jnp.hypot(plain.standard_error, conditional.standard_error)
    assert abs(plain.value - conditional.value) < 4 * error
    assert conditional.standard_error < 0.5 * plain.standard_error


def test_sobol_points_are_even_and_each_is_uniform():
    points = scrambled_sobol(KEY, 6, 3)
    for column in points.T:  # one in each of 64 intervals
        assert sorted(np.floor(np.asarray(column) * 64)) == list(range(64))
    first = jax.vmap(lambda key: scrambled_sobol(key, 1, 2)[0])(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(first.mean(0), 0.5, atol=4 / np.sqrt(12 * 4000))
    np.testing.assert_allclose((first**2).mean(0), 1 / 3, atol=4 * 0.298 / np.sqrt(4000))


def integral(f):
    x = np.linspace(-30.0, 30.0, 200_001)
    with np.errstate(all="ignore"):
        values = f(stats.norm.pdf(x, 0.0, 1.0), stats.norm.pdf(x, 0.4, 1.3))
    return np.trapezoid(np.nan_to_num(values), x)


EXACT = {
    "kl": integral(lambda p, q: p * np.log(p / q)),
    "reverse": integral(lambda p, q: q * np.log(q / p)),
    "jeffreys": integral(lambda p, q: (p - q) * np.log(p / q)),
    "jensen_shannon": integral(
        lambda p, q: (p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))) / 2
    ),
    "total_variation": integral(lambda p, q: abs(p - q) / 2),
    "cross_entropy": integral(lambda p, q: -p * np.log(q)),
    "bhattacharyya": -np.log(integral(lambda p, q: np.sqrt(p * q))),
    "hellinger": np.sqrt(1 - integral(lambda p, q: np.sqrt(p * q))),
}
ORDERS = [0.2, 0.5, 0.9, 1.0, 1.5, 2.0]


def unknown(dist):
    """The same density in a class that has no closed forms."""
    return distrax.Transformed(dist, distrax.ScalarAffine(0.0, 1.0))


@pytest.mark.parametrize("name", EXACT)
def test_closed_forms_and_draws_against_integrals(name):
    function = getattr(divergences, name)
    estimate = function(unknown(P), unknown(Q), key=KEY)
    assert estimate.method == "monte_carlo"
    assert z_score(estimate, EXACT[name]) < 4
    if name not in ("jensen_shannon", "total_variation"):
        closed = function(P, Q)
        assert closed.standard_error == 0
        np.testing.assert_allclose(closed.value, EXACT[name], rtol=2e-6, atol=2e-7)


FAMILIES = [
    (distrax.Gamma(2.0, 1.0), distrax.Gamma(3.0, 2.0)),
    (distrax.Beta(2.0, 3.0), distrax.Beta(1.5, 2.0)),
    (distrax.Dirichlet(jnp.array([1.0, 2.0, 3.0])), distrax.Dirichlet(jnp.ones(3))),
    (tfd.LogNormal(0.0, 1.0), tfd.LogNormal(0.5, 1.2)),
    (distrax.Categorical(probs=jnp.array([0.2, 0.8])), distrax.Categorical(probs=jnp.ones(2) / 2)),
    (distrax.Uniform(0.2, 0.7), distrax.Uniform(0.0, 1.0)),
    (
        distrax.MultivariateNormalDiag(jnp.linspace(0, 0.5, 20), jnp.linspace(0.8, 1.2, 20)),
        tfd.MultivariateNormalTriL(jnp.zeros(20), jnp.eye(20) + 0.02 * jnp.tri(20)),
    ),
]


@pytest.mark.parametrize(("p", "q"), FAMILIES, ids=lambda dist: dist.name)
def test_closed_forms_of_the_registry_against_draws(p, q):
    closed = kl(p, q)
    assert closed.method == "closed_form"
    assert kl(p, p).value == 0
    drawn = kl(p, q, key=KEY, method="monte_carlo", num_samples=100_000)
    assert abs(drawn.value - closed.value) < 4 * drawn.standard_error + 1e-6


@pytest.mark.parametrize("order", ORDERS)
def test_renyi_and_alpha_against_integrals(order):
    power = integral(lambda p, q: p**order * q ** (1 - order))
    if order == 1:
        renyi = alpha = EXACT["kl"]
    else:
        renyi, alpha = np.log(power) / (order - 1), (power - 1) / (order * (order - 1))
    for function, exact in ((divergences.renyi, renyi), (divergences.alpha, alpha)):
        np.testing.assert_allclose(function(P, Q, order).value, exact, rtol=1e-5)
        assert z_score(function(unknown(P), unknown(Q), order, key=KEY), exact) < 4


def test_entropy():
    np.testing.assert_allclose(divergences.entropy(Q).value, 0.5 * np.log(2 * np.pi * np.e * 1.69))
    drawn = divergences.entropy(unknown(Q), key=KEY)
    assert z_score(drawn, divergences.entropy(Q).value) < 4


def test_bounds_are_kept_and_gaps_in_the_support_are_infinite():
    apart = distrax.Uniform(0.0, 1.0), distrax.Uniform(2.0, 3.0)
    np.testing.assert_allclose(divergences.jensen_shannon(*apart, key=KEY).value, np.log(2))
    assert divergences.total_variation(*apart, key=KEY).value == 1
    assert divergences.hellinger(*apart, key=KEY).value == 1
    for near in (1e-3, 1e-6, 0.0):
        pair = P, distrax.Normal(near, 1.0)
        for key in jax.random.split(KEY, 5):
            assert 0 <= divergences.jensen_shannon(*pair, key=key).value <= np.log(2)
    positive = [
        tfd.Gamma(2.0, 1.0), tfd.Exponential(1.0), tfd.LogNormal(0.0, 1.0), distrax.Gamma(2.0, 1.0),
        distrax.Beta(2.0, 2.0), distrax.Uniform(0.0, 1.0), tfd.Chi2(3.0),
    ]  # fmt: skip
    for q in positive:
        for value in (
            kl(P, q, key=KEY),
            kl(P, q, key=KEY, method="control_variate"),
            divergences.jeffreys(P, q, key=KEY),
            divergences.cross_entropy(P, q, key=KEY),
            divergences.renyi(P, q, 2.0, key=KEY),
        ):
            assert (float(value.value), float(value.standard_error)) == (np.inf, np.inf), q
        assert np.isfinite(divergences.jensen_shannon(P, q, key=KEY).value)
    assert kl(*apart).value == np.inf
    assert divergences.renyi(*apart, 0.5, key=KEY).value == np.inf
    wide = distrax.Normal(0.0, 3.0)
    assert divergences.renyi(wide, P, 2.0).value == np.inf  # int p^2 / q diverges


def test_false_closed_forms_are_not_taken():
    normals = tfd.Normal(-1.0, 1.0), tfd.Normal(1.0, 1.0)
    folded = [tfd.TransformedDistribution(n, tfb.AbsoluteValue()) for n in normals]
    swap = tfb.Permute([1, 0, 2])
    swapped = [tfd.TransformedDistribution(tfd.Normal(m, jnp.ones(3)), swap) for m in (0.0, 1.0)]
    joint = [
        distrax.Joint([distrax.Transformed(P, distrax.ScalarAffine(0.0, s))]) for s in (2.0, 3.0)
    ]
    for p, q in (folded, swapped, joint):
        with pytest.raises(ValueError, match="method='closed_form': none is known"):
            kl(p, q, method="closed_form")


def test_log_ratios_of_hundreds_do_not_overflow():
    p, q = distrax.Laplace(0.0, 1.0), distrax.Laplace(100.0, 1.0)
    # int p^2 / q = (2 exp(100) + exp(-200)) / 3
    second = divergences.renyi(p, q, 2.0, key=KEY)
    np.testing.assert_allclose(second.value, 100 + np.log(2 / 3), atol=4 * second.standard_error)
    far = divergences.bhattacharyya(p, distrax.Laplace(400.0, 1.0), key=KEY)
    assert 150 < far.value < 250  # the integral is exp(-200) (1 + 200)


def test_gradients_where_draws_jump():
    rounded = lambda loc: distrax.Quantized(distrax.Normal(loc, 1.0), low=-5.0, high=5.0)
    loss = lambda loc, key: kl(rounded(loc), rounded(0.0), key=key, num_samples=4000).value
    slopes = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(1.0, jax.random.split(KEY, 50))
    log_prob = jax.jit(lambda loc: rounded(loc).log_prob(np.arange(-5.0, 6.0)))
    p = lambda loc: np.exp(np.asarray(log_prob(loc), float))
    exact = (special.rel_entr(p(1.01), p(0.0)) - special.rel_entr(p(0.99), p(0.0))).sum() / 0.02
    assert abs(slopes.mean() - exact) < 4 * slopes.std() / np.sqrt(50) + 1e-3


def test_what_is_not_a_number_stays_so():
    broken = flows.DiagonalNormal(2)
    broken.loc[...] = jnp.full(2, jnp.nan)
    flow = flows.Flow(broken, flows.bijectors.Reverse(2))
    assert np.isnan(kl(flow, flows.StandardNormal(2), key=KEY).value)


@pytest.mark.parametrize("name", ["kl", "jensen_shannon", "jeffreys", "total_variation"])
def test_gradients_of_mixtures_and_of_normals(name):
    """Draws of a mixture do not follow its weights: they have a gradient by the score only."""

    def mixture(logit):
        return distrax.MixtureSameFamily(
            distrax.Categorical(logits=jnp.array([logit, 0.0])),
            distrax.Normal(jnp.array([-1.0, 1.5]), jnp.array([1.0, 0.7])),
        )

    function = getattr(divergences, name)
    value = lambda logit, key: function(mixture(logit), Q, key=key, num_samples=4000).value
    gradients = jax.jit(jax.vmap(jax.grad(value), (None, 0)))(0.3, jax.random.split(KEY, 100))
    x = np.linspace(-12.0, 12.0, 20_001)
    densities = jax.jit(lambda logit: [jnp.exp(d.log_prob(x)) for d in (mixture(logit), Q)])

    def exact(logit):
        p, q = map(np.asarray, densities(logit))
        f = {
            "kl": p * np.log(p / q),
            "jensen_shannon": (p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))) / 2,
            "jeffreys": (p - q) * np.log(p / q),
            "total_variation": abs(p - q) / 2,
        }[name]
        return np.trapezoid(f, x)

    slope = (exact(0.31) - exact(0.29)) / 0.02
    error = gradients.std() / np.sqrt(100)
    assert abs(gradients.mean() - slope) < 4 * error
    moved = lambda m: function(unknown(distrax.Normal(m, 1.0)), Q, key=KEY).value
    normal = jax.jit(jax.grad(moved))(0.0)
    assert np.isfinite(normal)
    assert normal < 0


def test_draws_broadcast_against_the_batch_of_the_other():
    q = distrax.MultivariateNormalDiag(jnp.arange(5.0)[:, None] * jnp.ones(2), jnp.ones((5, 2)))
    p = flows.Flow(flows.StandardNormal(2), flows.bijectors.Reverse(2))
    for function in (kl, divergences.jensen_shannon, divergences.total_variation):
        run = lambda key, function=function: function(p, q, key=key, num_samples=5000)
        estimate = jax.jit(run)(KEY)
        assert estimate.value.shape == estimate.standard_error.shape == (5,)
    estimate = jax.tree.map(np.asarray, kl(p, q, key=KEY))
    np.testing.assert_array_less(
        abs(estimate.value - np.arange(5.0) ** 2), 4 * estimate.standard_error + 1e-6
    )


def test_everything_runs_inside_jit():
    def values(key):
        names = ("kl", "reverse", "jeffreys", "jensen_shannon", "total_variation", "hellinger")
        drawn = [getattr(divergences, n)(unknown(P), Q, key=key).value for n in names]
        closed = [getattr(divergences, n)(P, Q).value for n in ("kl", "jeffreys", "wasserstein2")]
        return jnp.stack([*drawn, *closed])

    np.testing.assert_allclose(jax.jit(values)(KEY), values(KEY), rtol=1e-4)


NEAR = {  # at a distance of d^2 / 2 in KL
    "jeffreys": lambda p, q: divergences.jeffreys(p, q, key=KEY).value / 2,
    "jensen_shannon": lambda p, q: 4 * divergences.jensen_shannon(p, q, key=KEY).value,
    "hellinger": lambda p, q: 4 * divergences.hellinger(p, q, key=KEY).value ** 2,
    "bhattacharyya": lambda p, q: 4 * divergences.bhattacharyya(p, q, key=KEY).value,
    "control_variate": lambda p, q: kl(p, q, key=KEY, method="control_variate").value,
    **{
        f"alpha {order}": lambda p, q, order=order: divergences.alpha(p, q, order, key=KEY).value
        for order in (1e-3, 0.2, 0.5, 0.9, 0.999, 1.5, 3.0)
    },
    **{
        f"renyi {order}": lambda p, q, order=order: (
            divergences.renyi(p, q, order, key=KEY).value / order
        )
        for order in (1e-3, 0.2, 0.999, 1.001, 2.0)
    },
}


@pytest.mark.parametrize("name", NEAR)
def test_no_digits_cancel_near_equality(name):
    for shift in (1e-2, 1e-3, 1e-4, 1e-5):
        drawn = NEAR[name](unknown(P), unknown(distrax.Normal(shift, 1.0)))
        np.testing.assert_allclose(drawn, shift**2 / 2, rtol=4 * 0.0143)  # sd of a squared normal
    assert NEAR[name](P, P) == 0


@pytest.mark.parametrize("order", [1e-6, 0.3, 0.5, 0.8, 1 - 1e-6, 1 + 1e-6, 3.0])
def test_draws_of_alpha_against_their_formula(order):
    t = np.concatenate([np.geomspace(1e-3, 25, 80), -np.geomspace(1e-3, 25, 80)])
    a, s = np.longdouble(order), 1 / (1 + np.exp(-np.longdouble(t)))
    exact = 2 * (s**a * (1 - s) ** (1 - a) - a * s - (1 - a) * (1 - s)) / (a * (a - 1))
    drawn = jax.jit(lambda t: _alpha_of(t, order))
    with jax.enable_x64(True):
        np.testing.assert_allclose(drawn(t), exact.astype(float), rtol=1e-6)
    np.testing.assert_allclose(drawn(np.float32(t)), exact.astype(float), rtol=3e-5)
    ends = drawn(np.array([np.inf, -np.inf], np.float32))
    np.testing.assert_allclose(ends, [2 / (1 - order) if order < 1 else jnp.inf, 2 / order])


def test_standard_errors_of_large_and_of_tiny_draws():
    for size in (1e-25, 1.0, 1e25):
        estimate = Estimate.from_draws(size * jnp.array([1.0, 3.0]))
        np.testing.assert_allclose(estimate.standard_error, size, rtol=1e-6)
    assert Estimate.from_draws(jnp.ones(3)).standard_error == 0


def test_loops_outside_jit_are_compiled_once(caplog):
    p = single_layer(0)
    x = p.sample(seed=KEY, sample_shape=(5,))
    parts = lambda loc: distrax.MixtureSameFamily(
        distrax.Categorical(logits=jnp.zeros(2)), distrax.Normal(loc * jnp.arange(2.0), 1.0)
    )
    calls = {
        "conditionals": lambda: p.conditionals(x),
        "sobol": lambda: scrambled_sobol(KEY, 4, 3),
        "sobol draws": lambda: kl(P, unknown(Q), key=KEY, sampling="sobol", num_samples=128),
        "mixtures": lambda: mixture_kl(parts(1.0), parts(2.0), "variational_upper_bound"),
    }
    for name, call in calls.items():
        call()
        caplog.clear()
        with jax.log_compiles():
            call()
        again = [r.getMessage() for r in caplog.records if "ompil" in r.getMessage()]
        assert not again, name

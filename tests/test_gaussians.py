"""Closed forms between Gaussians, generalised Gaussians, and bounds between their mixtures."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, special, stats
from tensorflow_probability.substrates.jax import distributions as tfd

import flows
from flows.divergences import (
    as_gaussian,
    generalized_gaussian_kl,
    kl,
    mixture_kl,
    renyi,
    wasserstein2,
)

KEY = jax.random.key(0)
BOTH = pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])


def gaussian(rng, size, scales=(1.0, 1.0)):
    """Mean and Cholesky factor, the coordinates in units between `scales`."""
    tril = np.tril(rng.normal(size=(size, size))) / np.sqrt(size)
    np.fill_diagonal(tril, rng.uniform(0.5, 1.5, size))
    units = 10.0 ** rng.uniform(*np.log10(scales), size)
    return rng.normal(size=size) * units, units[:, None] * tril


def tri(loc, tril):
    return distrax.MultivariateNormalTri(jnp.asarray(loc), jnp.asarray(tril))


def exact_kl(loc_p, tril_p, loc_q, tril_q):
    m, d = np.linalg.solve(tril_q, tril_p), np.linalg.solve(tril_q, loc_p - loc_q)
    log_det = np.log(np.diag(tril_p) / np.diag(tril_q)).sum()
    return 0.5 * ((m**2).sum() + d @ d - len(d)) - log_det


def exact_wasserstein2(loc_p, tril_p, loc_q, tril_q):
    p, q = tril_p @ tril_p.T, tril_q @ tril_q.T
    root = linalg.sqrtm(p)
    cross = linalg.sqrtm(root @ q @ root).real
    return np.sqrt(((loc_p - loc_q) ** 2).sum() + np.trace(p + q - 2 * cross))


def exact_renyi(loc_p, tril_p, loc_q, tril_q, order):
    p, q = tril_p @ tril_p.T, tril_q @ tril_q.T
    mixed, d = order * q + (1 - order) * p, loc_p - loc_q
    if np.linalg.eigvals(np.linalg.solve(q, mixed)).real.min() <= 0:
        return np.inf
    log_det = [np.linalg.slogdet(s)[1] for s in (mixed, p, q)]
    spread = log_det[0] - (1 - order) * log_det[1] - order * log_det[2]
    return order / 2 * d @ np.linalg.solve(mixed, d) - spread / (2 * (order - 1))


@BOTH
@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_closed_forms(size, x64):
    rng = np.random.default_rng(size)
    p, q = gaussian(rng, size), gaussian(rng, size)
    with jax.enable_x64(x64):
        rtol = 1e-10 if x64 else 1e-4
        np.testing.assert_allclose(kl(tri(*p), tri(*q)).value, exact_kl(*p, *q), rtol=rtol)
        distance = wasserstein2(tri(*p), tri(*q)).value
        np.testing.assert_allclose(distance, exact_wasserstein2(*p, *q), rtol=rtol)
        for order in (0.1, 0.5, 0.9, 1.2, 2.0):
            value = renyi(tri(*p), tri(*q), order).value
            np.testing.assert_allclose(value, exact_renyi(*p, *q, order), rtol=rtol)
        same = tri(*p)
        assert kl(same, tri(*p)).value == 0
        assert renyi(same, same, 0.5).value < 1e-5
        assert wasserstein2(same, same).value < 1e-5


@BOTH
@pytest.mark.parametrize("size", [1, 2, 10])
def test_scales_from_1e_6_to_1e6(size, x64):
    rng = np.random.default_rng(size)
    p, unit = gaussian(rng, size, (1e-6, 1e6)), gaussian(rng, size)
    with jax.enable_x64(x64):
        rtol = 1e-9 if x64 else 2e-4
        for first, second in ((p, unit), (unit, p)):
            pair = tri(*first), tri(*second)
            np.testing.assert_allclose(kl(*pair).value, exact_kl(*first, *second), rtol=rtol)
            expected = exact_renyi(*first, *second, 0.5)
            np.testing.assert_allclose(renyi(*pair, 0.5).value, expected, rtol=rtol)
            expected = exact_wasserstein2(*first, *second)
            np.testing.assert_allclose(wasserstein2(*pair).value, expected, rtol=rtol)
        assert kl(tri(*p), tri(*p)).value == 0


@pytest.mark.parametrize(("x64", "small"), [(False, 1e-3), (True, 1e-6)])
def test_a_nearly_singular_covariance(x64, small):
    tril = np.array([[1.0, 0.0], [1.0, small]])  # a correlation of 1 - small^2 / 2
    p, q = (np.zeros(2), tril), (np.array([0.1, 0.1]), 1.1 * tril)
    with jax.enable_x64(x64):
        np.testing.assert_allclose(kl(tri(*p), tri(*q)).value, exact_kl(*p, *q), rtol=1e-4)
    # As a covariance in float32 it cannot be told from a singular one, and is refused.
    covariance = jnp.full((2, 2), 1.0)
    singular = distrax.MultivariateNormalFullCovariance(jnp.zeros(2), covariance)
    with pytest.raises(ValueError, match="p must have a positive definite covariance"):
        kl(singular, tri(np.zeros(2), np.eye(2)))


LOC, SD = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
ONE_GAUSSIAN = {
    "distrax diag": distrax.MultivariateNormalDiag(LOC, SD),
    "distrax tri": distrax.MultivariateNormalTri(LOC, jnp.diag(SD)),
    "distrax upper": distrax.MultivariateNormalTri(LOC, jnp.diag(SD), is_lower=False),
    "distrax full": distrax.MultivariateNormalFullCovariance(LOC, jnp.diag(SD**2)),
    "distrax low rank": distrax.MultivariateNormalDiagPlusLowRank(
        LOC, 0.5 * SD, jnp.array([[0.25], [0.0]]), jnp.array([[1.0], [0.0]])
    ),
    "distrax independent": distrax.Independent(distrax.Normal(LOC, SD), 1),
    "tfp diag": tfd.MultivariateNormalDiag(LOC, SD),
    "tfp tri": tfd.MultivariateNormalTriL(LOC, jnp.diag(SD)),
    "tfp full": tfd.MultivariateNormalFullCovariance(LOC, jnp.diag(SD**2)),
    "tfp independent": tfd.Independent(tfd.Normal(LOC, SD), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_GAUSSIAN)
def test_every_class_of_gaussian_pairs_with_every_other(name):
    p = ONE_GAUSSIAN[name]
    seen = as_gaussian(p)
    covariance = seen.tril @ seen.tril.mT
    expected = np.diag(SD**2) if name != "distrax low rank" else np.diag([0.25, 2.25])
    np.testing.assert_allclose(covariance, expected, rtol=1e-5)
    np.testing.assert_array_equal(seen.loc, LOC)
    if name == "distrax low rank":
        return
    for q in ONE_GAUSSIAN.values():
        other = as_gaussian(q)
        expected = exact_kl(*(np.asarray(a, float) for a in (LOC, seen.tril, LOC, other.tril)))
        for pair in ((p, q), (p, flows.StandardNormal(2)), (flows.DiagonalNormal(2), q)):
            assert kl(*pair).method == wasserstein2(*pair).method == "closed_form"
        np.testing.assert_allclose(kl(p, q).value, expected, atol=1e-6)


def test_batches_and_gradients():
    loc = jnp.arange(6.0).reshape(3, 2)
    p, q = distrax.MultivariateNormalDiag(loc, jnp.ones((3, 2))), tri(np.zeros(2), np.eye(2))
    for function in (kl, wasserstein2, lambda p, q: renyi(p, q, 0.5)):
        assert function(p, q).value.shape == (3,)
    np.testing.assert_allclose(wasserstein2(p, q).value, jnp.linalg.norm(loc, axis=-1), rtol=1e-5)
    scalar = distrax.Normal(jnp.zeros((4, 1)), 1.0), distrax.Normal(jnp.ones(5), 2.0)
    assert kl(*scalar).value.shape == wasserstein2(*scalar).value.shape == (4, 5)

    def of_factor(tril, function):
        return function(tri(np.ones(3), jnp.tril(tril)), tri(np.zeros(3), np.eye(3))).value

    tril = jnp.asarray(gaussian(np.random.default_rng(0), 3)[1], jnp.float32)
    for function in (kl, wasserstein2, lambda p, q: renyi(p, q, 0.5)):
        value = jax.jit(lambda a, f=function: of_factor(a, f))
        jax.test_util.check_grads(value, (tril,), order=1, modes=["rev"], rtol=1e-2)
    # Equal ones: no NaN, although a square root has no derivative at 0.
    gradient = jax.jit(jax.grad(lambda a: of_factor(a, wasserstein2)))(jnp.eye(3))
    assert np.isfinite(gradient).all()


def test_renyi_near_order_one_and_where_it_diverges():
    p, q = distrax.Normal(0.0, 1.3), distrax.Normal(0.5, 1.1)
    for order in (1 - 1e-6, 1 + 1e-6, 1 + 1e-4):
        np.testing.assert_allclose(renyi(p, q, order).value, kl(p, q).value, rtol=2e-4)
    of_sd = lambda sd: renyi(distrax.Normal(0.0, sd), distrax.Normal(0.0, 1.0), 2.0).value
    assert np.isinf(of_sd(3.0))
    slopes = jax.jit(jax.jacobian(of_sd))(jnp.array([1.1, 3.0]))
    assert np.isfinite(slopes[0]).all()


def test_signs_on_the_diagonal_of_a_factor_do_not_matter():
    p = distrax.MultivariateNormalTri(jnp.zeros(2), jnp.array([[1.0, 0.0], [1.0, -1.0]]))
    np.testing.assert_allclose(kl(p, tri(np.zeros(2), np.eye(2))).value, 0.5, rtol=1e-6)
    diagonal = tfd.MultivariateNormalDiag(jnp.zeros(2), jnp.array([1.0, -1.0]))
    assert kl(diagonal, flows.StandardNormal(2)).value == 0


def test_refusals():
    normal = distrax.Normal(0.0, 1.0)
    with pytest.raises(ValueError, match="the covariance of q has 1 non-finite"):
        kl(normal, distrax.Normal(0.0, jnp.inf))
    with pytest.raises(TypeError, match="p and q must be Gaussians"):
        wasserstein2(normal, distrax.Uniform(0.0, 1.0))
    with pytest.raises(ValueError, match=r"event shape, got \(\) and \(2,\)"):
        wasserstein2(normal, distrax.MultivariateNormalDiag(jnp.zeros(2), jnp.ones(2)))
    with pytest.raises(TypeError, match="q must be a MixtureSameFamily of Gaussians"):
        mixture_kl(normal, distrax.Uniform(0.0, 1.0))
    with pytest.raises(ValueError, match="method must be one of"):
        mixture_kl(normal, normal, "best")
    with pytest.raises(ValueError, match="p_scatter must be positive definite"):
        generalized_gaussian_kl(-jnp.eye(2), 1.0, jnp.eye(2), 1.0)
    with pytest.raises(ValueError, match=r"q_scatter must have shape \[..., D, D\]"):
        generalized_gaussian_kl(jnp.eye(2), 1.0, jnp.ones(2), 1.0)
    with pytest.raises(ValueError, match="of one size, got 2 and 3"):
        generalized_gaussian_kl(jnp.eye(2), 1.0, jnp.eye(3), 1.0)
    with pytest.raises(ValueError, match="p_shape must be positive"):
        generalized_gaussian_kl(jnp.eye(2), 0.0, jnp.eye(2), 1.0)


# Generalised Gaussians

SHAPES = [(1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.3, 0.7), (2.0, 3.3), (4.0, 10.9), (10.0, 0.2)]


def log_constant(size, b):
    half = size / 2
    return (
        np.log(b) + special.gammaln(half) - half * np.log(np.pi) - special.gammaln(half / b)
        - half / b * np.log(2)
    )  # fmt: skip


@BOTH
@pytest.mark.parametrize(("b", "c"), SHAPES)
def test_generalized_gaussians_against_their_series(b, c, x64):
    """In two dimensions the series is Gauss's hypergeometric function."""
    rng = np.random.default_rng(0)
    p, q = (tril @ tril.T for _, tril in (gaussian(rng, 2), gaussian(rng, 2)))
    low, high = np.sort(np.linalg.eigvals(np.linalg.solve(q, p)).real)
    mean_power = high**c * special.hyp2f1(-c, 0.5, 1, 1 - low / high)
    radius = np.exp(special.gammaln((1 + c) / b) - special.gammaln(1 / b))
    expected = (
        log_constant(2, b) - log_constant(2, c) + 0.5 * np.log(np.linalg.det(q) / np.linalg.det(p))
        - 1 / b + 0.5 * 2 ** (c / b) * radius * mean_power
    )  # fmt: skip
    with jax.enable_x64(x64):
        value = generalized_gaussian_kl(p, b, q, c).value
        np.testing.assert_allclose(value, expected, rtol=1e-11 if x64 else 1e-4)
        assert generalized_gaussian_kl(p, b, p, b).value == 0


@pytest.mark.parametrize("size", [1, 3, 20])
@pytest.mark.parametrize(("b", "c"), [(0.5, 1.7), (2.0, 0.6)])
def test_generalized_gaussians_against_draws(size, b, c):
    rng = np.random.default_rng(size)
    p, q = gaussian(rng, size)[1], gaussian(rng, size)[1]
    direction = rng.normal(size=(200_000, size))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = (2 * rng.gamma(size / 2 / b, size=(200_000, 1))) ** (1 / (2 * b))
    x = radius * direction @ p.T
    log = lambda tril, shape: (
        log_constant(size, shape) - np.log(np.diag(tril)).sum()
        - 0.5 * (np.linalg.solve(tril, x.T) ** 2).sum(axis=0) ** shape
    )  # fmt: skip
    ratio = log(p, b) - log(q, c)
    value = generalized_gaussian_kl(p @ p.T, b, q @ q.T, c).value
    assert abs(value - ratio.mean()) < 4 * ratio.std() / np.sqrt(len(ratio))


def test_generalized_gaussians_of_shape_one_are_gaussians_and_batch_and_differentiate():
    rng = np.random.default_rng(0)
    p, q = gaussian(rng, 4)[1], gaussian(rng, 4)[1]
    expected = exact_kl(np.zeros(4), p, np.zeros(4), q)
    run = jax.jit(lambda shape: generalized_gaussian_kl(p @ p.T, shape, q @ q.T, shape).value)
    values = run(jnp.array([0.5, 1.0, 2.0]))
    np.testing.assert_allclose(values[1], expected, rtol=1e-4)
    slope = jax.grad(run)(1.0)
    np.testing.assert_allclose(slope, (run(1.05) - run(0.95)) / 0.1, rtol=1e-2)
    for scatter in (jnp.diag(jnp.array([3.0, 5.0])), 2 * jnp.eye(2), jnp.array([[2.0]])):
        of = jax.jit(lambda s: generalized_gaussian_kl(s, 1.0, jnp.eye(len(s)), 1.5).value)
        jax.test_util.check_grads(of, (scatter,), order=1, modes=["rev"], rtol=1e-2, eps=1e-2)


# Mixtures

UPPER = ["variational_upper_bound", "upper_bound", "convexity_upper_bound"]
APPROXIMATE = ["matching", "unscented", "product", "variational", "mean_of_bounds"]
QUICK = ["variational_upper_bound", "unscented", "lower_bound"]
REST = sorted({*UPPER, *APPROXIMATE} - {*QUICK})
EACH_METHOD = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)]


def mixture(rng, size, count, spread=2.0, batch=()):
    locs = spread * rng.normal(size=(*batch, count, size))
    trils = np.stack([gaussian(rng, size)[1] for _ in range(count)])
    return distrax.MixtureSameFamily(
        distrax.Categorical(logits=jnp.asarray(rng.normal(size=(*batch, count)))),
        distrax.MultivariateNormalTri(
            jnp.asarray(locs), jnp.broadcast_to(jnp.asarray(trils), (*batch, *trils.shape))
        ),
    )


@pytest.mark.parametrize(
    "size", [1, 10, *(pytest.param(d, marks=pytest.mark.slow) for d in (2, 5))]
)
def test_bounds_bracket_the_value(size):
    rng = np.random.default_rng(size)
    for _ in range(3):
        p, q = mixture(rng, size, 3), mixture(rng, size, 4)
        drawn = mixture_kl(p, q, "monte_carlo", key=KEY, num_samples=100_000)
        slack = 4 * drawn.standard_error
        assert mixture_kl(p, q, "lower_bound").value < drawn.value + slack
        for name in UPPER:
            bound = mixture_kl(p, q, name)
            assert (bound.method, float(bound.standard_error)) == (name, 0)
            assert bound.value > drawn.value - slack
        tight, loose = (mixture_kl(p, q, UPPER[i]).value for i in (0, 2))
        assert tight <= loose


def test_methods_against_formulas_in_one_dimension():
    """Each written out with loops, as in the papers."""
    pi, omega = np.array([0.3, 0.7]), np.array([0.2, 0.5, 0.3])
    m_p, s_p = np.array([-1.0, 1.0]), np.array([0.5, 1.0])
    m_q, s_q = np.array([-0.5, 0.3, 2.0]), np.array([0.8, 0.4, 1.5])
    single = lambda m, s, n, t: np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5
    product = lambda m, s, n, t: stats.norm.pdf(m, n, np.hypot(s, t))
    table = lambda f, n, t: f(m_p[:, None], s_p[:, None], n, t)
    d_pq, d_pp = table(single, m_q, s_q), table(single, m_p, s_p)
    t_pq, z_pp = table(product, m_q, s_q), table(product, m_p, s_p)
    entropy = np.log(s_p) + 0.5 * np.log(2 * np.pi * np.e)
    lower = pi @ (np.log(np.exp(-d_pp) @ pi) - np.log(t_pq @ omega) - entropy)
    upper = pi @ (np.log(z_pp @ pi) - np.log(np.exp(-d_pq) @ omega) + entropy)
    best = (d_pq - np.log(omega)).argmin(axis=1)
    log_mixture = lambda x, w, m, s: np.log((w * stats.norm.pdf(x[..., None], m, s)).sum(axis=-1))
    log_p = lambda x: log_mixture(x, pi, m_p, s_p)
    log_q = lambda x: log_mixture(x, omega, m_q, s_q)
    sigma = np.stack([m_p - s_p, m_p + s_p])
    expected = {
        "matching": pi @ (d_pq[[0, 1], best] + np.log(pi / omega[best])),
        "unscented": pi @ (log_p(sigma) - log_q(sigma)).mean(axis=0),
        "product": pi @ np.log(z_pp @ pi / (t_pq @ omega)),
        "variational": pi @ np.log(np.exp(-d_pp) @ pi / (np.exp(-d_pq) @ omega)),
        "mean_of_bounds": (lower + upper) / 2,
        "lower_bound": lower,
        "upper_bound": upper,
        "convexity_upper_bound": pi @ d_pq @ omega,
    }
    of = lambda weights, loc, scale: distrax.MixtureSameFamily(
        distrax.Categorical(probs=jnp.asarray(weights)),
        distrax.Normal(jnp.asarray(loc), jnp.asarray(scale)),
    )
    p, q = of(pi, m_p, s_p), of(omega, m_q, s_q)
    for name, value in expected.items():
        np.testing.assert_allclose(mixture_kl(p, q, name).value, value, rtol=1e-4, atol=1e-5)
    assert np.isnan(mixture_kl(p, q, "variational").standard_error)


@pytest.mark.parametrize("method", EACH_METHOD)
def test_mixtures_batch_jit_and_differentiate(method):
    rng = np.random.default_rng(0)
    p, q = mixture(rng, 2, 3, batch=(4,)), mixture(rng, 2, 2)
    values = mixture_kl(p, q, method).value
    assert values.shape == (4,)
    np.testing.assert_allclose(mixture_kl(p[1], q, method).value, values[1], rtol=1e-4)

    @jax.jit
    def of_shift(shift):
        components = distrax.MultivariateNormalTri(
            p[0].components_distribution.loc + shift, p[0].components_distribution.scale_tri
        )
        moved = distrax.MixtureSameFamily(p[0].mixture_distribution, components)
        return mixture_kl(moved, q, method).value

    slope = jax.jit(jax.grad(of_shift))(0.3)
    np.testing.assert_allclose(
        slope, (of_shift(0.31) - of_shift(0.29)) / 0.02, rtol=0.02, atol=1e-2
    )


@pytest.mark.parametrize("method", EACH_METHOD)
def test_components_of_weight_zero_do_not_count(method):
    def of(weights, locs):
        return distrax.MixtureSameFamily(
            distrax.Categorical(probs=jnp.array(weights)), distrax.Normal(jnp.array(locs), 0.5)
        )

    p, q = of([0.4, 0.6], [-1.0, 1.0]), of([0.3, 0.7], [-0.5, 1.5])
    more_p, more_q = of([0.4, 0.6, 0.0], [-1.0, 1.0, 9.0]), of([0.0, 0.3, 0.7], [9.0, -0.5, 1.5])
    expected = mixture_kl(p, q, method).value
    np.testing.assert_allclose(mixture_kl(more_p, more_q, method).value, expected, rtol=1e-5)


def test_single_gaussians_are_mixtures_of_one():
    rng = np.random.default_rng(0)
    p, q = gaussian(rng, 3), gaussian(rng, 3)
    for name in ("matching", "variational", *UPPER[::2]):
        value = mixture_kl(tri(*p), tri(*q), name).value
        np.testing.assert_allclose(value, exact_kl(*p, *q), rtol=1e-4)
    diagonal = distrax.MultivariateNormalDiag(jnp.zeros(3), jnp.ones(3))
    full = tri(np.zeros(3), np.eye(3))
    for name in (*UPPER, *APPROXIMATE):
        np.testing.assert_allclose(
            mixture_kl(tri(*p), diagonal, name).value, mixture_kl(tri(*p), full, name).value,
            rtol=1e-4,
        )  # fmt: skip


@pytest.mark.parametrize("apart", [1e-3, 1e-5])
@pytest.mark.parametrize("diagonal", [True, False])
def test_no_digits_cancel_near_equality(apart, diagonal):
    rng = np.random.default_rng(0)
    factor = np.eye(4) + 0.3 * np.tri(4, k=-1) * (not diagonal)
    near = factor * (1 + apart * rng.normal(size=(4, 4)))
    factor, near = factor.astype(np.float32), near.astype(np.float32)

    def values():
        make = lambda tril: (
            distrax.MultivariateNormalDiag(jnp.zeros(4), jnp.diagonal(tril))
            if diagonal
            else tri(jnp.zeros(4), tril)
        )
        p, q = make(jnp.asarray(near)), make(jnp.asarray(factor))
        return [kl(p, q).value, *(renyi(p, q, a).value for a in (0.2, 0.9, 0.999, 1.001, 2.0))]

    single = values()
    with jax.enable_x64(True):
        factor, near = factor.astype(float), near.astype(float)
        np.testing.assert_allclose(single, values(), rtol=2e-5)

"""Divergences of draws and of histograms."""

import sys

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from scipy.spatial.distance import jensenshannon

from flows.divergences import (
    c2st,
    energy_distance,
    frechet_distance,
    histogram_js,
    histogram_kl,
    kl,
    knn_kl,
    mmd,
    pairwise_kl,
    sliced_wasserstein,
    wasserstein2,
)

KEY = jax.random.key(0)


def draws(seed, rows=400, columns=2, shift=0.0):
    return np.random.default_rng(seed).normal(size=(rows, columns)) + shift


def test_mmd_and_energy_against_loops():
    x, y = draws(0, 30), draws(1, 20, shift=0.5)
    mean = lambda kernel, a, b, same: np.mean(
        [kernel(u - v) for i, u in enumerate(a) for j, v in enumerate(b) if not (same and i == j)]
    )
    for function, kernel in (
        (lambda x, y: mmd(x, y, bandwidth=1.3), lambda d: np.exp(-(d @ d) / (2 * 1.3**2))),
        (energy_distance, lambda d: -np.linalg.norm(d)),
    ):
        expected = mean(kernel, x, x, True) + mean(kernel, y, y, True)
        expected -= 2 * mean(kernel, x, y, False)
        np.testing.assert_allclose(function(x, y).value, expected, rtol=1e-4)
    pooled = np.concatenate([x, y])
    median = np.median([np.linalg.norm(a - b) for i, a in enumerate(pooled) for b in pooled[:i]])
    np.testing.assert_allclose(mmd(x, y).value, mmd(x, y, bandwidth=median).value, rtol=1e-5)


@pytest.mark.parametrize("function", [mmd, energy_distance])
def test_unbiased_with_honest_errors_and_p_values(function):
    if function is mmd:
        options = {"bandwidth": 1.0}
        # E exp(-d^2/2) for d ~ N(m, 2): exp(-m^2/6) / sqrt(3), in each of two coordinates
        exact = 2 / 3 - 2 / 3 * np.exp(-(0.5**2) * 2 / 6)
    else:
        options, exact = {}, None
    far = [function(draws(s), draws(s + 500, 300, shift=0.5), **options) for s in range(60)]
    values = np.array([e.value for e in far])
    if exact is not None:
        assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(60)
    errors = np.array([e.standard_error for e in far])
    assert 0.7 < errors.mean() / values.std() < 1.4  # an sd of 60 values is known to 9 %
    near = np.array(
        [function(draws(s, 50), draws(s + 500, 40), **options).value for s in range(200)]
    )
    assert abs(near.mean()) < 4 * near.std() / np.sqrt(200)
    test = lambda s, shift: (
        function(
            draws(s, 50), draws(s + 500, 40, shift=shift), key=KEY, num_permutations=99
        ).p_value
    )
    p_values = np.array([test(s, 0.0) for s in range(100)])
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    assert test(0, 2.0) == 0.01


def test_sliced_wasserstein():
    x = draws(0, 300, 1)
    for order, y in ((1, draws(1, 200, 1)), (2, 2 + 3 * x)):
        value = sliced_wasserstein(x, y, key=KEY, order=order).value
        if order == 1:
            expected = stats.wasserstein_distance(x[:, 0], y[:, 0])
        else:
            expected = np.sqrt(np.mean((x - y) ** 2))
        np.testing.assert_allclose(value, expected, rtol=1e-4)
    # Along a direction u a shift is u . shift, whose mean square is |shift|^2 / D.
    x = draws(0, 500, 3)
    estimate = sliced_wasserstein(x, x + np.array([3.0, 0.0, 0.0]), key=KEY, num_projections=500)
    assert abs(estimate.value - np.sqrt(3.0)) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.1


def test_frechet_distance():
    tril = np.array([[1.0, 0.0], [0.5, 0.7]])
    p = lambda seed: draws(seed, 2000) @ tril.T
    q = lambda seed: draws(seed, 3000) * [1.5, 0.5] + [1.0, -1.0]
    exact = wasserstein2(
        distrax.MultivariateNormalTri(jnp.zeros(2), jnp.asarray(tril)),
        distrax.MultivariateNormalDiag(jnp.array([1.0, -1.0]), jnp.array([1.5, 0.5])),
    ).value
    estimates = [frechet_distance(p(seed), q(seed + 500)) for seed in range(60)]
    values = np.array([e.value for e in estimates])
    assert abs(values.mean() - exact**2) < 4 * values.std() / np.sqrt(60) + 1e-3  # its bias
    errors = np.array([e.standard_error for e in estimates])
    assert 0.7 < errors.mean() / values.std() < 1.4
    assert frechet_distance(p(0), p(0)).value < 1e-6


def test_nearest_neighbours():
    p, q = distrax.Normal(0.0, 1.0), distrax.Normal(1.0, 1.5)
    values = np.array([
        knn_kl(draws(s, 3000, 1), 1 + 1.5 * draws(s + 100, 3000, 1)).value for s in range(20)
    ])  # fmt: skip
    assert abs(values.mean() - kl(p, q).value) < 4 * values.std() / np.sqrt(20)
    copies = np.repeat(draws(0, 10, 1), 10, axis=0)
    assert knn_kl(copies, draws(1, 50, 1)).value == np.inf


def test_classifier():
    apart = c2st(draws(0), draws(1, shift=4.0))
    assert apart.value > 0.95
    assert apart.p_value < 1e-6
    same = c2st(draws(2, 600), draws(3, 400))
    assert abs(same.value - 0.5) < 4 * same.standard_error
    assert same.num_samples == 800
    from sklearn.linear_model import LogisticRegression

    shifted = c2st(draws(4, 2000, 1), draws(5, 2000, 1, shift=1.0), classifier=LogisticRegression())
    best = stats.norm.cdf(0.5)  # (1 + total variation) / 2
    assert abs(shifted.value - best) < 4 * shifted.standard_error


def test_classifier_says_which_extra_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.neural_network", None)
    with pytest.raises(ImportError, match=r"flows-jax\[samples\]"):
        c2st(draws(0), draws(1))


def test_bad_draws():
    for function in (mmd, energy_distance, frechet_distance, knn_kl, c2st):
        with pytest.raises(ValueError, match="y must have 2 columns"):
            function(draws(0), draws(0, columns=3))
        with pytest.raises(ValueError, match="x has 1 non-finite values"):
            function(np.array([[0.0, np.nan], [1.0, 1.0]]), draws(0))
    with pytest.raises(ValueError, match="x must have at least 2 rows, got 1"):
        mmd(draws(0, 1), draws(0))
    with pytest.raises(ValueError, match="key is needed for the permutations"):
        mmd(draws(0), draws(1), num_permutations=10)
    with pytest.raises(ValueError, match="bandwidth must be positive, got -1"):
        mmd(draws(0), draws(1), bandwidth=-1)
    with pytest.raises(ValueError, match="order must be 1 or 2, got 3"):
        sliced_wasserstein(draws(0), draws(1), key=KEY, order=3)
    with pytest.raises(ValueError, match="num_neighbors is 500, too many"):
        knn_kl(draws(0), draws(1), num_neighbors=500)
    with pytest.raises(ValueError, match="x must have more rows than columns"):
        frechet_distance(draws(0, 3, 3), draws(1, 10, 3))


def histograms(rows, bins=20, zeros=0.3, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.gamma(0.7, size=(rows, bins)) * (rng.uniform(size=(rows, bins)) > zeros)
    return counts / counts.sum(axis=1, keepdims=True)


def test_histograms_against_scipy():
    p, q = histograms(50, zeros=0.0), histograms(50, zeros=0.0, seed=1)
    np.testing.assert_allclose(histogram_kl(p, q), special.rel_entr(p, q).sum(axis=1), rtol=1e-4)
    assert (histogram_kl(p, p) == 0).all()
    p, q = histograms(50), histograms(50, seed=1)
    np.testing.assert_allclose(histogram_js(p, q), jensenshannon(p, q, axis=1) ** 2, rtol=1e-4)
    assert histogram_kl([1.0, 0.0], [0.0, 1.0]) == np.inf
    np.testing.assert_allclose(histogram_js([1.0, 0.0], [0.0, 1.0]), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(histogram_kl([1.0, 0.0], [0.5, 0.5]), np.log(2), rtol=1e-6)
    assert np.isfinite(jax.jit(histogram_kl)(p[0], q[0] * 0 + 1 / 20))


@pytest.mark.parametrize("zeros", [0.0, 0.1])
@pytest.mark.parametrize("x64", [False, True])
def test_all_pairs(zeros, x64):
    p, q = histograms(33, 8, zeros), histograms(21, 8, zeros, seed=1)
    expected = special.rel_entr(p[:, None], q[None]).sum(axis=-1)
    assert np.isinf(expected).any() == (zeros > 0)
    with jax.enable_x64(x64):
        tolerance = {"rtol": 1e-10, "atol": 1e-13} if x64 else {"rtol": 1e-4, "atol": 1e-6}
        np.testing.assert_allclose(pairwise_kl(p, q, block_size=10), expected, **tolerance)
        own = pairwise_kl(p)
    assert (np.diagonal(own) == 0).all()
    assert (own >= 0).all()


def test_no_digits_of_histograms_cancel_near_equality():
    rng = np.random.default_rng(0)
    q = histograms(3, zeros=0.0).astype(np.float32)
    for apart in (1e-2, 1e-4, 1e-6):
        p = (q * (1 + apart * rng.normal(size=q.shape))).astype(np.float32)
        a, b = (np.longdouble(h) / np.longdouble(h).sum(-1, keepdims=True) for h in (p, q))
        m = (a + b) / 2
        exact_kl = (a * np.log(a / b)).sum(-1).astype(float)
        exact_js = ((a * np.log(a / m) + b * np.log(b / m)).sum(-1) / 2).astype(float)
        p = a.astype(np.float32)
        tolerance = 1e-3 + 1e-7 / apart  # the last one is the rounding of the histograms
        np.testing.assert_allclose(histogram_kl(p, q), exact_kl, rtol=tolerance)
        np.testing.assert_allclose(histogram_js(p, q), exact_js, rtol=tolerance)


def test_bad_histograms():
    good = histograms(3)
    with pytest.raises(ValueError, match="1 of its 3 histograms do not add up to 1; number 1"):
        histogram_kl(good * np.array([[1.0], [2.0], [1.0]]), good)
    with pytest.raises(ValueError, match=r"q has negative entries; the lowest is -0\.5"):
        histogram_kl([0.5, 0.5], [1.5, -0.5])
    with pytest.raises(ValueError, match="same bins, got 20 and 2"):
        histogram_js(good, [0.5, 0.5])
    with pytest.raises(ValueError, match="p has 1 non-finite"):
        pairwise_kl(np.array([[np.nan, 1.0]]))
    with pytest.raises(ValueError, match=r"p must have shape \[histograms, bins\]"):
        pairwise_kl(good[0])
    with pytest.raises(ValueError, match=r"p must have shape \[..., bins\]"):
        histogram_kl(1.0, 1.0)

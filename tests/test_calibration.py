"""Checks of amortised posteriors, against posteriors that are known exactly."""

import functools

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pandas as pd
import pytest
from flax import nnx
from scipy import stats

matplotlib.use("Agg")

import flows
from flows import _levels, supports
from flows import bijectors as fb
from flows.calibration import check, report

KEY = jax.random.key(0)
NUM_PAIRS, NUM_DRAWS = 1000, 100

# theta ~ N(0, I) and x = A theta + noise: what is known is the sum of both, more than each.
A, NOISE = np.array([[1.0, 1.0], [0.2, -0.2]]), 0.4
COVARIANCE = np.linalg.inv(np.eye(2) + A.T @ A / NOISE**2)
MEAN, TRIL, SD = (
    COVARIANCE @ A.T / NOISE**2,
    np.linalg.cholesky(COVARIANCE),
    COVARIANCE[0, 0] ** 0.5,
)


class Shift(nnx.Module):
    """Parameters of an affine map that adds matrix @ context, and does not scale."""

    def __init__(self, num_inputs, num_outputs, *, context_size, rngs):
        self.matrix = nnx.Param(jnp.zeros((num_outputs // 2, context_size)))

    def __call__(self, x, context):
        shift = context @ self.matrix[...].T
        return jnp.stack([shift, 0 * shift], axis=-1).reshape(*shift.shape[:-1], -1)


def gaussian(matrix=MEAN, tril=TRIL, loc=0.0, support=None):
    """The flow N(loc + matrix @ context, tril @ tril.T), or its image in the support."""
    size, context_size = np.shape(matrix)
    shift = fb.Elementwise(size, context_size=context_size, conditioner=Shift, rngs=nnx.Rngs(0))
    shift.conditioner.matrix[...] = jnp.asarray(matrix, float)
    colour = fb.TriangularAffine(jnp.full(size, float(loc)), jnp.asarray(tril, float))
    return flows.Flow(flows.StandardNormal(size), fb.Chain([shift, colour]), support)


def pairs(seed=0, num=NUM_PAIRS):
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=(num, 2))
    return theta, theta @ A.T + NOISE * rng.normal(size=(num, 2))


checked = functools.partial(flows.check_calibration, key=KEY, num_draws=NUM_DRAWS)


def failed(result):
    """The first words of the checks that fail."""
    low = [check for check in result.checks if check.p_value < result.least_p_value]
    return {check.name.split()[0] for check in low}


def test_the_exact_posterior_is_calibrated():
    theta, x = pairs()
    result = checked(gaussian(), theta, x)
    assert result.calibrated, str(result)
    assert result.verdict.startswith("calibrated, as far as 1,000 pairs tell")
    assert "least p-value      0.0025, of these 4 checks" in str(result)
    assert result.ranks.shape == (NUM_PAIRS, 2)
    assert result.ranks.min() == 0
    assert result.ranks.max() == NUM_DRAWS
    for levels in (result.hpd_levels, result.tarp_levels):
        assert levels.shape == (NUM_PAIRS,)
        assert 0 < levels.min() < levels.max() < 1


def test_levels_are_those_known_in_closed_form():
    """With many draws: normal ranks, chi-square regions, distances in standard deviations."""
    theta, x = pairs(num=100)
    num_draws = 10_000
    result = checked(gaussian(), theta, x, num_draws=num_draws)
    residual = theta - x @ MEAN.T
    tolerance = 5 * 0.5 / num_draws**0.5
    expected = stats.norm.cdf(residual / SD)
    np.testing.assert_allclose(result.ranks / num_draws, expected, atol=tolerance)
    squared = (residual @ np.linalg.inv(COVARIANCE) * residual).sum(axis=1)
    expected = stats.chi2.cdf(squared, 2)
    np.testing.assert_allclose(result.hpd_levels, expected, atol=tolerance)
    coverage = result.coverage(np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(coverage["HPD"], [0, (result.hpd_levels <= 0.5).mean(), 1])

    draws = np.random.default_rng(1).normal(size=(100, num_draws, 2)) @ TRIL.T
    draws += (x @ MEAN.T)[:, None]
    reference_key = jax.random.split(KEY, 3)[0]
    r = np.array(
        check._references(*(jnp.asarray(a, jnp.float32) for a in (theta, x)), reference_key)
    )
    scale = theta.std(axis=0)
    distance = lambda points: (((points - r) / scale) ** 2).sum(axis=-1)
    expected = (distance(draws.swapaxes(0, 1)) < distance(theta)).mean(axis=0)
    np.testing.assert_allclose(result.tarp_levels, expected, atol=2**0.5 * tolerance)


@pytest.mark.parametrize(
    ("posterior", "seen", "unseen", "finding"),
    [
        (gaussian(tril=0.8 * TRIL), {"ranks", "HPD"}, set(), "regions are too small"),
        (gaussian(tril=1.25 * TRIL), {"ranks", "HPD"}, set(), "regions are too large"),
        (gaussian(loc=0.3 * SD), {"ranks"}, set(), "draws are too high"),
        (gaussian(loc=-0.3 * SD), {"ranks"}, set(), "draws are too low"),
        (gaussian(tril=SD * np.eye(2)), {"HPD"}, {"ranks"}, "regions have other shapes"),
        (gaussian(0 * MEAN, np.eye(2)), {"TARP"}, {"ranks", "HPD"}, "too near the prior mean"),
        (gaussian(0.85 * MEAN), {"TARP"}, set(), "too near the prior mean"),
    ],
    ids=["narrow", "wide", "high", "low", "no correlation", "prior", "shrunk"],
)
def test_wrong_posteriors_are_flagged_by_the_check_that_sees_them(posterior, seen, unseen, finding):
    theta, x = pairs()
    result = checked(posterior, theta, x)
    assert not result.calibrated
    assert seen <= failed(result), str(result)
    assert not unseen & failed(result), str(result)
    assert finding in result.verdict
    assert result.verdict in str(result)


def test_points_that_do_not_depend_on_the_context_miss_the_prior():
    theta, x = pairs()
    draws = np.random.default_rng(1).normal(size=(NUM_PAIRS, NUM_DRAWS, 2))
    assert checked(draws, theta).calibrated
    assert failed(checked(draws, theta, x)) == {"TARP"}
    result = checked(draws, theta)
    assert result.hpd_levels is None
    assert result.hpd_p_value is None
    assert result.num_draws == NUM_DRAWS
    assert result.least_p_value == pytest.approx(0.01 / 3)
    assert "not known" in str(result)


def test_p_values_are_uniform():
    """Of all checks, over repetitions; and one report in a hundred is a false alarm."""
    num_repeats, posterior = 300, gaussian()
    check_ = jax.tree_util.Partial(checked, posterior, num_draws=50)
    results = [check_(*pairs(i, 100), key=jax.random.key(i)) for i in range(num_repeats)]
    of_ranks = np.array([result.p_values for result in results])
    of_levels = np.array([(result.hpd_p_value, result.tarp_p_value) for result in results])
    for p_values in (*of_ranks.T, *of_levels.T):
        assert stats.kstest(p_values, "uniform").pvalue > 1e-3
        assert abs((p_values < 0.05).mean() - 0.05) < 4 * (0.05 * 0.95 / num_repeats) ** 0.5
    assert np.mean([not result.calibrated for result in results]) <= 0.01 + 4 * 0.1 / 300**0.5
    gaps = np.array([[abs(check.gap) for check in result.checks[2:]] for result in results])
    beyond = (gaps > results[0].band).mean(axis=0)
    np.testing.assert_allclose(beyond, 0.05, atol=4 * (0.05 * 0.95 / num_repeats) ** 0.5)


def test_p_values_of_levels_and_ranks_are_those_of_scipy():
    rng = np.random.default_rng(0)
    for n in (40, 300):
        levels = rng.random(n) ** 1.2
        expected = stats.kstest(levels, "uniform")
        assert _levels.p_value(levels) == pytest.approx(expected.pvalue, rel=0.03)
        assert abs(_levels.gap(levels)[0]) == pytest.approx(expected.statistic)
        assert _levels.largest_gap(0.05, n) == pytest.approx(stats.kstwo.isf(0.05, n), rel=0.01)
    ranks = rng.integers(0, 11, (60, 1))  # 11 ranks in 3 bins, of 4, 4 and 3
    observed = np.array([(ranks < 4).sum(), ((ranks >= 4) & (ranks < 8)).sum(), (ranks >= 8).sum()])
    expected = stats.chisquare(observed, 60 * np.array([4, 4, 3]) / 11).pvalue
    np.testing.assert_allclose(report._p_values_of_ranks(ranks, 10), [expected])


def test_units_do_not_matter_and_nothing_is_compiled_anew():
    theta, x = pairs()
    before = checked(gaussian(0.9 * MEAN, 0.9 * TRIL), theta, x)
    programs = check._among_draws_of._cache_size()
    of_theta, of_x = np.array([1e-4, 1e6]), np.array([1e5, 1e-3])
    matrix, tril = of_theta[:, None] * MEAN / of_x, of_theta[:, None] * TRIL
    after = checked(gaussian(0.9 * matrix, 0.9 * tril), theta * of_theta, x * of_x)
    assert check._among_draws_of._cache_size() == programs
    moved = (before.ranks != after.ranks).mean()
    assert moved < 1e-3  # where rounding decides
    np.testing.assert_allclose(after.p_values, before.p_values, rtol=0.05)
    np.testing.assert_allclose(after.hpd_levels, before.hpd_levels, atol=1.5 / NUM_DRAWS)
    np.testing.assert_allclose(after.tarp_levels, before.tarp_levels, atol=1.5 / NUM_DRAWS)


def test_blocks_do_not_share_draws(monkeypatch):
    """The last block is a part of one, and each has its own noise."""
    monkeypatch.setattr(check, "BLOCK", 30 * NUM_DRAWS)
    jax.clear_caches()
    x = np.ones((70, 2))
    theta = 0.5 + 1e-3 * np.random.default_rng(0).random((70, 2))
    result = checked(gaussian(0 * MEAN, np.eye(2)), theta, x)
    jax.clear_caches()
    assert result.ranks.shape == (70, 2)
    assert len(np.unique(result.ranks[:, 0])) > 10
    for shift in (30, 60):  # noise of another block is other noise
        assert (result.ranks[shift:] != result.ranks[: 70 - shift]).mean() > 0.7


@pytest.mark.parametrize("wrong", [False, True])
def test_one_bounded_parameter(wrong):
    theta = np.random.default_rng(0).normal(size=(NUM_PAIRS, 1))
    x = theta + np.random.default_rng(1).normal(size=theta.shape)
    support = supports.interval(-1.0, 3.0)
    posterior = gaussian([[0.5]], [[0.5**0.5 * (1.3 if wrong else 1.0)]], support=support)
    bounded = -1 + 4 * stats.norm.cdf(theta)
    result = checked(posterior, bounded, x)
    assert result.calibrated != wrong, str(result)
    assert result.num_non_finite == 0
    outside = bounded.copy()
    outside[7] = 3.5
    with pytest.raises(ValueError, match=r"theta has 1 values outside .* 3\.5 in row 7"):
        checked(posterior, outside, x)


def test_ties_of_integers_are_broken_at_random():
    """Pairs drawn from a flow itself, whose density is then exact for them."""
    support = [supports.categories(2), supports.integers(0, 3)]
    posterior = gaussian([[1.0], [0.5]], [[0.6, 0.0], [0.3, 0.5]], support=support)
    x = jax.random.normal(KEY, (2000, 1))
    theta = posterior.condition(x).sample(seed=jax.random.key(5))
    assert set(np.unique(theta[:, 0])) == {0, 1}
    result = checked(posterior, theta, x, num_draws=20)
    assert result.calibrated, str(result)
    other = gaussian([[1.0], [0.5]], [[0.6, 0.0], [-0.3, 0.5]], support=support)
    assert "HPD" in failed(checked(other, theta, x, num_draws=20))
    whole = np.asarray(theta).astype(int)  # as `fit` takes them
    np.testing.assert_array_equal(checked(posterior, whole, x, num_draws=20).ranks, result.ranks)


def test_nearly_equal_densities_are_ties():
    """Rounding of equal densities depends on where in a batch they are."""
    points, log_q = jnp.zeros((41, 1)), jnp.full(41, -2.0).at[1:].add(1e-6)
    below, ties, bad = check._place(points, points, log_q)
    assert below.tolist() == [0, 0, 0]
    assert ties.tolist() == [40, 40, 40]
    assert bad == 0
    near = 1e-6 * jnp.arange(1.0, 12.0)[::-1, None]  # but small distances are told apart
    below, ties, _ = check._place(near, near, jnp.zeros(11))
    assert below.tolist() == [10, 10, 0]
    assert ties.tolist() == [0, 0, 10]


def test_what_is_not_finite_is_counted():
    theta, _ = pairs(num=50)
    draws = np.random.default_rng(0).normal(size=(50, 20, 2))
    draws[3, 4, 1] = np.nan
    draws[5, :2] = np.inf
    result = checked(draws, theta)
    assert result.num_non_finite == 3
    assert "3 points or densities are not finite" in result.verdict
    assert not result.calibrated
    points, log_q = jnp.zeros((11, 1)), jnp.zeros(11).at[0].set(-jnp.inf)
    below, ties, bad = check._place(points, points, log_q)  # no mass at the true parameters
    assert (below[2], ties[2], bad) == (10, 0, 1)


def test_references_are_of_the_nearest_context_and_never_of_one_another():
    theta, x = (jnp.asarray(a) for a in pairs(num=60))
    mirrored = 2 * theta.mean(axis=0) - check._references(theta, x, KEY)
    chosen = np.abs(mirrored[:, None] - theta[None]).sum(axis=-1).argmin(axis=1)
    assert (chosen != np.arange(60)).all()
    distance = np.linalg.norm(x[:, None] / x.std(axis=0) - x[None] / x.std(axis=0), axis=-1)
    assert np.median(distance[np.arange(60), chosen]) < 0.3 * np.median(distance)
    assert (chosen[chosen] == np.arange(60)).sum() <= 2  # of which one is the last


def test_an_ensemble_and_a_frame():
    theta, x = pairs(num=200)
    frame = pd.DataFrame({"mass": theta[:, 0], "spin": theta[:, 1]})
    members = [gaussian(), gaussian(loc=1.0)]
    result = checked(flows.Ensemble(members), frame, pd.DataFrame(x))
    assert result.names == ("mass", "spin")
    assert "ranks of mass: draws are too high" in result.verdict


def test_many_parameters_are_summed_up():
    rng = np.random.default_rng(0)
    theta, draws = rng.normal(size=(200, 14)), rng.normal(size=(200, 50, 14))
    draws[..., :6] *= 0.4
    result = checked(draws, theta)
    assert "ranks of 3 more parameters" in result.verdict
    assert "and 4 more parameters" in str(result)
    assert "theta[5]" in str(result)
    assert result.plot().axes[0].get_legend() is not None


def test_it_draws():
    theta, x = pairs(num=200)
    figure = checked(gaussian(loc=0.5), theta, x).plot()
    assert len(figure.axes) == 3
    assert "NOT CALIBRATED" in figure.get_suptitle()


THETA, X = pairs(num=50)
NAN = THETA.copy()
NAN[11, 1] = np.nan


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: checked(gaussian(), THETA[:, :1], X), ValueError, "theta must have 2 columns"),
        (lambda: checked(gaussian(), THETA[:, 0], X), ValueError, "theta must have shape"),
        (lambda: checked(gaussian(), THETA, X[:, :1]), ValueError, "context must have 2 columns"),
        (lambda: checked(gaussian(), THETA, X[:40]), ValueError, "context has 40 rows and theta"),
        (lambda: checked(gaussian(), THETA), ValueError, "context is missing"),
        (lambda: checked(gaussian(), THETA[:39], X[:39]), ValueError, "at least 40 rows, got 39"),
        (lambda: checked(gaussian(), NAN, X), ValueError, "theta has 1 non-finite .* row 11"),
        (lambda: checked(gaussian(), THETA, NAN), ValueError, "context has 1 non-finite .* row 11"),
        (lambda: checked(gaussian(), 0 * THETA, X), ValueError, "theta is constant in column 0"),
        (lambda: checked(gaussian(), np.eye(50, 2, dtype=int), X), TypeError, "theta must hold fl"),
        (
            lambda: checked(gaussian(), THETA, X, num_draws=9),
            ValueError,
            "num_draws must be at least 10, got 9",
        ),
        (lambda: checked(gaussian(), THETA, X, key=0), TypeError, "key must be a JAX random key"),
        (
            lambda: checked(gaussian().condition(X), THETA, X),
            ValueError,
            "posterior must be a conditional flow",
        ),
        (lambda: checked(object(), THETA, X), TypeError, "posterior must be .* got a object"),
        (lambda: checked(THETA, THETA), ValueError, "posterior as draws must have shape"),
        (lambda: checked(np.zeros((50, 9, 2)), THETA), ValueError, r"got shape \(50, 9, 2\)"),
        (lambda: checked(np.zeros((49, 10, 2)), THETA), ValueError, "posterior has 49 rows"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()

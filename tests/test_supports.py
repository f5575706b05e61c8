"""Supports: no mass outside of them, and data that do not fit are told."""

import warnings

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from helpers import bound, perturbed
from tensorflow_probability.substrates.jax import distributions as tfd

import flows
from flows import supports
from flows.density.bounds import touched_ends, warn_of_bounds

RNG = np.random.default_rng(0)
ALL = [
    supports.real,
    supports.positive,
    supports.interval(-1, 3),
    supports.interval(-np.inf, 2),
    supports.interval(5, np.inf),
]
from_real, to_real, outside = (  # compiled, as in a flow
    jax.jit(function, static_argnums=0)
    for function in (supports.from_real, supports.to_real, supports.outside)
)
ARCHITECTURES = {"maf": flows.maf, "iaf": flows.iaf, "real_nvp": flows.real_nvp, "nsf": flows.nsf}


def small(make, event_size, support, **options):
    options = {"num_layers": 2, "hidden_sizes": (16,), "rngs": nnx.Rngs(0)} | options
    return perturbed(make(event_size, support=support, **options), seed=8, scale=0.15)


@pytest.mark.parametrize("make", ARCHITECTURES.values(), ids=ARCHITECTURES)
@pytest.mark.parametrize("context_size", [None, 3])
def test_draws_are_inside_and_have_the_density_that_log_prob_says(make, context_size):
    with jax.enable_x64(True):
        flow = bound(small(make, 5, ALL, context_size=context_size))
        x, log_prob = flow.sample_and_log_prob(seed=jax.random.key(0), sample_shape=(200,))
        u, _ = to_real(flow.support, x)
        near = (jnp.abs(u) < 5.5).all(axis=-1)  # farther out, intervals round to their ends
        assert near.mean() > 0.9
        np.testing.assert_allclose(flow.log_prob(x)[near], log_prob[near], atol=1e-6)
        assert not outside(flow.support, x).any()


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_draws_are_inside_however_far_the_noise(x64, scale):
    with jax.enable_x64(x64):
        u = scale * jax.random.normal(jax.random.key(0), (10_000, 5))
        x, log_det = from_real(tuple(ALL), u)
        assert jnp.isfinite(x).all()
        assert jnp.isfinite(log_det).all()
        assert not outside(tuple(ALL), x).any()
        assert jnp.isfinite(to_real(tuple(ALL), x)[1]).all()


@pytest.mark.parametrize(("x64", "tolerance"), [(False, 1e-3), (True, 1e-9)])
def test_maps_invert_one_another_and_know_their_jacobian(x64, tolerance):
    columns = (*ALL, supports.circle(24.0, -3.0), supports.Support(2, 5, "dequantized"))
    with jax.enable_x64(x64):
        u = jax.random.uniform(jax.random.key(0), (500, 7), minval=-3.0, maxval=3.0)
        x, log_det = from_real(columns, u)
        back, log_det_back = to_real(columns, x)
        turn = back - u
        np.testing.assert_allclose(jnp.arctan2(jnp.sin(turn), jnp.cos(turn)), 0, atol=tolerance)
        np.testing.assert_allclose(log_det_back, -log_det, atol=10 * tolerance)
        jacobian = jax.vmap(jax.jacfwd(lambda u: from_real(columns, u)[0]))(u)
        np.testing.assert_allclose(jnp.linalg.slogdet(jacobian)[1], log_det, atol=1e-4)


SUPPORTS_1D = {
    "positive": (supports.positive, np.exp(np.linspace(-25, 25, 40_001))),
    "below": (supports.interval(-np.inf, 2), 2 - np.exp(-np.linspace(-25, 25, 40_001))),
    "interval": (supports.interval(-1, 3), np.linspace(-1, 3, 40_001)),
    "circle": (supports.circle(24.0), np.linspace(0, 24, 40_001)),
}


@pytest.mark.parametrize(("support", "grid"), SUPPORTS_1D.values(), ids=SUPPORTS_1D)
def test_mass_is_one(support, grid):
    with jax.enable_x64(True):
        make = flows.ncsf if support.kind == "circle" else flows.nsf
        flow = small(make, 1, support)
        middle = (grid[1:] + grid[:-1]) / 2
        density = np.exp(flow.log_prob(middle[:, None]))
        assert abs((density * np.diff(grid)).sum() - 1) < 2e-3
        assert np.ptp(density) > 0.01


def test_mass_is_one_in_two_dimensions():
    with jax.enable_x64(True):
        flow = small(flows.nsf, 2, [supports.positive, supports.interval(0, 1)])
        x, y = np.exp(np.linspace(-15, 15, 401)), scipy.stats.norm.cdf(np.linspace(-8, 8, 401))
        middle = lambda grid: (grid[1:] + grid[:-1]) / 2
        points = np.stack(np.meshgrid(middle(x), middle(y), indexing="ij"), axis=-1)
        mass = np.exp(flow.log_prob(points)) * np.diff(x)[:, None] * np.diff(y)
        assert abs(mass.sum() - 1) < 3e-3


@pytest.mark.parametrize(
    ("support", "values", "outside"),
    [
        (supports.positive, [1e-30, 3.0, 1e30], [0.0, -1.0, np.inf]),
        (supports.interval(0, 100), [0.0, 1e-30, 50.0, 100.0], [-1e-6, 100.1, np.inf, -np.inf]),
        (supports.interval(-np.inf, 2), [-1e30, 1.9], [2.0, 3.0, -np.inf]),
        (supports.integers(0, 3), [0.0, 3.0], [-1.0, 4.0, 0.5]),
        (supports.integers, [-7.0, 0.0, 12.0], [0.5]),
        (supports.categories(3), [0.0, 2.0], [3.0, 1.5, -1.0]),
    ],
)
def test_log_prob_outside_and_at_the_ends(support, values, outside):
    flow = small(flows.maf, 1, support)
    inside = np.array(values, np.float32)[:, None]
    x = np.array([*values, *outside, np.nan], np.float32)[:, None]
    ends = len(values), len(x) - 1
    log_prob = np.split(flow.log_prob(x), ends)
    slope = np.split(jax.jit(jax.grad(lambda x: flow.log_prob(x).sum()))(x), ends)
    assert np.isfinite(log_prob[0]).all()
    assert not np.isnan(slope[0]).any()
    assert (log_prob[1] == -np.inf).all()
    assert (slope[1] == 0).all()
    assert np.isnan(log_prob[2]).all()

    def loss(params):
        return nnx.merge(graphdef, params, rest).log_prob(inside).sum()

    graphdef, params, rest = nnx.split(flow, nnx.Param, ...)
    gradient = jax.jit(jax.grad(loss))(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize("support", [supports.integers(0, 6), supports.categories(4)])
def test_log_prob_of_integers_bounds_their_probability(support):
    flow = small(flows.nsf, 1, support)
    values = jnp.arange(support.low, support.high + 1)[:, None]
    draws = flow.sample(seed=jax.random.key(0), sample_shape=(200_000,))
    counts = np.array([(draws == value).sum() for value in values])
    assert counts.sum() == len(draws)
    share = counts / len(draws)
    log_prob = flow.log_prob(values)
    error = 3 * np.sqrt((1 - share) / share / len(draws))
    assert (log_prob <= np.log(share) + error).all()
    assert np.exp(log_prob).sum() > 0.9
    u = jax.random.uniform(jax.random.key(1), (50_000, len(values), 1))
    bound = flow.dequantized().log_prob(values + u)
    np.testing.assert_allclose(
        log_prob, bound.mean(axis=0), atol=0.02 + 4 * (bound.std(0) / 50_000**0.5).max()
    )


def test_a_table_of_all_kinds_is_learnt_and_drawn():
    n = 4000
    income = RNG.lognormal(10, 1, n)
    share = RNG.beta(0.7, 0.7, n) * 100
    count = RNG.poisson(income / 2e4)
    kind = RNG.choice(3, n, p=[0.6, 0.3, 0.1])
    x = np.stack([income, share, count, kind, RNG.normal(size=n)], axis=1)
    columns = [
        supports.positive,
        supports.interval(0, 100),
        supports.integers(0),
        supports.categories(3),
        supports.real,
    ]
    flow = flows.maf(5, num_layers=2, support=columns, standardize_with=x, rngs=nnx.Rngs(0))
    result = flows.fit(flow, x, key=jax.random.key(0), max_epochs=15, progress=False)
    draws = np.asarray(result.flow.sample(seed=jax.random.key(1), sample_shape=(4000,)))
    supports.require_inside("draws", draws, result.flow.support)
    shares = [(draws[:, 3] == k).mean() for k in range(3)]
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=0.06)
    assert abs(np.log(draws[:, 0]).mean() - 10) < 0.15
    assert abs((draws[:, 2] == 0).mean() - (count == 0).mean()) < 0.05
    held_out = result.flow.log_prob(result.held_out[0]).mean()
    assert abs(held_out + min(result.history["validation"])) < 0.15  # the bound, both times


@pytest.mark.slow
def test_angles_beside_numbers_are_learnt_and_have_no_seam():
    n = 3000
    hour = RNG.normal(0, 2, n) % 24
    income = RNG.lognormal(0, 0.3, n) * (2 + np.cos(2 * np.pi * hour / 24))
    x = np.stack([income, hour], axis=1)
    columns = [supports.positive, supports.circle(24)]
    flow = flows.ncsf(2, num_layers=3, support=columns, standardize_with=x, rngs=nnx.Rngs(0))
    result = flows.fit(flow, x, key=jax.random.key(0), max_epochs=10, progress=False)
    drawn = result.flow.sample_and_log_prob(seed=jax.random.key(1), sample_shape=(2000,))
    draws, log_prob = map(np.asarray, drawn)
    supports.require_inside("draws", draws, tuple(columns))
    assert (draws[:, 1] >= 0).all()
    assert (draws[:, 1] < 24).all()
    np.testing.assert_allclose(result.flow.log_prob(draws), log_prob, atol=1e-3)
    later = draws + np.array([0, 24], np.float32)
    np.testing.assert_allclose(result.flow.log_prob(later), log_prob, atol=1e-3)
    turn = 2 * np.pi * draws[:, 1] / 24
    expected = 2 * np.cos(2 * np.pi * x[:, 1] / 24).mean() / 2
    assert abs(np.cos(turn).mean() - expected) < 0.05
    given = 0.5 * np.log(draws[:, 0]) - 0.5 * np.log(2 + np.cos(turn))
    assert given.std() < 0.2  # 0.15 if income follows the hour, 0.19 otherwise


@pytest.mark.slow
def test_teachers_of_angles_beside_numbers():
    columns = [supports.positive, supports.circle(24)]
    product = flows.distributions.Product([1], flows.CircularUniform(1), flows.StandardNormal(1))
    for teacher in (small(flows.ncsf, 2, columns), product):
        report = flows.distill(teacher, key=jax.random.key(0), num_steps=200, progress=False).report
        assert report.kl_teacher_student.value < 0.3


def test_units_do_not_matter():
    x = RNG.lognormal(0, 1, (1000, 2))

    def fitted(scale):
        flow = flows.maf(
            2, num_layers=2, support=supports.positive, standardize_with=scale * x,
            rngs=nnx.Rngs(0),
        )  # fmt: skip
        result = flows.fit(flow, scale * x, key=jax.random.key(0), max_epochs=3, progress=False)
        return result.flow.log_prob(scale * x) + 2 * np.log(scale)

    np.testing.assert_allclose(fitted(1e6), fitted(1.0), atol=0.02)


def test_files_keep_the_support(tmp_path):
    flow = small(flows.maf, 5, ALL)
    flows.save(tmp_path / "flow.npz", flow)
    loaded = flows.load(tmp_path / "flow.npz")
    assert loaded.support == flow.support
    x = flow.sample(seed=jax.random.key(0), sample_shape=(10,))
    np.testing.assert_array_equal(loaded.log_prob(x), flow.log_prob(x))
    for support in (supports.integers, supports.circle):
        make = flows.ncsf if support is supports.circle else flows.maf
        flows.save(tmp_path / "flow.npz", small(make, 2, support))
        assert flows.load(tmp_path / "flow.npz").support == (support(),) * 2


def test_ensembles_are_vmapped():
    make = nnx.vmap(lambda rngs: flows.maf(3, support=supports.positive, rngs=rngs))
    ensemble = make(nnx.Rngs(jax.random.split(jax.random.key(0), 4)))
    log_prob = nnx.vmap(lambda flow, x: flow.log_prob(x), in_axes=(0, None))
    assert log_prob(ensemble, jnp.ones((7, 3))).shape == (4, 7)


@pytest.mark.parametrize(
    ("teacher", "student", "columns"),
    [
        (flows.maf, None, [supports.positive, supports.interval(0, 1)]),
        pytest.param(
            flows.real_nvp, None, [supports.positive, supports.integers(0, 9)],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            flows.maf, flows.real_nvp, [supports.real, supports.integers(0, 9)],
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_students_have_the_support_of_their_teacher(teacher, student, columns):
    result = flows.distill(
        small(teacher, 2, columns), student and small(student, 2, columns),
        key=jax.random.key(0), num_steps=200, progress=False,
    )  # fmt: skip
    assert result.student.support == tuple(columns)
    assert result.report.kl_teacher_student.value < 0.5
    assert result.report.kl_student_teacher.value < 0.5


def test_divergences_tell_spaces_apart():
    positive, real = small(flows.maf, 1, supports.positive), small(flows.maf, 1, None)
    estimate = flows.divergences.kl(positive, real, key=jax.random.key(0))
    assert jnp.isfinite(estimate.value)
    assert flows.divergences.kl(real, positive, key=jax.random.key(0)).value == jnp.inf
    counts = small(flows.maf, 1, supports.integers(0))
    assert flows.divergences.kl(counts, counts, key=jax.random.key(0)).value == 0
    day, turn = small(flows.ncsf, 1, supports.circle(24)), small(flows.ncsf, 1, supports.circle)
    for p, q in ((counts, real), (day, turn), (day, real)):
        with pytest.raises(ValueError, match="p and q must be over the same things"):
            flows.divergences.kl(p, q, key=jax.random.key(0))
    base = flows.StandardNormal(1)
    other = flows.DiagonalNormal(1)
    shared = positive.bijector
    p, q = (flows.Flow(b, shared, s) for b, s in ((base, supports.positive), (other, None)))
    assert flows.divergences.kl(p, q, key=jax.random.key(0)).method == "monte_carlo"


def test_divergences_are_free_of_rounding_at_the_ends():
    """Mass piled up at an upper end far from zero, where numbers are coarse."""
    base = flows.DiagonalNormal(1)
    base.loc[...] = jnp.array([3.0])
    p = flows.Flow(base, flows.bijectors.Elementwise(1), supports.interval(1000, 1001))
    other = flows.Flow(flows.StandardNormal(1), p.bijector, p.support)
    for divergence in (flows.divergences.kl, flows.divergences.jensen_shannon):
        assert abs(divergence(p, nnx.clone(p), key=jax.random.key(0)).value) < 1e-5
    np.testing.assert_allclose(flows.divergences.kl(p, other).value, 4.5, rtol=1e-5)
    twin = nnx.clone(p)
    report = flows.distill(
        p, twin, key=jax.random.key(0), num_steps=2, learning_rate=1e-9, progress=False
    ).report
    assert abs(report.kl_teacher_student.value) < 1e-4


def test_integers_and_numbers_are_not_compared():
    counts = small(flows.maf, 1, supports.integers(-5, 5))
    normal = distrax.Independent(distrax.Normal(jnp.zeros(1), jnp.ones(1)), 1)
    poisson = tfd.Independent(tfd.Poisson(jnp.ones(1)), 1)
    key = jax.random.key(0)
    for p, q in ((counts, normal), (poisson, small(flows.maf, 1, None))):
        with pytest.raises(ValueError, match="p and q must be over the same things"):
            flows.divergences.kl(p, q, key=key)
    assert jnp.isfinite(
        flows.divergences.kl(small(flows.maf, 1, supports.integers(0)), poisson, key=key).value
    )
    moved = flows.Flow(flows.DiagonalNormal(1), counts.bijector, counts.support)
    estimate = flows.divergences.kl(counts, moved, key=key)
    assert estimate.method == "monte_carlo"  # rounding loses some of what the bases differ by


@pytest.mark.slow
def test_gradients_of_divergences_between_integers_follow_the_score():
    p, q = (small(flows.maf, 1, supports.integers(0, 2), context_size=None) for _ in range(2))
    shift = jax.tree.map(lambda a: a, p)

    def exact(flow):
        log_p = flow.log_prob(jnp.arange(3.0)[:, None])
        return (jnp.exp(log_p) * log_p).sum()

    def by_draws(flow):
        return -flows.divergences.entropy(flow, key=jax.random.key(0), num_samples=50_000).value

    graphdef, params, rest = nnx.split(shift, nnx.Param, ...)
    merge = lambda params: nnx.merge(graphdef, params, rest)
    first, second = (
        jax.flatten_util.ravel_pytree(jax.grad(lambda params, f=f: f(merge(params)))(params))[0]
        for f in (exact, by_draws)
    )
    assert jnp.abs(first - second).max() < 0.1 * jnp.abs(first).max() + 0.02
    del q


@pytest.mark.parametrize(
    ("x", "support", "message"),
    [
        ([[1.0], [0.0], [-2.0], [3.0]], supports.positive, "x has 2 values .* 0.0 in row 1 and"),
        ([[1.0], [101.0], [2.0]], supports.interval(0, 100), "101.0 in row 1 and column 0"),
        ([[1.0], [2.5], [2.0]], supports.integers, "2.5 in row 1 .* integers"),
        ([[0.0], [1.0], [3.0]], supports.categories(3), "3.0 in row 2"),
    ],
)
def test_data_outside_of_their_support_are_told(x, support, message):
    x = np.array(x)
    flow = flows.maf(1, num_layers=1, support=support, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        flows.fit(flow, x, key=jax.random.key(0), validation=None, progress=False)
    with pytest.raises(ValueError, match=message.replace("x has", "standardize_with has")):
        flows.maf(1, support=support, standardize_with=x, rngs=nnx.Rngs(0))
    inside = np.array([[1.0], [2.0]])
    with pytest.raises(ValueError, match="validation x has"):
        flows.fit(flow, inside, validation=x, key=jax.random.key(0), progress=False)
    with pytest.raises(ValueError, match="x in a batch has"):
        flows.fit(flow, iter([x]), key=jax.random.key(0), progress=False)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: supports.interval(3, 3), ValueError, "low must be below high, got 3 and 3"),
        (lambda: supports.interval("a", 3), TypeError, "low must be a number"),
        (lambda: supports.circle(-1), ValueError, "period must be positive"),
        (lambda: supports.integers(0.5), ValueError, "low must be a whole number, got 0.5"),
        (lambda: supports.integers(3, 1), ValueError, "low must not be above high"),
        (lambda: supports.categories(1), ValueError, "k must be at least 2"),
        (
            lambda: small(flows.maf, 3, [supports.real] * 2),
            ValueError,
            "each of the 3 columns, got",
        ),
        (lambda: small(flows.maf, 1, "positive"), TypeError, "support must be one of flows.supp"),
        (lambda: small(flows.maf, 1, [0.0]), TypeError, r"support\[0\] must be one of flows.supp"),
        (lambda: small(flows.maf, 1, supports.circle(24)), ValueError, "flows.ncsf makes flows"),
        (lambda: small(flows.ncsf, 1, supports.positive), ValueError, "base must be over numbers"),
        (
            lambda: small(
                flows.ncsf, 2, [supports.circle, supports.real], base=flows.StandardNormal(2)
            ),
            ValueError,
            "base must be None where some columns are angles",
        ),
        (
            lambda: small(
                flows.ncsf,
                2,
                [supports.circle, supports.real],
                context_size=1,
                standardize_with=(None, np.ones((9, 1))),
            ),
            ValueError,
            "standardize_with must hold rows x",
        ),
        (
            lambda: small(
                flows.ncsf,
                2,
                [supports.circle(24), supports.positive],
                standardize_with=np.array([[1.0, -2.0], [3.0, 1.0]]),
            ),
            ValueError,
            "in row 0 and column 1, whose support is positive",
        ),
        (
            lambda: small(
                flows.ncsf,
                2,
                [supports.real, supports.circle(24)],
                standardize_with=np.array([[1.0, -20.0], [3.0, 20.0]]),
            ),
            ValueError,
            "span 40 in column 1",
        ),
        (
            lambda: small(flows.maf, 1, supports.circle, base=flows.CircularUniform(1)),
            ValueError,
            "angles where the transformer is periodic",
        ),
        (lambda: small(flows.ncsf, 1, supports.real), ValueError, "support must have a circle"),
    ],
)
def test_impossible_supports(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("draw", "ends"),
    [
        (lambda n: RNG.normal(size=n), (False, False)),
        (lambda n: RNG.standard_t(2, size=n), (False, False)),
        (lambda n: np.where(RNG.random(n) < 0.3, RNG.normal(0, 0.01, n), RNG.normal(5, 1, n)),
         (False, False)),
        (lambda n: RNG.random(n), (True, True)),
        (lambda n: RNG.exponential(size=n), (True, False)),
        (lambda n: 1e9 - 1e-3 * RNG.exponential(size=n), (False, True)),
        (lambda n: np.maximum(RNG.normal(size=n), 0), (True, False)),
        (lambda n: RNG.beta(0.5, 2, size=n), (True, False)),
    ],
)  # fmt: skip
def test_ends_of_data_are_seen(draw, ends):
    assert touched_ends(draw(4000)) == ends


def test_few_false_alarms_of_bounds():
    rng = np.random.default_rng(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rows in (100, 1000, 5000):
            for _ in range(20):
                warn_of_bounds(rng.normal(size=(rows, 20)), None, 0.0)
                warn_of_bounds(rng.standard_t(3, size=(rows, 20)), None, 0.0)
                warn_of_bounds(np.round(rng.normal(0, 2, size=(rows, 20))), None, 1.0)


def test_ends_are_those_of_the_dtype():
    """Data at an end as float32 has it are inside; data that it rounds to an open end are not."""
    x = np.linspace(0.01, 0.1, 300, dtype=np.float32)[:, None]
    options = {"key": jax.random.key(0), "max_epochs": 1, "progress": False}
    flows.fit(small(flows.maf, 1, supports.interval(0, 0.1)), x, **options)
    for support, x in (
        (supports.interval(1e6, np.inf), 1e6 + np.array([[0.01], [3.0], [5.0]])),
        (supports.positive, np.array([[1e-50], [1.0], [2.0]])),
        (supports.positive, np.array([[1e-41], [1.0], [2.0]], np.float32)),
    ):
        with pytest.raises(ValueError, match=r"x has 1 values outside .* in row 0 .* in float32"):
            flows.fit(small(flows.maf, 1, support), x, validation=None, **options)
    large = 2.0**24 + RNG.integers(0, 6, (500, 1))
    with pytest.raises(ValueError, match="integers of up to 16777221 in column 0, between which"):
        flows.fit(small(flows.maf, 1, supports.integers), large, **options)


def test_fit_warns_of_bounds_that_the_flow_does_not_know(recwarn):
    x = RNG.exponential(size=(2000, 2)) * [1.0, -1.0]
    x[:, 1] = RNG.normal(size=2000)
    options = {"key": jax.random.key(0), "max_epochs": 1, "progress": False}
    flow = flows.maf(2, num_layers=1, rngs=nnx.Rngs(0))
    with pytest.warns(UserWarning, match="touches a bound in 1 of 2 columns: column 0 .* least"):
        flows.fit(flow, x, **options)
    with pytest.warns(UserWarning, match="touches a bound"):
        flows.fit(flow, [x][0].copy(), **options)
    recwarn.clear()
    known = [supports.positive, supports.real]
    flows.fit(flows.maf(2, num_layers=1, support=known, rngs=nnx.Rngs(0)), x, **options)
    assert not [w for w in recwarn if "bound" in str(w.message)]


def test_noise_stays_inside():
    x = np.round(RNG.random((500, 1)), 1)
    flow = flows.maf(1, num_layers=1, support=supports.interval(0, 1), rngs=nnx.Rngs(0))
    options = {"key": jax.random.key(0), "max_epochs": 1, "progress": False}
    with pytest.raises(ValueError, match=r"dequantize adds noise of up to 0\.1 to column 0, and"):
        flows.fit(flow, x, dequantize=True, **options)
    wide = flows.maf(1, num_layers=1, support=supports.interval(0, 1.2), rngs=nnx.Rngs(0))
    flows.fit(wide, x, dequantize=True, **options)
    counts = flows.maf(1, num_layers=1, support=supports.integers(0), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"dequantize is 0\.5 for column 0, whose support is int"):
        flows.fit(counts, RNG.poisson(3, (500, 1)), dequantize=0.5, **options)


@pytest.mark.slow
def test_a_posterior_may_have_a_support_but_no_integers():
    def log_density(theta):  # a gamma and a beta
        return (2 * jnp.log(theta[0]) - theta[0]) + jnp.log(theta[1] * (1 - theta[1]))

    columns = [supports.positive, supports.interval(0, 1)]
    flow = flows.nsf(2, num_layers=2, hidden_sizes=(32,), support=columns, rngs=nnx.Rngs(0))
    posterior = flows.fit_posterior(
        log_density, flow=flow, key=jax.random.key(0), num_steps=500, progress=False
    )
    exact = np.log(2 / 6)
    assert abs(posterior.diagnostics.log_evidence.value - exact) < 0.05
    with pytest.raises(ValueError, match="flow must be over real numbers, and has integer"):
        flows.fit_posterior(
            lambda theta: 0.0, flow=small(flows.maf, 1, supports.integers), key=jax.random.key(0)
        )

"""Gaussianization flows: the start from the data, and what it must not learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flows
from flows import bijectors as fb
from flows import conditioners, supports

TURN = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]


def sources(n, seed=0):
    """Independent sources, turned: an exponential, a uniform and two narrow modes."""
    rng = np.random.default_rng(seed)
    modes = rng.choice([-1, 1], n) + 0.2 * rng.normal(size=n)
    return np.stack([rng.exponential(size=n), rng.random(n), modes], axis=1) @ TURN


def entropy():
    return 1.0 + 0.0 + (0.5 * np.log(2 * np.pi * np.e * 0.2**2) + np.log(2))


@pytest.mark.slow
def test_the_start_finds_independent_sources():
    x, test = sources(10_000), sources(5000, seed=1)
    excess = {}
    for num_layers in (1, 2, 6):
        flow = flows.gaussianization(3, num_layers=num_layers, standardize_with=x, rngs=nnx.Rngs(0))
        excess[num_layers] = -float(flow.log_prob(test).mean()) - entropy()
    # The first layer sees mixtures of the sources, which it makes a little more normal; the second
    # sees the sources themselves, as what ends them sharply can be seen by a smooth map.
    assert excess[2] < 0.5 * excess[1]
    assert excess[6] < 0.5  # of a normal distribution 1.53


@pytest.mark.slow
@pytest.mark.runs_long
@pytest.mark.parametrize(
    ("num_rows", "most"),
    [
        (4, 30),
        (12, 10),
        (50, 0.6),
        (1000, 0.2),
        (10_000, 0.1),
    ],
)
def test_the_start_learns_no_noise_by_heart(num_rows, most):
    rng = np.random.default_rng(0)
    x, test = rng.normal(size=(num_rows, 10)), rng.normal(size=(2000, 10))
    flow = flows.gaussianization(10, standardize_with=x, rngs=nnx.Rngs(0))
    sample = x.mean(axis=0), x.std(axis=0)
    known = -0.5 * (((test - sample[0]) / sample[1]) ** 2).sum(axis=1) - np.log(sample[1]).sum()
    excess = (known - 5 * np.log(2 * np.pi) - np.asarray(flow.log_prob(test))).mean()
    assert excess < most


@pytest.mark.slow
def test_the_order_of_the_rows_does_not_matter():
    rng = np.random.default_rng(0)
    sensor = np.arange(50_000) % 5  # in turn
    x = np.stack([rng.normal(size=50_000) + 4.0**sensor / 50, rng.normal(size=50_000)], axis=1)
    shuffled = x[rng.permutation(len(x))]
    as_given, mixed = (
        flows.gaussianization(2, num_layers=3, standardize_with=rows, rngs=nnx.Rngs(0))
        for rows in (x, shuffled)
    )
    assert abs(as_given.log_prob(x).mean() - mixed.log_prob(x).mean()) < 0.2


@pytest.mark.slow
def test_a_column_that_is_the_sum_of_others_keeps_the_spread_of_draws():
    a = np.random.default_rng(0).normal(size=(10_000, 2))
    x = np.column_stack([a, a.sum(axis=1)])
    flow = flows.gaussianization(3, num_layers=6, standardize_with=x, rngs=nnx.Rngs(0))
    draws = flow.sample(seed=jax.random.key(0), sample_shape=(5000,))
    np.testing.assert_allclose(draws.std(axis=0), x.std(axis=0), rtol=0.1)


def test_units_and_offsets_do_not_matter():
    scale = np.array([1e-5, 1e4, 1.0])
    x, test = (sources(n, seed=n) * scale + [3e-4, 5e5, -2.0] for n in (10_000, 5000))
    flow = flows.gaussianization(3, num_layers=6, standardize_with=x, rngs=nnx.Rngs(0))
    assert -float(flow.log_prob(test).mean()) - np.log(scale).sum() - entropy() < 0.5


def test_training_goes_on_from_the_start():
    x, test = sources(10_000), sources(5000, seed=1)
    flow = flows.gaussianization(3, num_layers=6, standardize_with=x, rngs=nnx.Rngs(0))
    result = flows.fit(
        flow, x, key=jax.random.key(0), learning_rate=1e-2, max_epochs=4, progress=False
    )
    assert result.flow.log_prob(test).mean() > flow.log_prob(test).mean() + 0.05
    for module in (0, 1):  # marginal maps and rotations both learn
        before, after = (
            jax.tree.leaves(nnx.state(f.bijector.parts[1].layers.parts[module], nnx.Param))[0]
            for f in (flow, result.flow)
        )
        assert np.abs(before - after).max() > 0.01


@pytest.mark.slow
def test_components_of_logistics_start_unlike_each_other():
    rng = np.random.default_rng(0)
    x = rng.choice([-3.0, 3.0], (4000, 1)) + 0.3 * rng.normal(size=(4000, 1))
    flow = flows.gaussianization(
        1, num_layers=2, transformer=fb.Inverted(fb.MixtureOfLogistics(4)), standardize_with=x,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    normal = -0.5 * np.log(2 * np.pi * np.e * x.var())
    assert flow.log_prob(x).mean() > normal + 1.3  # of 1.6; with equal components 0

    without_data = flows.gaussianization(
        1, num_layers=2, transformer=fb.Inverted(fb.MixtureOfLogistics(4)), rngs=nnx.Rngs(0)
    )
    result = flows.fit(
        without_data, x / 3, key=jax.random.key(0), learning_rate=1e-2, max_epochs=60,
        progress=False,
    )  # fmt: skip
    assert result.flow.log_prob(x / 3).mean() - np.log(3) > normal + 1.0


@pytest.mark.slow
def test_contexts_steer_every_layer():
    rng = np.random.default_rng(0)
    c, e = rng.normal(size=(2, 3000, 1))
    y = rng.choice([-1, 1], (3000, 1)) * (2 + 0.3 * c) + 0.2 * e
    flow = flows.gaussianization(
        1, num_layers=3, context_size=1, standardize_with=(y, c), rngs=nnx.Rngs(0)
    )
    result = flows.fit(
        flow, y, context=c, key=jax.random.key(1), learning_rate=1e-2, max_epochs=20, progress=False
    )
    assert -result.flow.condition(c).log_prob(y).mean() < 0.6


def test_columns_of_other_supports_are_gaussianized_on_the_real_line():
    rng = np.random.default_rng(0)
    x = np.stack([rng.exponential(size=3000), rng.random(3000) ** 3, rng.poisson(3, 3000)], axis=1)
    columns = [supports.positive, supports.interval(0, 1), supports.integers(0, np.inf)]
    flow = flows.gaussianization(
        3, num_layers=3, support=columns, standardize_with=x, rngs=nnx.Rngs(0)
    )
    draws = np.asarray(flow.sample(seed=jax.random.key(0), sample_shape=(5000,)), float)
    assert (draws >= 0).all()
    assert (draws[:, 1] <= 1).all()
    assert (draws[:, 2] % 1 == 0).all()
    quartiles = [np.quantile(table, [0.25, 0.5, 0.75], axis=0) for table in (draws, x)]
    np.testing.assert_allclose(*quartiles, atol=0.15)


@pytest.mark.parametrize(
    "x",
    [
        np.array([[1.0, 2.0], [3.0, 5.0]]),
        np.random.default_rng(0).normal(size=(2000, 1)).repeat(2, axis=1),
        np.random.default_rng(0).integers(0, 3, size=(2000, 2)),
        np.random.default_rng(0).standard_cauchy(size=(2000, 2)),
        np.random.default_rng(0).normal(size=(2000, 2)).cumsum(axis=0),
    ],
    ids=["two rows", "repeated columns", "integers", "Cauchy", "random walk"],
)
def test_awkward_data(x):
    flow = flows.gaussianization(2, num_layers=4, standardize_with=x, rngs=nnx.Rngs(0))
    x = x.astype(np.float32)
    assert np.isfinite(flow.log_prob(x)).all()
    z, _ = flow.bijector.inverse_and_log_det(x)
    np.testing.assert_allclose(flow.bijector.forward(z), x, atol=1e-3 * np.abs(x).max())


def test_another_table_compiles_nothing():
    from flows.architectures.gaussianization import _gaussianized

    def start(seed):
        flows.gaussianization(
            2, num_layers=4, standardize_with=sources(2000, seed)[:, :2], rngs=nnx.Rngs(seed)
        )
        return _gaussianized._cache_size()

    assert start(0) == start(1)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"transformer": fb.CircularSpline()}, ValueError, "transformer must map numbers"),
        ({"support": supports.circle}, ValueError, "flows.ncsf"),
        ({"transformer": "spline"}, TypeError, "transformer must be a flows.bijectors.Transformer"),
        ({"hidden_sizes": (8,)}, ValueError, "context_size must be given where networks are"),
        ({"num_layers": 0}, ValueError, "num_layers must be at least 1"),
        ({"rngs": 0}, TypeError, "rngs must be an nnx.Rngs"),
        ({"base": flows.StandardNormal(5)}, ValueError, "base has event size 5"),
        ({"standardize_with": np.ones((5, 2))}, ValueError, "constant in column 0"),
        ({"standardize_with": np.eye(3)}, ValueError, "must have 2 columns"),
        ({"standardize_with": [[0.0, np.nan], [1.0, 2.0]]}, ValueError, "1 non-finite"),
    ],
    ids=range(10),
)
def test_impossible_arguments(options, error, match):
    with pytest.raises(error, match=match):
        flows.gaussianization(2, **({"rngs": nnx.Rngs(0)} | options))


def test_a_conditioner_of_another_size_is_refused():
    layer = fb.Elementwise(2, context_size=1, rngs=nnx.Rngs(0), conditioner=wrong)
    with pytest.raises(ValueError, match=r"conditioner must give parameters \[..., 4\]"):
        layer.forward(jnp.zeros(2), jnp.zeros(1))


def wrong(in_size, out_size, **options):
    """A network of one output too many."""
    return conditioners.MLP(in_size, out_size + 1, **options)


def test_a_context_needs_a_source_of_weights():
    with pytest.raises(ValueError, match="rngs must be given where there is a context"):
        fb.Elementwise(2, context_size=1)


def test_an_elementwise_map_without_a_context_has_no_network():
    flow = flows.Flow(flows.StandardNormal(2), fb.Elementwise(2))
    params = nnx.state(flow, nnx.Param)
    assert sum(a.size for a in jax.tree.leaves(params)) == 4
    assert jnp.allclose(flow.log_prob(jnp.zeros(2)), -np.log(2 * np.pi))

"""What the columns of data are like, and what is said and done about it."""

import tracemalloc
import warnings

import jax
import numpy as np
import pytest
from flax import nnx

import flows
from flows._columns import steps_between_values
from flows.bijectors.linear import whitening

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
FLOW = flows.real_nvp(2, num_layers=1, hidden_sizes=(4,), rngs=nnx.Rngs(0))
CONDITIONAL = flows.real_nvp(2, num_layers=1, hidden_sizes=(4,), context_size=1, rngs=nnx.Rngs(0))


def fit(flow, x, **options):
    return flows.fit(flow, x, key=KEY, **{"max_epochs": 1, "progress": False} | options)


def on_disk(directory, array):
    path = directory / f"{len(list(directory.iterdir()))}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_memory_map_is_whitened_a_block_at_a_time(offset, tmp_path):
    x = offset + RNG.normal(size=(100_000, 8)) @ RNG.normal(size=(8, 8))
    map_ = on_disk(tmp_path, x)
    in_memory = whitening(x)
    tracemalloc.start()
    on_map = whitening(map_)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes
    jax.tree.map(np.testing.assert_array_equal, on_map, in_memory)
    white, _ = in_memory.inverse_and_log_det(x if not offset else x.astype(np.float32))
    if not offset:  # otherwise float32 keeps few digits of x
        np.testing.assert_allclose(np.mean(white, axis=0), 0, atol=1e-3)
        np.testing.assert_allclose(np.cov(white.T), np.eye(8), atol=1e-3)


SECONDS = 1_700_000_000 + np.arange(2000)  # of which float32 keeps 17 values
WIDE = 10**4 * np.arange(2000) + 1  # rounded too, but none is lost


@pytest.mark.parametrize("place", ["x", "context", "validation", "standardize_with", "batches"])
@pytest.mark.parametrize("on_map", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_integers_that_lose_digits_are_warned_about(place, on_map, tmp_path):
    def call(column):
        column = column[:, None]
        whole = np.concatenate([column, RNG.integers(0, 10**6, (2000, 1))], axis=1)
        x = RNG.normal(size=(2000, 2))
        if on_map:
            column, whole = on_disk(tmp_path, column), on_disk(tmp_path, whole)
        options = {"dequantize": 1.0, "max_epochs": 1}
        match place:
            case "x":
                fit(FLOW, whole, **options)
            case "context":
                fit(CONDITIONAL, x, context=column)
            case "validation":
                fit(FLOW, RNG.integers(0, 99, (2000, 2)), validation=whole, **options)
            case "standardize_with":
                flows.maf(2, standardize_with=whole, rngs=nnx.Rngs(0))
                flows.maf(2, context_size=1, standardize_with=(x, column), rngs=nnx.Rngs(0))
            case "batches":
                batches = [(x[:1000], column[:1000]), (x[1000:], column[1000:])]
                fit(CONDITIONAL, iter(batches), steps_per_epoch=2, validation=None)

    def warned(column):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call(column)
        return [w for w in map(str, (w.message for w in caught)) if "keeps steps of" in w]

    assert not warned(WIDE)
    assert len(warned(SECONDS)) == (2 if place == "standardize_with" else 1)


def test_the_bound_of_dequantized_values_counts_their_widths():
    values = np.round(RNG.normal(size=(4000, 2)), 1)
    flow = flows.maf(2, num_layers=1, hidden_sizes=(4,), standardize_with=values, rngs=nnx.Rngs(0))
    flow = fit(flow, values, dequantize=0.1, max_epochs=10).flow
    noisy = values + 0.1 * RNG.uniform(size=values.shape)
    bound = float(flow.log_prob(noisy).mean()) + 2 * np.log(0.1)
    exact = 2 * (-0.5 * np.log(2 * np.pi * np.e) + np.log(0.1))  # of the rounded normals
    assert bound == pytest.approx(exact, abs=5 * np.sqrt(1 / 4000))


@pytest.mark.parametrize("on_map", [False, True])
def test_a_constant_context_column_is_fine(on_map, tmp_path):
    x, context = RNG.normal(size=(500, 2)), np.full((500, 1), 3.0)
    if on_map:
        x, context = RNG.normal(size=(500, 2)), on_disk(tmp_path, context)
    flow = flows.maf(
        2, num_layers=1, context_size=1, standardize_with=(x, context), rngs=nnx.Rngs(0)
    )
    fitted = fit(flow, on_disk(tmp_path, x) if on_map else x, context=context).flow
    assert np.isfinite(fitted.condition(np.full(1, 3.0)).log_prob(x)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_between_values_are_no_rounding(dtype):
    values = np.array([0.1 + 0.2, 0.3, 0.5, 0.7], dtype)
    x = RNG.choice(values, (500, 1))
    x[0] = np.nan
    for enabled in (False, True):
        with jax.enable_x64(enabled):
            np.testing.assert_allclose(steps_between_values(x), 0.2, rtol=1e-5)


def test_one_hot_columns_are_whitened_with_their_noise():
    kind = RNG.integers(0, 4, 2000)
    x = np.concatenate([np.eye(4)[kind], RNG.normal(size=(2000, 1)) + kind[:, None]], axis=1)
    flow = flows.maf(5, num_layers=2, hidden_sizes=(16,), standardize_with=x, rngs=nnx.Rngs(0))
    result = fit(flow, x, dequantize=True, max_epochs=5)
    noisy = whitening(x + RNG.uniform(size=x.shape) * [1, 1, 1, 1, 0])
    as_normal = (
        -flows.Flow(flows.StandardNormal(5), noisy)
        .log_prob(x + RNG.uniform(size=x.shape) * [1, 1, 1, 1, 0])
        .mean()
    )
    assert result.history["validation"][0] < as_normal + 0.2  # about a normal, or better
    assert result.history["train"][0] < as_normal + 0.2


@pytest.mark.parametrize("dequantize", [None, 0.5, True])
def test_copies_are_warned_about_where_some_columns_are_discrete(dequantize, recwarn):
    x = np.concatenate([RNG.normal(size=(500, 1)), RNG.integers(0, 9, (500, 1))], axis=1)
    fit(FLOW, np.concatenate([x, x[:200]]), dequantize=dequantize)
    warned = [
        str(w.message) for w in recwarn if "200 of the 700 rows of x repeat" in str(w.message)
    ]
    assert len(warned) == (dequantize != 0.5)  # noise in all columns tells the copies apart


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (np.ones(50), ValueError, r"x must have shape \[rows, columns\], .*pass x\[:, None\]"),
        (np.array([["a", "b"]] * 9), TypeError, "x must hold floating-point numbers, got .*text"),
        (np.array([["a", 1.0]] * 9, dtype=object), TypeError, "x must hold .*, got dtype object"),
        (np.array([["2020-01-01"] * 2] * 9, "datetime64[D]"), TypeError, "x must hold .*dates"),
        (np.ones((9, 2), complex), TypeError, "x must hold .*, got dtype complex128"),
        (np.ones((1, 2)), ValueError, "x must have at least 2 rows, got 1"),
        (3.0, ValueError, r"x must have shape \[rows, columns\], got shape \(\)"),
    ],
)
@pytest.mark.parametrize("dequantize", [None, True])
def test_columns_that_are_no_numbers_are_named(x, error, match, dequantize):
    with pytest.raises(error, match=match):
        fit(FLOW, x, dequantize=dequantize)
    with pytest.raises(error, match=match.replace("x must", "standardize_with must", 1)[:30]):
        flows.maf(2, standardize_with=x, rngs=nnx.Rngs(0))
    if np.size(x) > 2:
        with pytest.raises((ValueError, TypeError)):
            fit(FLOW, iter([x, x]), steps_per_epoch=2, validation=None)

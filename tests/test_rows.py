import itertools

import grain
import jax
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import skewed_data

import flows
from flows.density import rows

KEY = jax.random.key(0)
X = skewed_data(50)
FLOW = flows.real_nvp(2, num_layers=1, hidden_sizes=(4,), rngs=nnx.Rngs(0))
CONDITIONAL = flows.real_nvp(2, num_layers=1, hidden_sizes=(4,), context_size=1, rngs=nnx.Rngs(0))


def test_a_memory_map_gives_the_same_fit(tmp_path):
    x = skewed_data(1000)
    np.save(tmp_path / "x.npy", x)
    weights = np.random.default_rng(0).uniform(size=1000)
    options = {"weights": weights, "key": KEY, "max_epochs": 3, "batch_size": 64, "progress": False}
    in_memory = flows.fit(FLOW, x, **options)
    on_disk = flows.fit(FLOW, np.load(tmp_path / "x.npy", mmap_mode="r"), **options)
    for name in ("train", "validation"):
        np.testing.assert_allclose(on_disk.history[name], in_memory.history[name], rtol=1e-5)
    context = np.lib.format.open_memmap(tmp_path / "c.npy", "w+", float, (1000, 1))
    context[:] = x[:, :1]
    options = {"key": KEY, "max_epochs": 2, "progress": False}
    on_disk = flows.fit(
        CONDITIONAL, np.load(tmp_path / "x.npy", mmap_mode="r"), context=context, **options
    )
    in_memory = flows.fit(CONDITIONAL, x, context=np.array(context), **options)
    np.testing.assert_array_equal(on_disk.history["train"], in_memory.history["train"])


def test_batches_of_a_loader_give_the_same_fit():
    x, context = skewed_data(500).astype(np.float32), np.arange(500.0)[:, None] / 500
    options = {"validation": None, "key": KEY, "max_epochs": 4, "progress": False}
    pairs = grain.MapDataset.range(500).seed(0).shuffle().map(lambda i: (x[i], context[i]))
    loader = pairs.batch(50, drop_remainder=True)
    result = flows.fit(CONDITIONAL, loader, **options)
    again = flows.fit(CONDITIONAL, iter(list(loader)), steps_per_epoch=10, **options)
    np.testing.assert_array_equal(result.history["train"][:1], again.history["train"])
    assert (len(result.history["train"]), again.stop_reason) == (4, "exhausted")


def test_no_batch_of_a_shared_stream_is_lost():
    class Stream:
        """Its iterators are one."""

        def __init__(self):
            self.batches = batches()

        def __iter__(self):
            return self.batches

    def batches():
        yield from np.split(X, 5)

    options = {
        "key": KEY, "steps_per_epoch": 5, "max_epochs": 1, "validation": None, "progress": False
    }  # fmt: skip
    shared, plain = (flows.fit(FLOW, x, **options) for x in (Stream(), batches()))
    np.testing.assert_array_equal(shared.history["train"], plain.history["train"])
    assert len(shared.history["train"]) == 1


def test_dequantized_counts_bound_their_probability():
    counts = np.random.default_rng(0).poisson(3.0, size=(5000, 1))
    flow = flows.maf(
        1, num_layers=1, hidden_sizes=(4,), standardize_with=counts + 0.5, rngs=nnx.Rngs(0)
    )
    fit = lambda x, **options: flows.fit(
        flow, x, key=KEY, max_epochs=40, batch_size=250, progress=False, **options
    )
    result = fit(counts, dequantize=True)
    p = np.bincount(counts[:, 0]) / len(counts)
    entropy = -np.sum(p * np.log(p))
    gaussian = 0.5 * np.log(2 * np.pi * np.e * (counts.var() + 1 / 12))
    loss = result.history["validation"].min()
    assert entropy - 0.05 < loss < gaussian + 0.05  # a 1-D affine flow is a normal
    draws = result.flow.sample(seed=KEY, sample_shape=(10_000,))
    assert abs(draws.mean() - counts.mean() - 0.5) < 5 * counts.std() * np.sqrt(1e-4 + 1 / 5000)
    with pytest.warns(UserWarning, match="x column 0 takes few distinct values, 1 apart"):
        fit(counts.astype(float))
    two = np.concatenate([counts, np.random.default_rng(1).normal(size=(5000, 1))], axis=1)
    np.testing.assert_array_equal(rows.steps_between_values(two), [1.0, 0.0])


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.repeat(skewed_data(500), 2, axis=0), "500 of the 1000 rows of x repeat others"),
        (1e4 * skewed_data(500), "The flow started far from the data"),
        (skewed_data(500), "No epoch was better on validation than the start"),
    ],
)
def test_data_and_fits_to_be_wary_of_are_warned_about(x, match):
    optimizer = optax.adam(1e3) if "start" in match and "far" not in match else None
    with pytest.warns(UserWarning, match=match):
        result = flows.fit(FLOW, x, key=KEY, max_epochs=2, optimizer=optimizer, progress=False)
    if optimizer is not None:
        np.testing.assert_array_equal(result.flow.log_prob(x), FLOW.log_prob(x))


BATCHES = [X[:10], X[10:20]]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"x": iter([])}, "x is an iterable of batches, but gives none"),
        ({"x": iter([X[:10], X[:9]])}, "x gives a batch of 9 rows after batches of 10"),
        ({"x": iter([X[:10, :1]])}, r"x must give batches of shape \[rows, 2\], got .*\(10, 1\)"),
        ({"x": iter([(X[:10], None, X[:10])])}, r"x must give weights of shape \[10\] that are"),
        ({"x": iter([(X[:10], None, -np.ones(10))])}, "not negative, got .* weight of -1"),
        ({"x": iter(BATCHES), "context": X}, "context must come in the batches"),
        ({"x": iter(BATCHES), "validation": 0.1}, "validation must be arrays or None"),
        ({"x": iter(BATCHES), "batch_size": 5}, "batch_size is 5, but x gives batches of 10"),
        ({"x": iter(BATCHES), "dequantize": True}, "dequantize must be widths"),
        ({"x": iter([(X[:10], X[:10, :1])])}, "context in x's batches was given"),
        ({"x": X, "steps_per_epoch": 3}, "steps_per_epoch is for iterables"),
        ({"x": X, "dequantize": -1.0}, "dequantize must be True, or a width of at least 0"),
        ({"x": X, "dequantize": [1.0, 1.0, 1.0]}, "one for each of the 2 columns"),
        ({"x": X, "validation": "half"}, "validation as a fraction must lie .* got 'half'"),
        ({"x": X, "learning_rate": 0.0}, "learning_rate must be positive and finite, got 0"),
        ({"x": X, "learning_rate": 0.1, "optimizer": optax.adam(0.1)}, "and an optimizer: set"),
        ({"x": X, "ema_decay": 2.0}, "ema_decay must lie between 0 and 1, got 2"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)  # fmt: skip
def test_bad_batches_and_options(arguments, match):
    iterable = not isinstance(arguments["x"], np.ndarray)
    options = {"key": KEY, "max_epochs": 2, "progress": False, "validation": None}
    if iterable:
        options["steps_per_epoch"] = 2
    with pytest.raises(ValueError, match=match):
        flows.fit(FLOW, **options | arguments)


def test_a_fit_of_an_endless_stream_needs_no_options():
    stream = (X[np.random.default_rng(i).integers(len(X), size=50)] for i in itertools.count())
    result = flows.fit(FLOW, stream, key=KEY, max_epochs=2, progress=False)
    assert result.held_out is None
    assert len(result.losses) == 200
    assert len(result.history["train"]) == 2
    assert result.losses[-20:].mean() < result.losses[:20].mean() - 0.1


def test_the_rows_held_out_are_kept():
    result = flows.fit(FLOW, X, key=KEY, max_epochs=2, progress=False)
    x, context, weights = result.held_out
    assert x.shape == (round(0.1 * len(X)), 2)
    assert context is weights is None
    assert {tuple(row) for row in np.asarray(x)} < {tuple(row) for row in X.astype(np.float32)}
    loss = -result.flow.log_prob(x).mean()
    np.testing.assert_allclose(loss, result.history["validation"].min(), rtol=1e-5)


def test_batches_of_other_kinds_are_refused():
    with pytest.raises(TypeError, match=r"batches that are an array x.* got dict of 1"):
        flows.fit(FLOW, iter([{"x": X}]), key=KEY, validation=None, steps_per_epoch=1)


def test_a_private_map_keeps_what_was_written_to_it(tmp_path):
    np.save(tmp_path / "x.npy", X + 50)
    x = np.load(tmp_path / "x.npy", mmap_mode="c")
    x -= x.mean(axis=0)
    flows.fit(FLOW, x, key=KEY, max_epochs=1, progress=False)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda x: np.where(np.arange(50)[:, None] == 33, np.nan, x), "2 non-finite .* row 33"),
        (lambda x: x * [0, 1], "x is constant in column 0"),
        (lambda x: x[:, :1], "x must have 2 columns"),
    ],
)  # fmt: skip
def test_bad_memory_maps(spoil, match, tmp_path, monkeypatch):
    monkeypatch.setattr("flows._disk.BLOCK_ROWS", 7)
    np.save(tmp_path / "x.npy", spoil(X))
    with pytest.raises(ValueError, match=match):
        flows.fit(FLOW, np.load(tmp_path / "x.npy", mmap_mode="r"), key=KEY, progress=False)

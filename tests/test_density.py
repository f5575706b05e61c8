import _thread

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import perturbed, skewed_data

import flows
from flows.conditioners import compute_in
from flows.training import on_device

KEY = jax.random.key(0)


def gaussian_model(size=2):
    """A flow whose maximum-likelihood fit is known: mean and standard deviation of the data."""
    return flows.Flow(flows.DiagonalNormal(size), flows.bijectors.Reverse(size))


def test_fit_finds_the_maximum_likelihood_solution():
    x = np.random.default_rng(0).normal(size=(2000, 2)) * [0.5, 3.0] + [1.0, -2.0]
    result = flows.fit(
        gaussian_model(), x, validation=None, key=KEY, batch_size=2000, max_epochs=2000,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.02, 2000)), progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(result.flow.base.loc[...], x.mean(0)[::-1], atol=1e-3)
    np.testing.assert_allclose(np.exp(result.flow.base.log_scale[...]), x.std(0)[::-1], rtol=1e-3)
    exact = 0.5 * np.log(2 * np.pi * np.e * x.var(0)).sum()
    np.testing.assert_allclose(result.history["train"][-1], exact, atol=1e-4)
    assert result.stop_reason == "finished"
    assert len(result.history["train"]) == 2000
    assert len(result.history["validation"]) == 0


def test_weights_count_like_repetitions():
    x = np.concatenate([np.zeros((300, 2)), np.ones((100, 2))]) + 1e-3 * skewed_data(400)
    weights = np.repeat([1.0, 9.0], [300, 100])
    result = flows.fit(
        gaussian_model(), x, weights=weights, validation=None, key=KEY, batch_size=400,
        max_epochs=1500, optimizer=optax.adam(0.02), progress=False,
    )  # fmt: skip
    expected = np.average(x, axis=0, weights=weights)[::-1]
    np.testing.assert_allclose(result.flow.base.loc[...], expected, atol=5e-3)


@pytest.mark.parametrize("architecture", [flows.maf, flows.iaf, flows.real_nvp])
def test_every_architecture_learns_a_skewed_density(architecture):
    x = skewed_data()
    start = architecture(2, num_layers=4, hidden_sizes=(32,), rngs=nnx.Rngs(0))
    result = flows.fit(start, x, key=KEY, batch_size=200, max_epochs=30, progress=False)
    fresh = np.random.default_rng(1).normal(size=(4000, 2))
    test = np.stack([fresh[:, 0], 0.5 * fresh[:, 0] ** 2 + 0.3 * fresh[:, 1]], axis=1)
    truth = np.log(2 * np.pi * np.e * 0.3)  # entropy of the data's law
    loss = -float(result.flow.log_prob(test).mean())
    gaussian = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * np.cov(test.T))[1]
    assert truth - 0.1 < loss < truth + 0.1 < gaussian
    assert result.num_skipped == 0


def test_conditional_fit():
    rng = np.random.default_rng(0)
    context = rng.normal(size=(3000, 1))
    x = 2 * context + 0.1 * rng.normal(size=(3000, 1))
    flow = flows.maf(1, context_size=1, num_layers=2, hidden_sizes=(16,), rngs=nnx.Rngs(0))
    result = flows.fit(
        flow, x[500:], context=context[500:], validation=(x[:500], context[:500]), key=KEY,
        batch_size=50, max_epochs=40, progress=False,
    )  # fmt: skip
    draws = result.flow.condition(jnp.array([0.5])).sample(seed=KEY, sample_shape=(4000,))
    assert abs(draws.mean() - 1.0) < 0.05
    assert abs(draws.std() - 0.1) < 0.03


def test_the_best_epoch_on_validation_is_kept():
    x = skewed_data(300)
    flow = flows.maf(2, num_layers=3, hidden_sizes=(64, 64), rngs=nnx.Rngs(0))
    result = flows.fit(
        flow, x[:100], validation=x[100:], key=KEY, batch_size=50, max_epochs=200, patience=5,
        optimizer=optax.adam(3e-3), progress=False,
    )  # fmt: skip
    assert result.stop_reason == "patience"
    losses = result.history["validation"]
    assert len(losses) - 1 - losses.argmin() == 5
    np.testing.assert_allclose(-result.flow.log_prob(x[100:]).mean(), losses.min(), rtol=1e-4)


def test_the_flow_passed_in_is_not_changed():
    flow = flows.maf(2, num_layers=1, rngs=nnx.Rngs(0))
    before = jax.tree.map(np.array, jax.tree.leaves(flow))
    result = flows.fit(flow, skewed_data(500), key=KEY, max_epochs=2, progress=False)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.leaves(flow))
    changed = [np.any(a != b) for a, b in zip(before, jax.tree.leaves(result.flow), strict=True)]
    assert any(changed)


def test_fits_are_reproducible_and_a_second_one_does_not_recompile():
    def run(key):
        flow = flows.real_nvp(2, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0))
        return flows.fit(flow, skewed_data(500), key=key, max_epochs=3, progress=False).flow

    first = run(KEY)
    start = flows.real_nvp(2, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0))
    assert np.any(first.log_prob(skewed_data(5)) != start.log_prob(skewed_data(5)))
    number = on_device.run._cache_size()
    jax.tree.map(np.testing.assert_array_equal, first, run(KEY))
    run(jax.random.key(1))
    assert on_device.run._cache_size() == number


def test_buffers_are_not_trained():
    x = skewed_data(500)
    flow = flows.maf(2, num_layers=2, permutation="random", standardize_with=x, rngs=nnx.Rngs(0))
    result = flows.fit(flow, x, key=KEY, max_epochs=2, progress=False)
    buffers = lambda flow: nnx.state(flow, flows.bijectors.Buffer)
    assert len(jax.tree.leaves(buffers(flow))) == 4
    jax.tree.map(np.testing.assert_array_equal, buffers(flow), buffers(result.flow))


@pytest.mark.parametrize("validation", [0.1, None])
def test_ctrl_c_keeps_the_best_flow_so_far(validation):
    x = skewed_data()
    flow = flows.real_nvp(2, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0))
    result = flows.fit(
        flow, x, max_epochs=100_000, key=KEY, patience=None, progress=False, batch_size=100,
        optimizer=optax.adam(1e-3), validation=validation,
        callback=lambda state: _thread.interrupt_main() if state.epoch > 1 else None,
    )  # fmt: skip
    assert result.stop_reason == "interrupted"
    assert 0 < len(result.history["train"]) < 100_000
    assert float(result.flow.log_prob(x).mean()) > float(flow.log_prob(x).mean())


def test_optimizers_that_keep_the_parameters_do_not_harm_the_flow():
    x, flow = skewed_data(500), gaussian_model()
    flows.fit(flow, x, key=KEY, optimizer=optax.contrib.dog(1.0), max_epochs=1, progress=False)
    assert np.isfinite(flow.log_prob(x)).all()


def test_held_out_weights_count():
    x = np.random.default_rng(0).normal(size=(2000, 2)) + 3.0
    weights = np.random.default_rng(1).pareto(1.5, size=2000)
    result = flows.fit(
        gaussian_model(), x, weights=weights, validation=0.5, key=KEY, max_epochs=1,
        optimizer=optax.sgd(0.0), batch_size=1000, progress=False,
    )  # fmt: skip
    nll = -np.asarray(gaussian_model().log_prob(x))
    parts = [result.history[name][0] for name in ("train", "validation")]
    total = np.average(nll, weights=weights)
    assert min(parts) - 1e-3 < total < max(parts) + 1e-3  # each is a weighted mean of its part
    with pytest.raises(ValueError, match=r"weights are all zero in the .* held-out part"):
        flows.fit(
            gaussian_model(), x, weights=np.arange(2000) < 1, key=KEY, max_epochs=1,
            progress=False,
        )  # fmt: skip


def test_validation_that_is_not_finite_is_reported():
    x = skewed_data(500)
    with pytest.warns(UserWarning, match="validation loss was not finite in 2 of 2 epochs"):
        flows.fit(
            gaussian_model(), x, validation=np.full((1, 2), 1e25), key=KEY, max_epochs=2,
            progress=False,
        )  # fmt: skip


@pytest.mark.parametrize("seconds", [1e-9, 0.3])
def test_steps_that_are_not_finite_are_skipped_counted_and_reported(seconds, monkeypatch):
    monkeypatch.setattr("flows.training.on_host.SECONDS_PER_CHUNK", seconds)
    x = skewed_data(1000)
    x[3] = 3e38  # finite, but its density is not
    with pytest.warns(UserWarning, match="5 training steps had a non-finite loss"):
        result = flows.fit(
            gaussian_model(), x, validation=None, key=KEY, batch_size=100, max_epochs=5,
            progress=False,
        )  # fmt: skip
    assert result.num_skipped == 5
    assert np.isfinite(result.flow.log_prob(x[:3])).all()


def test_a_fit_that_only_fails_stops_with_the_flow():
    x = np.full((100, 2), 3e38) * np.random.default_rng(0).uniform(0.9, 1, (100, 2))
    with pytest.raises(
        flows.training.NonFiniteError, match=r"not finite in (\d+) of \1 steps"
    ) as info:
        flows.fit(gaussian_model(), x, validation=None, key=KEY, batch_size=10, progress=False)
    assert isinstance(info.value.module, flows.Flow)


X = skewed_data(50)
FLOW = flows.real_nvp(2, num_layers=1, hidden_sizes=(4,), rngs=nnx.Rngs(0))
CONDITIONAL = flows.real_nvp(2, num_layers=1, hidden_sizes=(4,), context_size=1, rngs=nnx.Rngs(0))
WITH_NAN = np.where(np.arange(50)[:, None] >= 7, np.nan, X)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"x": WITH_NAN}, ValueError, r"x has 86 non-finite .* first is in row 7"),
        ({"x": np.where(X > 1, np.inf, X)}, ValueError, "x has .* non-finite"),
        ({"x": 1e42 * X}, ValueError, "x has .* non-finite values .* as float32"),
        ({"x": X * [0, 1]}, ValueError, "x is constant in column 0"),
        ({"x": X[:, :1]}, ValueError, r"x must have 2 columns, got shape \(50, 1\)"),
        ({"x": X[:, 0]}, ValueError, r"x must have shape \[rows, columns\]"),
        ({"x": X[:0]}, ValueError, "x is empty"),
        ({"x": X.astype(int)}, TypeError, "x must hold floating-point numbers, got dtype int64"),
        ({"x": X.astype(int)}, TypeError, "Counts need a flow with support=flows.supports.integ"),
        ({"x": lambda: X}, TypeError, "x must be an array, got the function .*: call it"),
        ({"x": [["a", "b"]]}, TypeError, "x must hold floating-point"),
        ({"context": X[:, :1]}, ValueError, "context was given, but this flow takes none"),
        ({"flow": CONDITIONAL}, ValueError, "context is missing"),
        ({"flow": CONDITIONAL, "context": X[:9, :1]}, ValueError, "context has 9 rows and x"),
        ({"flow": CONDITIONAL, "context": X}, ValueError, "context must have 1 columns"),
        (
            {"flow": CONDITIONAL, "context": X[:, :1], "validation": X},
            ValueError,
            "validation context is missing",
        ),
        ({"weights": np.ones(9)}, ValueError, "weights has 9 rows and x has 50"),
        ({"weights": -np.ones(50)}, ValueError, "weights must not be negative.* got 50 negative"),
        ({"weights": np.zeros(50)}, ValueError, "weights must not be negative and not all zero"),
        ({"weights": np.full(50, np.nan)}, ValueError, "weights has 50 non-finite"),
        ({"weights": X}, ValueError, r"weights must have shape \[rows\]"),
        ({"batch_size": 51}, ValueError, "batch_size is 51, more than the 45 training rows"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"max_epochs": 0}, ValueError, "max_epochs must be at least 1"),
        ({"patience": 0}, ValueError, "patience must be at least 1"),
        ({"validation": 1.5}, ValueError, "validation as a fraction .* got 1.5"),
        ({"validation": X[:, :1]}, ValueError, "validation x must have 2 columns"),
        ({"x": X[:2], "validation": 0.9}, ValueError, "too few to hold out"),
        ({"x": X[:1]}, ValueError, "x must have at least 2 rows, got 1"),
        ({"validation": (X, X, X)}, ValueError, r"validation as a tuple must be \(x, context\)"),
        ({"optimizer": 1e-3}, TypeError, "optimizer must be an optax optimizer, got 0.001"),
        (
            {"flow": CONDITIONAL.condition(X[:, :1])},
            ValueError,
            r"flow must have no batch shape, got \(50,\)",
        ),
        (
            {"flow": flows.Flow(flows.StandardNormal(2), flows.bijectors.Reverse(2))},
            ValueError,
            "flow has no nnx.Param: there is nothing to train",
        ),
        ({"key": 0}, TypeError, "key must be a JAX random key"),
        (
            {"flow": distrax.Transformed(
                flows.StandardNormal(2), flows.bijectors.Coupling(2, rngs=nnx.Rngs(0)))},
            TypeError,
            r"flow must be a flows.Flow, got distrax.*use flows.Flow\(base, bijector\)",
        ),
    ],
    ids=lambda value: str(value)[:30].replace("\n", ""),
)  # fmt: skip
def test_bad_input(arguments, error, match):
    arguments = {
        "flow": FLOW, "x": X, "key": KEY, "batch_size": 10, "max_epochs": 1, "progress": False,
    } | arguments  # fmt: skip
    with pytest.raises(error, match=match):
        flows.fit(**arguments)


@pytest.mark.parametrize(
    "architecture",
    [
        flows.maf,
        *(pytest.param(make, marks=pytest.mark.slow) for make in (flows.iaf, flows.real_nvp)),
    ],
)
def test_bfloat16_is_for_training_only(architecture):
    x = skewed_data(2000)
    start = architecture(2, num_layers=2, hidden_sizes=(32,), rngs=nnx.Rngs(0))
    options = {"key": KEY, "max_epochs": 10, "batch_size": 200, "progress": False}
    rough = flows.fit(start, x, compute_dtype=jnp.bfloat16, **options)
    exact = flows.fit(start, x, **options)
    same = (rough.history["train"] == exact.history["train"]).all()
    assert same == (architecture is flows.iaf)  # its density is an inverse
    np.testing.assert_allclose(
        rough.history["validation"][-1], exact.history["validation"][-1], atol=0.03
    )
    flow = rough.flow
    assert flow.log_prob(x).dtype == jnp.float32
    z = flow.bijector.inverse(x[:50])
    np.testing.assert_allclose(flow.bijector.forward(z), x[:50], atol=1e-4)


def test_bfloat16_products_are_coarse_and_inverses_are_not():
    flow = flows.iaf(3, num_layers=1, hidden_sizes=(32, 32), rngs=nnx.Rngs(0))
    flow = perturbed(flow)
    x = skewed_data(20)[:, [0, 1, 1]]
    exact = flow.log_prob(x), flow.bijector.forward(x)
    with compute_in(jnp.bfloat16):
        np.testing.assert_array_equal(flow.log_prob(x), exact[0])
        gap = np.abs(flow.bijector.forward(x) - exact[1]).max()
    assert 1e-4 < gap < 0.1


def test_a_result_prints_how_it_went():
    result = flows.fit(CONDITIONAL, X, context=X[:, :1], max_epochs=2, key=KEY, progress=False)
    train, validation = (result.history[name][-1] for name in ("train", "validation"))
    end = f"at the end train {train:.5g}, validation {validation:.5g}"
    assert str(result) == f"FitResult: 2 steps, finished; {end}"
    assert repr(result) == "FitResult(stop_reason='finished', num_skipped=0)"

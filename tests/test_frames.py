"""Frames of pandas and polars go in wherever arrays do, and come out of `as_frame`."""

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
from flax import nnx

import flows
from flows import supports

RNG = np.random.default_rng(0)
COLUMNS = {
    "income": RNG.lognormal(size=400),
    "children": RNG.poisson(1.0, 400),
    "owner": RNG.random(400) < 0.4,
}
SUPPORT = [supports.positive, supports.integers(0), supports.categories(2)]

A = RNG.normal(size=40)


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_frames_go_in_and_come_out(library):
    frame = library.DataFrame(COLUMNS)
    context = library.DataFrame({"age": RNG.normal(40, 10, 400), "men": RNG.random(400) < 0.5})
    flow = flows.maf(
        3, num_layers=1, context_size=2, support=SUPPORT, standardize_with=(frame, context),
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    options = {"key": jax.random.key(0), "max_epochs": 2, "progress": False}
    result = flows.fit(flow, frame, context=context, **options)
    array = np.stack([np.asarray(values, float) for values in COLUMNS.values()], axis=1)
    same = flows.fit(flow, array, context=np.asarray(context.to_numpy(), float), **options)
    np.testing.assert_array_equal(result.losses, same.losses)

    draws = result.flow.condition(np.zeros(2)).sample(seed=jax.random.key(1), sample_shape=50)
    out = flows.as_frame(draws, like=frame)
    assert isinstance(out, library.DataFrame)
    assert list(out.columns) == list(COLUMNS)
    assert [out[name].dtype for name in COLUMNS] == [frame[name].dtype for name in COLUMNS]
    np.testing.assert_array_equal(out["children"].to_numpy(), draws[:, 1])


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_frames_are_taken_by_flows_and_in_batches(library):
    frame = library.DataFrame({"n": [1, 2, 3], "owner": [True, False, True]})
    flow = flows.maf(2, num_layers=1, context_size=2, rngs=nnx.Rngs(0))
    numbers = np.array([[1.0, 1.0], [2.0, 0.0], [3.0, 1.0]])
    np.testing.assert_array_equal(
        flow.condition(frame).log_prob(frame), flow.condition(numbers).log_prob(numbers)
    )
    result = flows.fit(
        flow, iter([(frame, frame)] * 4), key=jax.random.key(0), steps_per_epoch=2, max_epochs=2,
        progress=False,
    )  # fmt: skip
    assert len(result.losses) == 4


def test_types_are_kept_only_where_no_value_changes():
    frame = pd.DataFrame({"a": [1, 2], "b": [True, False]})
    out = flows.as_frame(np.array([[1.5, 1.0], [2.0, 0.2]]), like=frame)
    np.testing.assert_array_equal(out.to_numpy(), [[1.5, 1.0], [2.0, 0.2]])


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_columns_that_hold_no_numbers_are_named(library):
    frame = library.DataFrame({"a": [1.0, 2.0], "town": ["Ulm", "Bonn"]})
    with pytest.raises(TypeError, match="standardize_with column 'town' must hold"):
        flows.maf(2, standardize_with=frame, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="x column 'town' must hold"):
        flows.fit(flows.maf(2, rngs=nnx.Rngs(0)), frame, key=jax.random.key(0), progress=False)
    missing = library.DataFrame({"a": [1.0, None, 2.0]})
    with pytest.raises(ValueError, match="x has 1 non-finite values"):
        flows.fit(flows.maf(1, rngs=nnx.Rngs(0)), missing, key=jax.random.key(0), progress=False)


def test_what_is_no_frame_or_does_not_fit():
    with pytest.raises(TypeError, match="like must be a pandas or polars frame, got ndarray"):
        flows.as_frame(np.zeros((2, 2)), like=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"shape \[rows, 1\] for the columns of like, got shape"):
        flows.as_frame(np.zeros((2, 2)), like=pd.DataFrame({"a": [1.0]}))
    twice = pd.DataFrame(np.zeros((2, 2)), columns=["a", "a"])
    with pytest.raises(ValueError, match="columns of different names"):
        flows.as_frame(np.zeros((2, 2)), like=twice)


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_validation_of_other_columns_is_refused(library):
    x, other = library.DataFrame({"a": A, "b": A + 9}), library.DataFrame({"b": A + 9, "a": A})
    flow = flows.maf(2, num_layers=1, context_size=2, rngs=nnx.Rngs(0))
    options = {"key": jax.random.key(0), "max_epochs": 1, "progress": False}
    with pytest.raises(ValueError, match=r"validation x has the columns \['b', 'a'\] and x has"):
        flows.fit(flow, x, context=x, validation=(other, x), **options)
    with pytest.raises(ValueError, match=r"validation context has the columns \['b', 'a'\] and"):
        flows.fit(flow, x, context=x, validation=(x, other), **options)
    flows.fit(flow, x, context=x, validation=(x, other.to_numpy()), **options)  # says nothing

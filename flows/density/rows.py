"""The rows to fit: checked, split into a training and a held-out part, in memory or not."""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flows import _checks
from flows._columns import steps_between_values
from flows.density.bounds import require_room, warn_of_bounds
from flows.density.repeats import jitter_of, noise_widths, warn_of_copies
from flows.distributions import Flow
from flows.supports import require_inside
from flows.training import NOTHING, Batches, Begun, OnDisk, shuffled

DEFAULT_BATCH_SIZE = 256
DEFAULT_STEPS_PER_EPOCH = 100  # of an iterable without a length
HELD_OUT_SHARE = 0.1
HELD_OUT_LIMIT = 100_000  # rows held out of data larger than memory, at most


class Rows(NamedTuple):
    """What `fit` trains on.

    Attributes:
        training: (x, context or None, weights or None), as `flows.training.train` takes them.
        held_out: The same for validation, in memory; or None.
        noise: Widths of the uniform noise to add to x [D], or None.
        jitter: Standard deviations of the normal noise to add [D], or None.
        batch_size: Rows in a batch.
        steps_per_epoch: Batches in an epoch.
    """

    training: Any
    held_out: Any
    noise: jax.Array | None
    jitter: jax.Array | None
    batch_size: int
    steps_per_epoch: int


def prepare(
    flow: Flow, x: Any, context: Any, weights: Any, validation: Any, dequantize: Any,
    jitter: float | None, batch_size: int | None, steps_per_epoch: int | None, key: jax.Array,
) -> Rows:  # fmt: skip
    """Checks the arguments of `fit` that concern data, and splits the rows."""
    if batch_size is not None:
        _checks.positive_int("batch_size", batch_size)
    if steps_per_epoch is not None:
        _checks.positive_int("steps_per_epoch", steps_per_epoch)
    if dequantize is False:
        dequantize = None
    if isinstance(validation, str) and validation == "auto":
        validation = None if is_iterable_of_batches(x) else HELD_OUT_SHARE
    if is_iterable_of_batches(x):
        return _of_iterable(
            flow, x, context, weights, validation, dequantize, jitter, batch_size, steps_per_epoch
        )
    if steps_per_epoch is not None:
        raise ValueError("steps_per_epoch is for iterables of batches, but x is an array.")
    noisy = dequantize is not None or flow.is_discrete
    read = on_disk if isinstance(x, np.memmap) else in_memory
    data = read(flow, x, context, weights, integers=noisy)
    require_inside("x", _checks.array("x", x), flow.support)
    steps = steps_between_values(data[0])
    noise = noise_widths(dequantize, steps, flow.support)
    require_room(data[0], flow.support, noise)
    warn_of_bounds(data[0], flow.support, steps if noise is None else np.maximum(steps, noise))
    continuous = steps == 0 if noise is None else (steps == 0) & (np.asarray(noise) == 0)
    given = _given_validation(flow, validation, noisy, x, context)
    training, held_out = split(data, given, None if given else validation, key)
    if read is in_memory and held_out is not given and continuous.any():
        warn_of_copies(*data[:2])
    num_rows = training.num_rows if isinstance(training, OnDisk) else len(training[0])
    if batch_size is None:
        batch_size = min(DEFAULT_BATCH_SIZE, num_rows)
    if batch_size > num_rows:
        raise ValueError(f"batch_size is {batch_size}, more than the {num_rows} training rows.")
    scale = jitter_of(jitter, data[0], flow.support, data[2])
    return Rows(training, held_out, noise, scale, batch_size, num_rows // batch_size)


def _given_validation(
    flow: Flow, validation: Any, integers: bool, of_x: Any = None, of_context: Any = None
) -> Any:
    """The held-out rows if `validation` is arrays; None if it is a fraction or None."""
    first = validation[0] if isinstance(validation, tuple) else validation
    if validation is None or not np.ndim(first):
        return None
    x, context = _checks.pair("validation", validation)
    _checks.same_columns("validation x", x, "x", of_x)
    _checks.same_columns("validation context", context, "context", of_context)
    rows = in_memory(flow, x, context, prefix="validation ", integers=integers)
    require_inside("validation x", _checks.array("validation x", x), flow.support)
    return rows


def is_iterable_of_batches(x: Any) -> bool:
    """Whether x is no array nor list, but can be iterated over."""
    return isinstance(x, Iterable) and not (isinstance(x, list | tuple) or hasattr(x, "__array__"))


def in_memory(
    flow: Flow, x: Any, context: Any, weights: Any = None, *, prefix: str = "", integers: bool
):  # fmt: skip
    """Checks and returns arrays (x, context or None, weights or None)."""
    x = _checks.table(f"{prefix}x", x, flow.event_size, integers=integers, constants=bool(prefix))
    _checks.context_wanted(f"{prefix}context", context is not None, flow.context_size)
    if context is not None:
        context = _checks.table(f"{prefix}context", context, flow.context_size, integers=True)
        _checks.same_length(f"{prefix}context", context, f"{prefix}x", x)
    weights = _checked_weights(weights, x)
    return x, context, None if weights is None else jnp.asarray(weights, x.dtype)


def on_disk(flow: Flow, x: np.memmap, context: Any, weights: Any, *, integers: bool):
    """As `in_memory`, reading a block at a time and leaving x, and perhaps context, on disk."""
    _checks.inspect_table("x", x, flow.event_size, integers=integers, constants=False)
    _checks.context_wanted("context", context is not None, flow.context_size)
    if context is not None:
        if isinstance(context, np.memmap):
            _checks.inspect_table("context", context, flow.context_size, integers=True)
        else:
            context = np.asarray(
                _checks.table("context", context, flow.context_size, integers=True)
            )
        _checks.same_length("context", context, "x", x)
    return x, context, _checked_weights(weights, x)


def _checked_weights(weights: Any, x: Any) -> np.ndarray | None:
    if weights is None:
        return None
    _checks.numbers("weights", np.asarray(weights))
    weights = np.asarray(weights, dtype=float)
    if weights.ndim != 1:
        raise ValueError(f"weights must have shape [rows], got shape {weights.shape}.")
    _checks.same_length("weights", weights, "x", x)
    _checks.finite("weights", weights)
    if (weights < 0).any() or not weights.sum() > 0:
        raise ValueError(
            f"weights must not be negative and not all zero, got {(weights < 0).sum()} "
            f"negative values and a sum of {weights.sum():g}."
        )
    return weights


def _of_iterable(
    flow: Flow, x: Iterable, context: Any, weights: Any, validation: Any, dequantize: Any,
    jitter: float | None, batch_size: int | None, steps_per_epoch: int | None,
) -> Rows:  # fmt: skip
    for name, value in [("context", context), ("weights", weights)]:
        if value is not None:
            raise ValueError(
                f"{name} must come in the batches, as (x, context, weights), where x is an "
                "iterable of batches."
            )
    noisy = dequantize is not None or flow.is_discrete
    held_out = _given_validation(flow, validation, noisy)
    if held_out is None and validation is not None:
        raise ValueError(
            "validation must be arrays or None where x is an iterable of batches, of which no "
            f"fraction can be held out, got {validation!r}."
        )
    if dequantize is True:
        raise ValueError("dequantize must be widths, not True, where x is an iterable of batches.")
    if steps_per_epoch is None:
        try:
            steps_per_epoch = len(x)  # type: ignore[arg-type]
        except TypeError:
            steps_per_epoch = DEFAULT_STEPS_PER_EPOCH
    stream = Begun(x)
    if stream.first is NOTHING:
        raise ValueError("x is an iterable of batches, but gives none.")
    first = _checked_batch(flow, stream.first)
    for name, array in zip(("x", "context"), first, strict=False):
        if array is not None:
            _checks.warn_of_lost_digits(f"{name} in the first batch,", array)
    size = len(first[0])
    if batch_size not in (None, size):
        raise ValueError(f"batch_size is {batch_size}, but x gives batches of {size} rows.")

    def convert(batch: Any) -> Any:
        batch = _checked_batch(flow, batch)
        if len(batch[0]) != size:
            raise ValueError(
                f"x gives a batch of {len(batch[0])} rows after batches of {size}: all must be "
                "equal; drop the remainder."
            )
        return jax.tree.map(lambda array: array.astype(jnp.result_type(float)), batch)

    noise = noise_widths(dequantize, steps_between_values(first[0]), flow.support)
    require_room(first[0], flow.support, noise)
    batches = Batches(stream, steps_per_epoch, convert)
    scale = jitter_of(jitter, first[0], flow.support, first[2])
    return Rows(batches, held_out, noise, scale, size, steps_per_epoch)


def _checked_batch(
    flow: Flow, batch: Any
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """A batch x, (x, context) or (x, context, weights) of an iterable; NaN may pass."""
    parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    if isinstance(batch, dict) or len(parts) > 3:
        raise TypeError(
            "x must give batches that are an array x, (x, context) or (x, context, weights), got "
            f"{type(batch).__name__} of {len(batch)}."
        )
    x, context, weights = (*parts, None, None)[:3]
    _checks.context_wanted("the context in x's batches", context is not None, flow.context_size)
    x = _checks.array("x in a batch", x)
    _checks.numbers("x in a batch", x)
    if x.ndim != 2 or x.shape[1] != flow.event_size or not len(x):
        raise ValueError(
            f"x must give batches of shape [rows, {flow.event_size}], got shape {x.shape}."
        )
    if context is not None:
        context = _checks.array("context in a batch", context)
        _checks.numbers("context in a batch", context)
        if context.shape != (len(x), flow.context_size):
            raise ValueError(
                f"x must give contexts of shape [rows, {flow.context_size}] with {len(x)} rows, "
                f"got shape {context.shape}."
            )
    if weights is not None:
        weights = np.asarray(weights)
        _checks.numbers("weights in a batch", weights)
        if weights.shape != (len(x),) or not (weights >= 0).all():
            raise ValueError(
                f"x must give weights of shape [{len(x)}] that are not negative, got shape "
                f"{weights.shape} and a least weight of {weights.min():g}."
            )
    require_inside("x in a batch", x, flow.support)
    return x, context, weights


def split(data: Any, held_out: Any, validation: Any, key: jax.Array) -> tuple[Any, Any]:
    """The rows to train on, and the held-out rows or None; weights have mean one in both.

    Args:
        data: (x, context or None, weights or None), in memory or on disk.
        held_out: Held-out rows that the user gave, or None.
        validation: Otherwise the fraction to hold out, or None.
        key: Random key.
    """
    x, context, weights = data
    on_disk = isinstance(x, np.memmap)
    hold_out = held_out is None and validation is not None
    num_held_out = _num_held_out(len(x), validation, on_disk) if hold_out else 0
    rows = np.asarray(shuffled(key, len(x), np.arange(num_held_out)))
    if hold_out:
        held_out = jax.device_put(OnDisk(data, len(x)).read(rows))
        held_out = (*held_out[:2], _with_mean_one(held_out[2], "held-out"))
    if on_disk:
        if weights is not None:
            weights = weights / _mean(np.delete(weights, rows), "training")
        order = lambda positions: shuffled(key, len(x), positions + num_held_out)
        return OnDisk((x, context, weights), len(x) - num_held_out, order), held_out
    x, context, weights = _all_but(num_held_out, data, key)
    return (x, context, _with_mean_one(weights, "training")), held_out


@functools.partial(jax.jit, static_argnums=0)
def _all_but(num_held_out: int, data: Any, key: jax.Array) -> Any:
    """The rows of arrays in memory that are not held out, in the order of `key`."""
    num_rows = len(data[0])
    rows = shuffled(key, num_rows, jnp.arange(num_held_out, num_rows))
    return jax.tree.map(lambda array: array[rows], data)


def _num_held_out(num_rows: int, fraction: float, on_disk: bool) -> int:
    if isinstance(fraction, str) or not 0 < fraction < 1:
        raise ValueError(f"validation as a fraction must lie between 0 and 1, got {fraction!r}.")
    number = max(1, round(fraction * num_rows))
    if number >= num_rows:
        raise ValueError(
            f"x has {num_rows} rows, too few to hold out a fraction of {fraction}: "
            "pass validation=None or more rows."
        )
    return min(number, HELD_OUT_LIMIT) if on_disk else number


def _with_mean_one(weights: jax.Array | None, part: str) -> jax.Array | None:
    """Scales weights, so that a plain mean over rows is the weighted mean."""
    return None if weights is None else weights / _mean(weights, part)


def _mean(weights: Any, part: str) -> Any:
    if not weights.sum() > 0:
        raise ValueError(
            f"weights are all zero in the {len(weights)} rows of the {part} part: pass more rows "
            "of positive weight, or validation=None."
        )
    return weights.mean()

"""What a student learns from, and is scored on: draws of the teacher, and held-out points."""

import warnings
from typing import Any

import distrax
import jax
import jax.numpy as jnp

from flows import _checks, supports

POOL_SIZE = 50_000  # teacher draws to learn from
MAX_HELD_OUT = 10_000


def check_teacher(teacher: Any) -> tuple[int, int | None]:
    """Returns the teacher's event size and context size."""
    if not isinstance(teacher, distrax.Distribution):
        raise TypeError(f"teacher must be a distrax distribution, got {type(teacher).__name__}.")
    if len(teacher.event_shape) != 1:
        raise ValueError(f"teacher must have vector events, got shape {teacher.event_shape}.")
    if teacher.batch_shape:
        raise ValueError(
            f"teacher must have no batch shape, got {teacher.batch_shape}; distil the conditional "
            "flow itself, before .condition(context)."
        )
    return teacher.event_shape[0], getattr(teacher, "context_size", None)


def held_out_points(teacher: Any, data: Any, key: jax.Array):
    """Returns (points to score on, contexts to train on, contexts of the points), or Nones."""
    event_size, context_size = check_teacher(teacher)
    x, context = _checks.pair("data", data)
    _checks.context_wanted("data[1], the context,", context is not None, context_size)
    if x is None:
        return None, None, None
    table = _checks.array("data", x)
    x = _checks.table("data", table, event_size, integers=getattr(teacher, "is_discrete", False))
    supports.require_inside("data", table, getattr(teacher, "support", None))
    order = jax.random.permutation(key, len(x))
    if context is None:
        return x[order[:MAX_HELD_OUT]], None, None
    context = _checks.table("data[1]", context, context_size, integers=True)
    _checks.same_length("data[1]", context, "data[0]", x)
    if len(x) < 20:
        raise ValueError(
            f"data must have at least 20 rows, a tenth of which is scored, got {len(x)}."
        )
    num_scored = min(MAX_HELD_OUT, len(x) // 10)
    scored, trained = order[:num_scored], order[num_scored:]
    return x[scored], context[trained], context[scored]


def teacher_draws(teacher: Any, contexts: jax.Array | None, key: jax.Array, num_needed: int = 1):
    """A pool of draws as a batch (x, context or None, no weights); non-finite rows are dropped."""
    if contexts is None:
        x = _sample(teacher, key, (POOL_SIZE,))
    else:
        rows = jax.random.randint(key, (POOL_SIZE,), 0, len(contexts))
        contexts = contexts[rows]
        x = _sample(teacher.condition(contexts), key, ())
    finite = jnp.isfinite(x).all(axis=-1)
    if finite.sum() < num_needed:
        raise ValueError(
            f"teacher gives non-finite draws: only {int(finite.sum())} of {POOL_SIZE} are finite."
        )
    if not finite.all():
        warnings.warn(
            f"{int((~finite).sum())} of {POOL_SIZE} draws from the teacher are not finite and "
            "were dropped.",
            stacklevel=3,
        )
    return x[finite], None if contexts is None else contexts[finite], None


_sample = jax.jit(
    lambda dist, key, shape: dist.sample(seed=key, sample_shape=shape), static_argnums=2
)

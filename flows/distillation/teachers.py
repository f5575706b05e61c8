"""What a student learns from, and is scored on: draws of the teacher, and held-out points."""

import dataclasses
import functools
import warnings
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from tensorflow_probability.substrates.jax import distributions as tfd

from flows import _checks, supports
from flows.distillation.measures import log_prob
from flows.distributions import Flow
from flows.divergences.supports import ends, space

POOL_SIZE = 50_000  # teacher draws to learn from
MAX_HELD_OUT = 10_000
MIN_ROWS = 20
NUM_PROBED = 64  # draws that are moved beyond all others, column by column

Batch = tuple[jax.Array, jax.Array | None, None]
"""Draws [n, D], their contexts [n, C] if there are any, and no weights."""


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["distribution"], meta_fields=["columns"]
)
@dataclasses.dataclass(frozen=True)
class Unbounded:
    """A distribution over bounded columns, on the real line that these are the image of."""

    distribution: Any
    columns: supports.Columns

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.distribution.event_shape)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.distribution.batch_shape)

    @property
    def name(self) -> str:
        return self.distribution.name

    def log_prob(self, u: jax.Array) -> jax.Array:
        x, log_det = supports.from_real(self.columns, u)
        return self.distribution.log_prob(x) + log_det

    def sample(self, *, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        x = self.distribution.sample(seed=seed, sample_shape=sample_shape)
        return supports.to_real(self.columns, x)[0]

    def sample_and_log_prob(
        self, *, seed: jax.Array, sample_shape: tuple[int, ...] = ()
    ) -> tuple[jax.Array, jax.Array]:
        u = self.sample(seed=seed, sample_shape=sample_shape)
        return u, self.log_prob(u)


def is_distribution(teacher: Any) -> bool:
    """Whether it is a distribution of distrax or TFP."""
    return isinstance(teacher, distrax.Distribution | tfd.Distribution)


def abilities(teacher: Any) -> tuple[bool, bool]:
    """Whether a teacher has draws, and whether it has a density.

    Raises:
        TypeError: It is no teacher.
        ValueError: It has neither.
    """
    if not is_distribution(teacher):
        draws = isinstance(teacher, tuple | np.ndarray | jax.Array) or _checks.is_frame(teacher)
        if not draws and not callable(teacher):
            raise TypeError(
                "teacher must be a distrax or TFP distribution, draws of one, or a log density, "
                f"got {type(teacher).__name__}."
            )
        return draws, not draws
    if getattr(teacher, "context_size", None) is not None:
        return True, True  # a conditional flow has both, once it is bound
    point = jax.ShapeDtypeStruct(tuple(teacher.event_shape), jnp.result_type(float))

    def works(function: Any, argument: Any) -> bool:
        try:
            jax.eval_shape(function, argument)
        except NotImplementedError:
            return False
        return True

    has_draws = works(lambda key: teacher.sample(seed=key), jax.random.key(0))
    has_density = works(teacher.log_prob, point)
    if not (has_draws or has_density):
        raise ValueError(f"teacher must have draws or a density, and {teacher.name} has neither.")
    return has_draws, has_density


def rows_of(teacher: Any, key: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Draws x [N, D] and their contexts: those given, or draws of a distribution."""
    if is_distribution(teacher):
        check_teacher(teacher)
        return teacher_draws(teacher, None, key)[:2]
    x, context = _checks.pair("teacher", teacher)
    x = _checks.table("teacher", x)
    if len(x) < MIN_ROWS:
        raise ValueError(
            f"teacher must have at least {MIN_ROWS} draws, a tenth of which is held out, got "
            f"{len(x)}."
        )
    if context is None:
        return x, None
    context = _checks.table("teacher[1]", context, integers=True)
    _checks.same_length("teacher[1]", context, "teacher[0]", x)
    return x, context


def check_teacher(teacher: Any) -> tuple[int, int | None]:
    """Returns the teacher's event size and context size."""
    if len(teacher.event_shape) != 1:
        raise ValueError(
            f"teacher must have vector events, got shape {tuple(teacher.event_shape)}."
        )
    if tuple(teacher.batch_shape):
        raise ValueError(
            f"teacher must have no batch shape, got {tuple(teacher.batch_shape)}; distil the "
            "conditional flow itself, before .condition(context)."
        )
    return teacher.event_shape[0], getattr(teacher, "context_size", None)


def columns_of(teacher: Any, student: Any = None) -> supports.Columns | None:
    """The supports of a teacher's columns, where it is no flow those of its student if that is one.

    Returns:
        None where all are real.

    Raises:
        ValueError: They are no intervals, one for each column, but integers or a simplex.
    """
    if hasattr(teacher, "unconstrained"):
        return teacher.support
    theirs = student.support if isinstance(student, Flow) else None
    if theirs is not None and not supports.of_kind(theirs, "circle").any():
        draws = teacher_draws(teacher, None, jax.random.key(0))[0]
        supports.require_inside("the draws of teacher", draws, theirs)
        return theirs
    if not isinstance(space(teacher), str) or space(teacher) != "numbers":
        if "integers" in str(space(teacher)):
            raise ValueError(
                f"teacher must be over real numbers, and {teacher.name} is over integers: fit a "
                "flow with support=flows.supports.integers() to its draws."
            )
        return None
    low, high = ends(teacher)
    return supports.of_columns(
        [supports.interval(*pair) for pair in zip(low, high, strict=True)], len(low)
    )


def on_real_line(teacher: Any, columns: supports.Columns | None) -> Any:
    """The teacher on the real line that its support is the image of."""
    if hasattr(teacher, "unconstrained"):
        return teacher.unconstrained()
    return teacher if columns is None else Unbounded(teacher, columns)


def check_draws(source: Any, x: jax.Array) -> None:
    """Raises where draws [n, D] show what the family of a teacher, no flow, does not say.

    Raises:
        ValueError: A column has whole numbers alone, or the density ends not far beyond the draws.
    """
    if hasattr(source, "condition"):
        return
    whole = np.asarray((x == jnp.round(x)).all(axis=0))
    if whole.any():
        raise ValueError(
            f"teacher must be over real numbers, and all draws of {source.name} are whole numbers "
            f"in column {whole.argmax()}: fit a flow with support=flows.supports.integers()."
        )
    low, high = x.min(axis=0), x.max(axis=0)
    reach = (high - low) / 2
    beyond = jnp.stack([low - reach, high + reach])  # [2, D]
    rows = jnp.broadcast_to(x[:NUM_PROBED], (2, x.shape[1], *x[:NUM_PROBED].shape))
    i = np.arange(x.shape[1])
    rows = rows.at[:, i, :, i].set(beyond.T[..., None])
    dense = np.asarray(jnp.isfinite(log_prob(source, rows)).any(axis=-1))
    columns = getattr(source, "columns", None)  # whose ends are known need not be looked for
    known = columns is not None and ~supports.unbounded(columns)
    ended = ~(dense | known).all(axis=0)
    if ended.any():
        column = int(ended.argmax())
        raise ValueError(
            f"teacher must be over all real numbers or say its bounds, and {source.name} has no "
            f"density beyond {float(low[column]):.4g} or {float(high[column]):.4g} in column "
            f"{column}: give a student with support=, such as flows.supports.interval(a, b)."
        )


def on_support(columns: supports.Columns | None, u: jax.Array) -> jax.Array:
    """Points of the real line where their columns lie, integers rounded."""
    if columns is None:
        return u
    x, _ = supports.from_real(columns, u)
    return supports.rounded(columns, x)


class Rows(NamedTuple):
    """Points [n, D] and their contexts [n, C], if there are any."""

    x: jax.Array
    context: jax.Array | None


def held_out_points(
    teacher: Any, columns: supports.Columns | None, data: Any, key: jax.Array, share: bool
) -> tuple[Rows | None, Rows | None]:
    """The points to score on, at most 10,000, and the others, whose contexts are trained on.

    Both are None where there are no data.

    Args:
        teacher: The teacher.
        columns: The supports of its columns.
        data: What the user gave.
        key: Random key.
        share: Whether to leave nine tenths to the others, as where there are contexts.
    """
    event_size, context_size = check_teacher(teacher)
    x, context = _checks.pair("data", data)
    _checks.context_wanted("data[1], the context,", context is not None, context_size)
    if x is None:
        return None, None
    table = _checks.array("data", x)
    x = _checks.table("data", table, event_size, integers=getattr(teacher, "is_discrete", False))
    supports.require_inside("data", table, columns)
    order = jax.random.permutation(key, len(x))
    share = share or context is not None
    if context is not None:
        context = _checks.table("data[1]", context, context_size, integers=True)
        _checks.same_length("data[1]", context, "data[0]", x)
    if share and len(x) < MIN_ROWS:
        raise ValueError(
            f"data must have at least {MIN_ROWS} rows, a tenth of which is scored, got {len(x)}."
        )
    num_scored = min(MAX_HELD_OUT, len(x) // 10 if share else len(x))
    rows = lambda i: Rows(x[i], None if context is None else context[i])
    return rows(order[:num_scored]), rows(order[num_scored:])


def teacher_draws(
    teacher: Any, contexts: jax.Array | None, key: jax.Array, least: int = 1
) -> Batch:
    """Draws, of which those that are not finite are dropped."""
    if contexts is None:
        x = _sample(teacher, key, (POOL_SIZE,))
    else:
        rows = jax.random.randint(key, (POOL_SIZE,), 0, len(contexts))
        contexts = contexts[rows]
        x = _sample(teacher.condition(contexts), key, ())
    finite = jnp.isfinite(x).all(axis=-1)
    if finite.sum() < least:
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

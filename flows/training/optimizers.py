"""The default optimizer: Adam with warm-up, cosine decay and clipping that adapts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flows import _checks

WINDOW = 64  # gradient norms to take the median of
CLIP, IGNORE = 5.0, 50.0  # multiples of the median: sharp densities have heavy-tailed gradients


class _Norms(NamedTuple):
    norms: jax.Array  # the last ones, NaN where there is none yet
    step: jax.Array


def clip_by_running_median() -> optax.GradientTransformation:
    """Clips gradients to five times their running median norm, and drops those over fifty times.

    Unlike a fixed limit it fits losses of any scale, and an outlier cannot undo what was learnt.
    Source: the dynamic clipping of Midgley et al. 2023, arXiv:2208.01893.
    """

    def init(params: Any) -> _Norms:
        del params
        return _Norms(jnp.full(WINDOW, jnp.nan), jnp.zeros((), jnp.int32))

    def update(updates: Any, state: _Norms, params: Any = None) -> tuple[Any, _Norms]:
        del params
        norm = optax.tree.norm(updates)
        norms = state.norms.at[state.step % WINDOW].set(jnp.where(norm > 0, norm, jnp.nan))
        median = jnp.nanmedian(norms)  # NaN while all have been zero: then there is nothing to clip
        scale = jnp.minimum(1.0, CLIP * median / jnp.where(norm > 0, norm, 1.0))
        scale = jnp.where(norm > IGNORE * median, 0.0, jnp.where(norm > 0, scale, 1.0))
        updates = jax.tree.map(lambda g: (scale * g).astype(g.dtype), updates)
        return updates, _Norms(norms, state.step + 1)

    return optax.GradientTransformation(init, update)


class _Schedule(NamedTuple):
    step: jax.Array
    num_steps: jax.Array
    peak: jax.Array


def _scale_by_warmup_cosine(num_steps: int, peak: float) -> optax.GradientTransformation:
    """Rises linearly to `peak` and falls to 0 as half a cosine.

    The numbers are kept in the state, so that another of them does not compile again.
    """

    def init(params: Any) -> _Schedule:
        del params
        return _Schedule(jnp.zeros((), jnp.int32), jnp.asarray(num_steps), jnp.asarray(peak))

    def update(updates: Any, state: _Schedule, params: Any = None) -> tuple[Any, _Schedule]:
        del params
        warmup = jnp.minimum(100, state.num_steps // 10)
        rising = state.step / jnp.maximum(warmup, 1)
        done = (state.step - warmup) / jnp.maximum(state.num_steps - warmup, 1)
        falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
        rate = state.peak * jnp.where(state.step < warmup, rising, falling)
        updates = jax.tree.map(lambda g: (-rate * g).astype(g.dtype), updates)
        return updates, state._replace(step=state.step + 1)

    return optax.GradientTransformation(init, update)


def with_num_steps(opt_state: Any, before: int, after: int) -> Any:
    """The state with schedules of `adam` that span `before` steps, if any, spanning `after`."""
    is_schedule = lambda part: isinstance(part, _Schedule)

    def replaced(part: Any) -> Any:
        spans = is_schedule(part) and int(part.num_steps) == before
        return part._replace(num_steps=jnp.asarray(after)) if spans else part

    return jax.tree.map(replaced, opt_state, is_leaf=is_schedule)


def adam(num_steps: int, learning_rate: float) -> optax.GradientTransformation:
    """Adam with a warm-up of at most 100 steps, cosine decay to zero, and adaptive clipping.

    Args:
        num_steps: Number of steps the schedule spans.
        learning_rate: Peak learning rate.

    Raises:
        TypeError: `num_steps` is no whole number.
        ValueError: An argument is not positive.
    """
    _checks.positive_int("num_steps", num_steps)
    _checks.positive("learning_rate", learning_rate)
    return optax.chain(
        clip_by_running_median(),
        optax.scale_by_adam(),
        _scale_by_warmup_cosine(num_steps, learning_rate),
    )


def adam_unless_given(
    optimizer: optax.GradientTransformation | None,
    learning_rate: float | None,
    num_steps: int,
    default: float,
) -> optax.GradientTransformation:
    """The optimizer of a user, or `adam` with the learning rate of the user, or the default one.

    Raises:
        ValueError: Both are given, or the learning rate is not positive.
    """
    if learning_rate is None:
        return optimizer or adam(num_steps, default)
    if optimizer is not None:
        raise ValueError(
            f"learning_rate is that of the default optimizer, got {learning_rate!r} and an "
            "optimizer: set the rate there."
        )
    return adam(num_steps, learning_rate)

"""The stages of a distillation: a warm start, more passes where they are needed, a polish."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import optax

from flows.distillation.measures import apart
from flows.distillation.objectives import POLISH, layer_matching, likelihood
from flows.distillation.students import DEFAULT_PASSES, with_passes
from flows.distillation.teachers import Batch
from flows.distributions import Flow
from flows.training import NonFiniteError, TrainingResult, adam_unless_given

LAYERWISE_RATE, DRAWS_RATE, POLISH_RATE = 1e-2, 3e-3, 5e-4
CLOSE = 0.03  # nats of both divergences after the warm start, below which there is no polish,
SAFE = 25.0  # and nats of the worst draw: beyond either, a student of passes gets one more,
MOST_PASSES = 4  # up to these

Stage = Callable[..., TrainingResult]
"""`flows.training.train`, with what all stages share."""
MakeOptimizer = Callable[[int, float], optax.GradientTransformation]
"""Makes the optimizer of so many steps from a default peak of the learning rate."""


def optimizers(
    optimizer: optax.GradientTransformation | None, learning_rate: float | None, layered: bool
) -> MakeOptimizer:
    """That of the user, or `adam`; a learning rate of the user is that of the warm start."""
    first = LAYERWISE_RATE if layered else DRAWS_RATE

    def make(num_steps: int, rate: float) -> optax.GradientTransformation:
        peak = None if learning_rate is None else learning_rate * (rate / first)
        return adam_unless_given(optimizer, peak, num_steps, rate)

    return make


def warm_start(
    source: Any,
    student: Flow,
    pool: Batch,
    stage: Stage,
    optimizer: MakeOptimizer,
    *,
    layered: bool,
    num_steps: int,
    **options: Any,
) -> TrainingResult:
    """Learns the teacher layer by layer, or else its draws."""
    objective, rate = (layer_matching, LAYERWISE_RATE) if layered else (likelihood, DRAWS_RATE)
    return stage(
        student,
        functools.partial(objective, source),
        pool,
        optimizer=optimizer(num_steps, rate),
        num_steps=num_steps,
        description="warm start",
        **options,
    )


def with_passes_as_needed(
    source: Any, student: Flow, teacher: Flow | None, context: jax.Array | None, key: jax.Array
) -> tuple[Flow, bool]:
    """The student, with more passes where it is not close or safe, and whether it is close then.

    Args:
        source: The teacher on the real line.
        student: The student of the warm start.
        teacher: What it is an `iaf_like` of; None for a student that is to stay as it is.
        context: Contexts of the draws they are compared at.
        key: Random key.
    """
    off, worst = apart(source, student, context, key)
    if teacher is not None:
        for num_passes in range(DEFAULT_PASSES + 1, min(MOST_PASSES, teacher.event_size) + 1):
            if off <= CLOSE and worst <= SAFE:
                break
            student = with_passes(student, teacher, num_passes)
            off, worst = apart(source, student, context, key)
    return student, off <= CLOSE


def polish(
    source: Any,
    student: Flow,
    pool: Batch,
    fresh: Batch,
    stage: Stage,
    optimizer: MakeOptimizer,
    *,
    objective: str,
    num_steps: int,
    **options: Any,
) -> TrainingResult | None:
    """Minimises a divergence; the likeliest student on fresh draws is kept. None if it diverged."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No epoch was better on validation than the start")
        try:
            return stage(
                student,
                functools.partial(POLISH[objective], source),
                pool,
                validation=fresh,
                metric=functools.partial(likelihood, source),
                optimizer=optimizer(num_steps, POLISH_RATE),
                num_steps=num_steps,
                description="polish",
                **options,
            )
        except NonFiniteError as error:
            problem = str(error)
    warnings.warn(f"The student is that of the warm start: {problem}", stacklevel=3)
    return None

"""Distilling a teacher into a student: warm start, polish, report."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from flows import _checks, supports
from flows.architectures import iaf, on_circle
from flows.density import negative_log_likelihood
from flows.distillation.draws import (
    MAX_HELD_OUT,
    POOL_SIZE,
    check_teacher,
    held_out_points,
    teacher_draws,
)
from flows.distillation.layerwise import equal, has_iaf_twin, iaf_twin, matching_loss, same_layout
from flows.distillation.report import DistillReport, make_report
from flows.distributions import Flow, require_flow
from flows.divergences.supports import comparable, space
from flows.training import Outcome, TrainingState, adam_unless_given, train
from flows.training.run import finite_mean
from flows.variational.objectives import reverse_kl

LAYERWISE_RATE, DRAWS_RATE, POLISH_RATE = 1e-2, 3e-3, 5e-4
WARM_START_SHARE = 0.8  # of the steps; a step of the polish costs about ten times as much
MATCHED = 0.01  # nats of a warm start, below which the polish takes smaller steps,
SMALLEST_STEPS = 1 / 16  # down to these
NUM_VALIDATION = 2000  # draws that tell the best student of the polish


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillResult(Outcome):
    """A distilled student, and how it went: see also `flows.training.Outcome`.

    Attributes:
        student: The trained flow.
        report: KL both ways, held-out fit of both, and sampling speeds.
        losses: What was minimised at every step, of one stage after the other.
        history: {"warm_start": ..., "polish": ...}, that of the stages that ran.
    """

    student: Flow
    report: DistillReport


def distill(
    teacher: Any,
    student: Flow | None = None,
    *,
    data: Any = None,
    key: jax.Array,
    num_steps: int = 10_000,
    batch_size: int = 256,
    learning_rate: float | None = None,
    optimizer: optax.GradientTransformation | None = None,
    mesh: Mesh | None = None,
    checkpoint_dir: str | os.PathLike | None = None,
    callback: Callable[[TrainingState], Any] | None = None,
    progress: bool = True,
) -> DistillResult:
    r"""Teaches a flow that samples fast, by default an IAF, the density of a slow teacher.

    1. Warm start (80 % of the steps). The layers of an IAF student laid out like its MAF teacher
       learn, all at once, the conditionals of the teacher's layers (see
       `flows.distillation.layerwise`). A student of another layout, or a teacher that is no
       MAF, gets maximum likelihood on the teacher's draws instead.
    2. Polish (20 %). The sum of KL(student || teacher), by path gradients, and
       KL(teacher || student), on the teacher's draws. Reverse KL alone would drop modes
       (Huang et al. 2019, Probability Distillation: A Caveat and Alternatives, UAI). Its steps
       are the smaller the better the layers match; the best student on other draws is kept, be
       it that of the warm start.

    Args:
        teacher: A flow, or any distrax distribution over vectors that can be sampled.
        student: The flow to start from. By default the teacher's IAF twin: the same layers and
            orders, with residual networks twice as deep, because an IAF network has to compose
            what a MAF network reads off the data; or, for a teacher that is no MAF, an IAF of 8
            layers.
        data: Points [N, D] to score both on; never trained on. For a conditional teacher a pair
            (x, context), needed: nine tenths of the contexts are trained on, the rest scored.
            At most 10,000 points are scored.
        key: Random key.
        num_steps: Optimiser steps of both stages together.
        batch_size: Teacher draws in a batch, and student draws in a step of the polish.
        learning_rate: Peak of the default optimizer's learning rate in the warm start: by default
            1e-2 layer by layer, and 3e-3 on draws. The polish has a sixth of it, or a twentieth or
            less after layer by layer.
        optimizer: An optax optimizer, for each of the stages; by default Adam with warm-up, cosine
            decay to zero and adaptive gradient clipping.
        mesh: Devices to split batches over, by its axis "data"; an axis "model" splits large
            weights. Without one it takes ALL devices, if they can share the batch equally.
        checkpoint_dir: Where to save the run now and then. The same call, after the process was
            killed, goes on from there; with more steps, the warm start is lengthened, and the
            polish begun anew.
        callback: Called a few times a second with a `flows.training.TrainingState`, whose steps
            are those of the stage.
        progress: Whether to show bars, or in a log file a line now and then.

    Returns:
        A `DistillResult`; print its `.report`.

    Raises:
        TypeError: `teacher` is no distribution, or `student` no flow.
        ValueError: Sizes do not agree, a context is missing or unwanted, and so on.
        flows.training.NonFiniteError: Training diverged; `.module` is the last student.

    Cost: a step of the warm start is one parallel pass of teacher and student with its gradient.
    The draws to learn from are made once; each step of the polish samples the student and
    evaluates its density, for an IAF about three network passes a layer.

    Example:
        >>> import flows, jax
        >>> from flax import nnx
        >>> teacher = flows.maf(2, num_layers=2, hidden_sizes=(8, 8), rngs=nnx.Rngs(0))
        >>> result = flows.distill(teacher, key=jax.random.key(0), num_steps=50, progress=False)
        >>> bool(result.report.kl_teacher_student.value < 1.0)
        True
    """
    event_size, context_size = check_teacher(teacher)
    key = _checks.prng_key("key", key)
    if _checks.positive_int("num_steps", num_steps) < 2:
        raise ValueError("num_steps must be at least 2, one for each stage, got 1.")
    data_key, pool_key, network_key, warm_key, polish_key, report_key = jax.random.split(key, 6)
    held_out, contexts, held_out_contexts = held_out_points(teacher, data, data_key)
    if _checks.positive_int("batch_size", batch_size) > POOL_SIZE:
        raise ValueError(f"batch_size must be at most {POOL_SIZE}, got {batch_size}.")
    # Divergences are the same on the real line that supports are the image of.
    source = teacher.unconstrained() if isinstance(teacher, Flow) else teacher
    pool = teacher_draws(source, contexts, pool_key, batch_size)
    fresh = teacher_draws(source, contexts, jax.random.fold_in(pool_key, 2))
    rngs = nnx.Rngs(network_key)
    if student is None:
        student = _default_student(teacher, pool, event_size, context_size, rngs)
    require_flow("student", student)
    if (student.event_size, student.context_size) != (event_size, context_size):
        raise ValueError(
            f"student has event size {student.event_size} and context size "
            f"{student.context_size}; the teacher has {event_size} and {context_size}."
        )
    _check_support(teacher, student, pool)
    num_warm = max(1, min(num_steps - 1, round(WARM_START_SHARE * num_steps)))
    layered = (
        isinstance(teacher, Flow)
        and has_iaf_twin(teacher.bijector)
        and same_layout(teacher.bijector, student.bijector)
        and equal(teacher.base, student.base)
    )
    stage = functools.partial(
        train, batch_size=batch_size, mesh=mesh, callback=callback, progress=progress
    )
    rate = LAYERWISE_RATE if layered else DRAWS_RATE
    warm_optimizer = adam_unless_given(optimizer, learning_rate, num_warm, rate)
    polish_rate = None if learning_rate is None else POLISH_RATE * learning_rate / rate
    directory = lambda name: checkpoint_dir and os.path.join(checkpoint_dir, name)
    warm = stage(
        student,
        functools.partial(_layer_matching, source)
        if layered
        else functools.partial(_likelihood, source),
        pool,
        key=warm_key,
        optimizer=warm_optimizer,
        num_steps=num_warm,
        checkpoint_dir=directory("warm_start"),
        description="warm start",
    )
    runs = {"warm_start": warm}
    if warm.stop_reason == "finished":
        num_polish = num_steps - num_warm
        smaller = _matched(warm.losses) if layered else 1.0
        peak = None if polish_rate is None else smaller * polish_rate
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No epoch was better on validation than the start")
            runs["polish"] = stage(
                warm.module,
                functools.partial(_symmetric_kl, source),
                pool,
                validation=jax.tree.map(lambda a: a[:NUM_VALIDATION], fresh),
                metric=functools.partial(_likelihood, source),
                key=polish_key,
                optimizer=adam_unless_given(optimizer, peak, num_polish, smaller * POLISH_RATE),
                num_steps=num_polish,
                checkpoint_dir=directory(f"polish_after_{num_warm}"),
                description="polish",
            )
    final = list(runs.values())[-1]
    if held_out is None:
        held_out, _, _ = teacher_draws(teacher, None, jax.random.fold_in(pool_key, 1))
        held_out = held_out[:MAX_HELD_OUT]
    report = make_report(
        teacher,
        final.module,
        held_out,
        held_out_contexts,
        "teacher draws" if data is None else "data",
        report_key,
    )
    return DistillResult(
        student=final.module,
        report=report,
        losses=np.concatenate([run.losses for run in runs.values()]),
        history={name: run.losses for name, run in runs.items()},
        stop_reason=final.stop_reason,
        num_skipped=sum(run.num_skipped for run in runs.values()),
    )


def _matched(losses: np.ndarray) -> float:
    """How small the steps of the polish are, as a share of the usual ones.

    Where the layers match to 1e-3 nats, usual steps undo it (KL 0.005, after them 0.2).
    """
    left = finite_mean(losses[-100:]) / MATCHED  # steps that were skipped have no finite loss
    return float(np.fmin(np.fmax(left, SMALLEST_STEPS), 1.0))


def _layer_matching(teacher: Flow, student: Flow, batch: Any, key: jax.Array) -> jax.Array:
    """Objective of the warm start of an IAF twin."""
    x, context, _ = batch
    return matching_loss(teacher.bijector, student.bijector, x, context)[1]


def _likelihood(teacher: Any, student: Flow, batch: Any, key: jax.Array) -> jax.Array:
    """Objective of the warm start of any other student, and what finds the best one."""
    return negative_log_likelihood(_like(teacher, student), batch, key)


def _like(teacher: Any, student: Flow) -> Flow:
    """The student on the real line, as flows that teach are, and where other teachers are."""
    return student.unconstrained() if isinstance(teacher, Flow) else student


def _symmetric_kl(teacher: Any, student: Flow, batch: Any, key: jax.Array) -> jax.Array:
    """Objective of the polish: draws of both divergences, summed."""
    x, context, _ = batch
    student = _like(teacher, student)
    sample_shape = x.shape[:-1]
    if context is not None:
        teacher, student = teacher.condition(context), student.condition(context)
        sample_shape = ()
    reverse = reverse_kl(student, teacher.log_prob, key, sample_shape)
    return reverse + teacher.log_prob(x) - student.log_prob(x)


def _check_support(teacher: Any, student: Flow, pool: Any) -> None:
    of_flow = isinstance(teacher, Flow)
    same = student.support == teacher.support if of_flow else not student.is_discrete
    if not (same and comparable(teacher, student)):
        raise ValueError(
            "student must be over what the teacher is over: it needs the same support= and, for "
            "angles, the layers of flows.ncsf."
        )
    if not of_flow:
        supports.require_inside("the draws of teacher", pool[0], student.support)


def _default_student(
    teacher: Any, pool: Any, event_size: int, context_size: int | None, rngs: nnx.Rngs
) -> Flow:
    if isinstance(teacher, Flow) and has_iaf_twin(teacher.bijector):
        twin = iaf_twin(teacher.bijector, rngs)
        return Flow(nnx.clone(teacher.base), twin, teacher.support)
    x, context, _ = pool
    support = getattr(teacher, "support", None)
    architecture = iaf
    if "angles" in str(space(teacher)):
        around = _around(space(teacher), event_size)
        architecture = functools.partial(on_circle, iaf, support=around)
    student = architecture(
        event_size,
        num_layers=8,
        hidden_sizes=(64,) * 4,
        residual=True,
        context_size=context_size,
        standardize_with=x if context is None else (x, context),
        rngs=rngs,
    )
    return Flow(student.base, student.bijector, support)


def _around(spaces: Any, event_size: int) -> list[supports.Support]:
    """Circles in radians where a teacher has angles, on the real line."""
    spaces = (spaces,) * event_size if isinstance(spaces, str) else spaces
    return [supports.ANGLES if "angles" in each else supports.real for each in spaces]

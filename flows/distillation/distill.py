"""Distilling a teacher into a student: warm start, polish, report."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from flows import _checks, supports
from flows.distillation.baseline import fitted_without_teacher
from flows.distillation.compare import compare
from flows.distillation.layerwise import equal, is_layered
from flows.distillation.objectives import POLISH
from flows.distillation.one_sided import NUM_STEPS_ON_DRAWS, from_density, from_draws
from flows.distillation.result import DistillResult
from flows.distillation.stages import optimizers, polish, warm_start, with_passes_as_needed
from flows.distillation.students import fast_student, has_maf_layers, make_student, untaught
from flows.distillation.teachers import (
    MAX_HELD_OUT,
    POOL_SIZE,
    Rows,
    abilities,
    check_draws,
    check_teacher,
    columns_of,
    held_out_points,
    on_real_line,
    on_support,
    teacher_draws,
)
from flows.distributions import Flow, require_flow
from flows.divergences.supports import comparable
from flows.training import TrainingState, attaching, train

NUM_STEPS = 5_000  # layer by layer
WARM_START_SHARE = 0.8  # of the steps; a step of the polish costs about ten times as much
NUM_VALIDATION = 2000  # draws that tell the best student of the polish


def distill(
    teacher: Any,
    student: Flow | str | None = "iaf",
    *,
    data: Any = None,
    speedup: float | None = None,
    objective: str | None = None,
    baseline: bool = False,
    key: jax.Array,
    num_steps: int | None = None,
    batch_size: int = 256,
    learning_rate: float | None = None,
    optimizer: optax.GradientTransformation | None = None,
    mesh: Mesh | None = None,
    checkpoint_dir: str | os.PathLike | None = None,
    callback: Callable[[TrainingState], Any] | None = None,
    progress: bool = True,
) -> DistillResult:
    r"""Teaches a flow that samples in one parallel pass, by default an IAF, a teacher's density.

    1. Warm start (80 % of the steps). The layers of a student laid out like its teacher learn,
       all at once, the conditionals of the teacher's layers (`flows.distillation.layerwise`). Any
       other student gets maximum likelihood on the teacher's draws instead.
       An `flows.iaf_like` that was made here gets a third and fourth pass if it is 0.03 nats from
       its teacher with two, or a draw 25.
    2. Polish (20 %), unless the two are within 0.03 nats of each other by then. The sum of
       KL(student || teacher), by path gradients, and KL(teacher || student), on the teacher's
       draws, or another `objective`. The student with the least KL(teacher || student) on other
       draws is kept, be it that of the warm start.

    Args:
        teacher: A flow, or any distrax or TFP distribution over vectors. One over bounded columns
            is learnt on the real line that these are mapped to. Or draws alone, [N, D] or a pair
            (draws, contexts), which `flows.fit` learns; or a log density alone, a distribution
            that cannot be sampled or a function of one point [D], which `flows.fit_posterior`
            learns, and which needs a `student` that is a flow if it is a function.
        student: "iaf": `flows.iaf_like` of a teacher with MAF layers; of any other an IAF of 8
            layers. "coupling": a `flows.nsf` of 8 layers. (Of a density alone, the flow that
            `fit_posterior` makes.) Or a flow to start from: one laid out like the teacher learns
            layer by layer, whether a smaller flow of the teacher's kind or an `flows.iaf_like`
            with other options.
        data: Points [N, D] to score both on; the student is never trained on them (of draws alone,
            the best epoch is chosen by them). For a conditional teacher a pair (x, context),
            needed: nine tenths of the contexts are trained on, the rest scored.
            At most 10,000 points are scored.
        speedup: How many times as fast as the teacher the student is to draw, 1,000 at once,
            measured before it is trained, on this machine. The first that is as fast is taken of
            the default one, with two passes, of one with one pass, and of networks of the noise
            alone, ever narrower: the faster, the further from its teacher. For student="iaf" of a
            teacher with MAF layers. (A run that is to be resumed better has the student itself,
            `flows.iaf_like`: the same is not sure to be taken again.)
        objective: What the polish minimises: "jeffreys", the default, both divergences; "path",
            KL(student || teacher) alone, which drops modes (Huang et al. 2019, Probability
            Distillation: A Caveat and Alternatives, UAI); "forward", KL(teacher || student) alone;
            "js", the Jensen-Shannon divergence.
        baseline: Also fits the student without its teacher, to compare with: by maximum likelihood,
            in as many steps (which take longer), on what of `data` is not scored, all but a tenth
            or but 10,000, or on the teacher's draws where there are no data. Of a student that
            keeps the teacher's own networks it is the IAF without, of the teacher's sizes, base
            and whitening. It is in the report, and counts for the verdict.
        key: Random key.
        num_steps: Optimiser steps of both stages together, at most: 5,000 by default layer by
            layer, and 10,000 on draws.
        batch_size: Teacher draws in a batch, and student draws in a step of the polish.
        learning_rate: Peak of the default optimizer's learning rate in the warm start: by default
            1e-2 layer by layer, and 3e-3 on draws. The polish has a twentieth of it, or a sixth.
        optimizer: An optax optimizer, for each of the stages; by default Adam with warm-up, cosine
            decay to zero and adaptive gradient clipping.
        mesh: Devices to split batches over, by its axis "data"; an axis "model" splits large
            weights. Without one it takes ALL devices, if they can share the batch equally.
        checkpoint_dir: Where to save the run now and then. The same call, after the process was
            killed, goes on from there; with more steps, the warm start is lengthened, and the
            polish made again.
        callback: Called a few times a second with a `flows.training.TrainingState`, whose steps
            are those of the stage.
        progress: Whether to show bars, or in a log file a line now and then.

    Returns:
        A `DistillResult`; print its `.report`, whose last line says whether to use the student.

    Raises:
        TypeError: `teacher` is no distribution, or `student` no flow.
        ValueError: Sizes or supports do not agree, a context is missing or unwanted, and so on.
        flows.training.NonFiniteError: Training diverged; `.module` is the last student, as it is
            of whatever ends the making of the report, be it Ctrl-C.

    Cost: a step of the warm start is one parallel pass of teacher and student with its gradient.
    The draws to learn from are made once; each step of the polish samples the student and
    evaluates its density. The report takes up to 100,000 draws of each, and times both.

    Examples:
        >>> import flows, jax
        >>> from flax import nnx
        >>> teacher = flows.maf(2, num_layers=2, hidden_sizes=(8, 8), rngs=nnx.Rngs(0))
        >>> result = flows.distill(teacher, key=jax.random.key(0), num_steps=50, progress=False)
        >>> bool(result.report.kl_teacher_student.value < 1.0)
        True
    """
    key = _checks.prng_key("key", key)
    if num_steps is not None and _checks.positive_int("num_steps", num_steps) < 2:
        raise ValueError("num_steps must be at least 2, one for each stage, got 1.")
    options = {
        "learning_rate": learning_rate, "optimizer": optimizer, "mesh": mesh,
        "checkpoint_dir": checkpoint_dir, "callback": callback, "progress": progress,
    }  # fmt: skip
    student = "iaf" if student is None else student
    if speedup is not None:
        _checks.positive("speedup", speedup)
        if student != "iaf" or not has_maf_layers(teacher):
            raise ValueError(
                'speedup is for student="iaf" of a teacher that is a flow with layers as flows.maf '
                "makes them: of another, give a smaller flow as student."
            )
    has_draws, has_density = abilities(teacher)
    if not (has_draws and has_density):
        _refuse_what_needs_both(objective, baseline)
    if not has_density:
        return from_draws(teacher, student, data, key, num_steps, batch_size, options)
    if not has_draws:
        return from_density(teacher, student, data, key, num_steps, batch_size, options)
    objective = _checks.one_of("objective", objective or "jeffreys", tuple(POLISH))
    event_size, context_size = check_teacher(teacher)
    if _checks.positive_int("batch_size", batch_size) > POOL_SIZE:
        raise ValueError(f"batch_size must be at most {POOL_SIZE}, got {batch_size}.")
    data_key, pool_key, network_key, warm_key, polish_key, report_key = jax.random.split(key, 6)
    columns = columns_of(teacher, student)
    scored, others = held_out_points(teacher, columns, data, data_key, share=baseline)
    contexts = None if others is None else others.context
    # Divergences are the same on the real line that supports are the image of.
    source = on_real_line(teacher, columns)
    pool = teacher_draws(source, contexts, pool_key, least=batch_size)
    check_draws(source, pool[0])
    rest = teacher_draws(source, contexts, jax.random.fold_in(pool_key, 1))
    fresh = jax.tree.map(lambda a: a[:NUM_VALIDATION], rest)
    is_copy = student == "iaf" and has_maf_layers(teacher)
    learner: Any = student
    if speedup is not None:
        learner = fast_student(teacher, speedup, contexts, network_key, nnx.Rngs(network_key))
    elif isinstance(student, str):
        learner = make_student(student, teacher, columns, pool, nnx.Rngs(network_key))
    beginner = learner
    _check_student(learner, teacher, columns, event_size, context_size)
    layered = (
        isinstance(teacher, Flow)
        and is_layered(teacher.bijector, learner.bijector)
        and equal(teacher.base, learner.base)
    )
    num_steps = num_steps or (NUM_STEPS if layered else NUM_STEPS_ON_DRAWS)
    num_warm = max(1, min(num_steps - 1, round(WARM_START_SHARE * num_steps)))
    stage = functools.partial(
        train, batch_size=batch_size, mesh=mesh, callback=callback, progress=progress
    )
    optimizer_of = optimizers(optimizer, learning_rate, layered)
    directory = lambda name: checkpoint_dir and os.path.join(checkpoint_dir, name)
    run = warm_start(
        source, learner, pool, stage, optimizer_of, layered=layered, num_steps=num_warm,
        key=warm_key, checkpoint_dir=directory("warm_start"),
    )  # fmt: skip
    runs, learner, close = {"warm_start": run}, run.module, True
    if run.stop_reason == "finished":
        copied = teacher if is_copy and speedup is None else None
        with attaching(learner):
            learner, close = with_passes_as_needed(source, learner, copied, fresh[1], report_key)
    if not close:
        polished = polish(
            source, learner, pool, fresh, stage, optimizer_of, objective=objective,
            num_steps=num_steps - num_warm, key=polish_key,
            checkpoint_dir=directory(f"polish_after_{num_warm}"),
        )  # fmt: skip
        if polished is not None:
            runs["polish"], learner = polished, polished.module
    if scored is None:
        scored = Rows(on_support(columns, rest[0][-MAX_HELD_OUT:]), None)
    name = "teacher draws" if data is None else "data"
    losses = np.concatenate([run.losses for run in runs.values()])
    final = list(runs.values())[-1]
    with attaching(learner):
        alone = None
        if baseline and final.stop_reason != "interrupted":
            others = others or Rows(on_support(columns, pool[0]), None)
            alone = fitted_without_teacher(
                untaught(beginner, teacher, nnx.Rngs(network_key)), *others, num_steps=len(losses),
                batch_size=batch_size, key=warm_key, mesh=mesh, progress=progress,
                checkpoint_dir=directory(f"baseline_{len(losses)}"),
            )  # fmt: skip
        pair = source, learner.unconstrained()
        report = compare(teacher, learner, pair, *scored, name, alone, report_key)
    return DistillResult(
        student=learner,
        report=report,
        losses=losses,
        history={name: run.losses for name, run in runs.items()},
        stop_reason=final.stop_reason,
        num_skipped=sum(run.num_skipped for run in runs.values()),
    )


def _refuse_what_needs_both(objective: str | None, baseline: bool) -> None:
    """Raises where what is asked for needs a teacher with draws and a density."""
    for name, given in (("objective", objective is not None), ("baseline", baseline)):
        if given:
            raise ValueError(
                f"{name} is for a teacher with draws and a density: of draws alone the student "
                "learns by maximum likelihood, of a density alone by the reverse divergence."
            )


def _check_student(
    student: Any,
    teacher: Any,
    columns: supports.Columns | None,
    event_size: int,
    context_size: int | None,
) -> None:
    require_flow("student", student)
    if (student.event_size, student.context_size) != (event_size, context_size):
        raise ValueError(
            f"student has event size {student.event_size} and context size "
            f"{student.context_size}; the teacher has {event_size} and {context_size}."
        )
    theirs = student.support
    if columns is None and theirs is not None:  # angles of a teacher that is no flow
        theirs = supports.of_columns(
            [supports.real if s.kind == "circle" else s for s in theirs], event_size
        )
    if theirs != columns or not comparable(teacher, student):
        wanted = "real" if columns is None else ", ".join(map(str, columns))
        raise ValueError(
            "student must be over what the teacher is over: it needs the same support= "
            f"({wanted}) and, for angles, the layers of flows.ncsf."
        )

"""Teachers that have draws alone, or a density alone."""

import math
from typing import Any

import jax
from flax import nnx

from flows import _checks
from flows.density import FitResult, fit
from flows.distillation.result import DistillResult
from flows.distillation.samples import compare_draws
from flows.distillation.students import KINDS, make_student
from flows.distillation.teachers import check_teacher, columns_of, is_distribution, rows_of
from flows.distributions import Flow
from flows.variational import fit_posterior

NUM_STEPS_ON_DRAWS = 10_000


def from_draws(
    teacher: Any,
    student: Flow | str,
    data: Any,
    key: jax.Array,
    num_steps: int | None,
    batch_size: int,
    options: dict[str, Any],
) -> DistillResult:
    """Maximum likelihood on draws, of which a tenth is held out unless there are data."""
    draw_key, network_key, fit_key, report_key = jax.random.split(key, 4)
    if data is not None and len(_checks.pair("data", data)[0]) < 2:
        raise ValueError("data must have at least 2 rows to compare with, got fewer.")
    x, context = rows_of(teacher, draw_key)
    if isinstance(student, str):
        student = make_student(student, teacher, None, (x, context, None), nnx.Rngs(network_key))
    validation = "auto" if data is None else data
    num_steps = num_steps or NUM_STEPS_ON_DRAWS
    run = by_likelihood(
        student, x, context, validation, num_steps=num_steps, batch_size=batch_size, key=fit_key,
        **options,
    )  # fmt: skip
    assert run.held_out is not None
    return DistillResult.of(run, run.flow, compare_draws(run.flow, run.held_out, report_key))


def by_likelihood(
    student: Flow,
    x: Any,
    context: Any,
    validation: Any,
    *,
    num_steps: int,
    batch_size: int,
    **options: Any,
) -> FitResult:
    """`flows.fit`, by steps: at most so many, in whole epochs, of which there is one at least.

    Args:
        student: The flow to start from.
        x: Points to learn [N, D].
        context: Their contexts [N, C], or None.
        validation: "auto" holds out a tenth of the points; or others.
        num_steps: Steps of optimisation.
        batch_size: Points in a batch; all, where there are fewer.
        **options: Others of `flows.fit`.
    """
    num_trained = len(x) - max(1, len(x) // 10) if isinstance(validation, str) else len(x)
    batch_size = min(batch_size, num_trained)
    num_epochs = max(1, num_steps // math.ceil(num_trained / batch_size))
    return fit(
        student,
        x,
        context=context,
        validation=validation,
        batch_size=batch_size,
        max_epochs=num_epochs,
        **options,
    )


def from_density(
    teacher: Any,
    student: Flow | str,
    data: Any,
    key: jax.Array,
    num_steps: int | None,
    batch_size: int,
    options: dict[str, Any],
) -> DistillResult:
    """Variational inference, with all its checks."""
    if data is not None:
        raise ValueError("data is for a teacher with draws and a density; this has no draws.")
    flow = None if isinstance(student, str) else student
    if flow is None:
        _checks.one_of("student", student, KINDS)
    if is_distribution(teacher) and columns_of(teacher) is not None:
        raise ValueError(
            f"teacher must be over all real numbers where it has no draws, and {teacher.name} is "
            "bounded: give the density of what its columns are mapped to."
        )
    if flow is None and not is_distribution(teacher):
        raise ValueError(
            "student must be a flow, such as flows.real_nvp(D), for a teacher that is a function: "
            "nothing else says how long a point is."
        )
    posterior = fit_posterior(
        teacher.log_prob if is_distribution(teacher) else teacher,
        flow=flow,
        event_size=None if flow is not None else check_teacher(teacher)[0],
        key=key,
        num_samples=batch_size,
        **(options if num_steps is None else options | {"num_steps": num_steps}),
    )
    return DistillResult.of(posterior, posterior.flow, posterior.diagnostics)

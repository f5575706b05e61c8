"""What a student is like without its teacher: fitted to the data, in as many steps."""

import warnings
from typing import Any

import jax

from flows.distillation.one_sided import by_likelihood
from flows.distributions import Flow


def fitted_without_teacher(
    student: Flow, x: jax.Array, context: jax.Array | None, **options: Any
) -> Flow | None:
    """The student by maximum likelihood; None, and a warning, where that fails or is interrupted.

    Steps are counted and not seconds, so that the same call gives the same again, be it resumed or
    on a faster machine.

    Args:
        student: The flow to start from.
        x: Points to learn [N, D].
        context: Their contexts [N, C], or None.
        **options: Those of `by_likelihood`.
    """
    problem: Any = "interrupted"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as of repeated rows, which nobody has passed to `fit`
            run = by_likelihood(student, x, context, "auto", **options)
        if run.stop_reason != "interrupted":
            return run.flow
    except Exception as error:
        problem = error
    warnings.warn(f"There is no fit without the teacher to compare with: {problem}", stacklevel=3)
    return None

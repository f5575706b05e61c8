"""What a student is like without its teacher: fitted to the data, in the same time."""

import contextlib
import time
import warnings
from typing import Any

import jax

from flows.density.fit import fit
from flows.distributions import Flow
from flows.training import TrainingState
from flows.training.sharding import of_first_process

NUM_PACED = 4  # reports of the pace of training, of which the first compiled
OVERTIME = 1.2  # times as long as was planned


class _Enough(Exception):
    """Ends a fit."""


def fitted_without_teacher(
    student: Flow, x: jax.Array, context: jax.Array | None, seconds: float, **options: Any
) -> Flow:
    """The student by maximum likelihood, in about so many seconds, compiling aside.

    Args:
        student: The flow to start from.
        x: Points to learn [N, D].
        context: Their contexts [N, C], or None.
        seconds: How long to train.
        **options: Those of `flows.fit`.
    """
    progress = options.pop("progress")
    run = lambda **more: fit(student, x, context=context, patience=None, **options, **more)
    seen: list[TrainingState] = []

    def watch(state: TrainingState) -> None:
        seen.append(state)
        if len(seen) == NUM_PACED:
            raise _Enough

    with contextlib.suppress(_Enough), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is made again
        run(max_epochs=2, callback=watch, progress=False)
    steps = seconds * max(state.steps_per_second for state in seen)
    [num_epochs] = of_first_process(max(1, round(2 * steps / seen[0].num_steps)))
    start = time.monotonic()

    def stop_in_time(state: TrainingState) -> None:
        [spent] = of_first_process(time.monotonic() - start)
        if spent > OVERTIME * seconds and state.step < state.num_steps:
            raise _Enough

    try:
        return run(max_epochs=int(num_epochs), callback=stop_in_time, progress=progress).flow
    except _Enough as error:
        return error.module  # type: ignore[attr-defined]

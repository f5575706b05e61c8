"""What a run of training shows while it lasts and leaves behind."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


class NonFiniteError(FloatingPointError):
    """Too many steps gave what is not finite and were skipped; `.module` is the best so far."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run went: what the results of `train`, `fit`, `fit_posterior` and `distill` share.

    Attributes:
        losses: What was minimised, at every step; NaN or inf where a step was skipped.
        history: Curves to look at, by name: with a value for each epoch where epochs pass over
            data, and for each step where there are none.
        stop_reason: "finished" (all steps done), "patience" (validation got no better), "plateau"
            (`stop_early`), "exhausted" (an iterator of batches) or "interrupted" (Ctrl-C).
        num_skipped: Steps skipped because what they gave was not finite.
    """

    losses: np.ndarray = dataclasses.field(repr=False)
    history: dict[str, np.ndarray] = dataclasses.field(repr=False)
    stop_reason: str
    num_skipped: int

    def __str__(self) -> str:
        skipped = f" ({self.num_skipped:,} skipped)" if self.num_skipped else ""
        last = [f"{name} {curve[-1]:.5g}" for name, curve in self.history.items() if len(curve)]
        ended = f"{len(self.losses):,} steps{skipped}, {self.stop_reason}"
        at_the_end = f"; at the end {', '.join(last)}" if last else ""
        return f"{type(self).__name__}: {ended}{at_the_end}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingResult(Outcome):
    """A trained module, and how it went: see `Outcome`.

    Attributes:
        module: The trained module: the best on validation, or the last without validation.
    """

    module: Any = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """What a callback sees, a few times a second.

    Attributes:
        step: Steps done.
        num_steps: Steps planned.
        epoch: Epochs done.
        loss: Mean training loss since the last call; NaN if all steps were skipped.
        validation_loss: The latest; None before the first and without validation.
        steps_per_second: Since the last call.
        num_skipped: Steps skipped so far, because what they gave was not finite.
        make_module: Returns a copy of the best module so far.
    """

    step: int
    num_steps: int
    epoch: int
    loss: float
    validation_loss: float | None
    steps_per_second: float
    num_skipped: int
    make_module: Callable[[], Any] = dataclasses.field(repr=False)

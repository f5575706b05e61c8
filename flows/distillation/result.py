"""What a distillation returns."""

import dataclasses
from typing import Any

from flows.distillation.report import DistillReport
from flows.distillation.samples import SampleReport
from flows.distributions import Flow
from flows.training import Outcome
from flows.variational.diagnostics import Diagnostics


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillResult(Outcome):
    """A distilled student, and how it went: see also `flows.training.Outcome`.

    Attributes:
        student: The trained flow.
        report: Divergences both ways, held-out fit of both, sampling speeds, and a verdict. Of
            draws alone a `flows.distillation.SampleReport`; of a density alone the `.diagnostics`
            of `flows.fit_posterior`.
        losses: What was minimised at every step, of one stage after the other.
        history: {"warm_start": ..., "polish": ...}, that of the stages that ran; of draws alone
            that of `flows.fit`, of a density alone that of `flows.fit_posterior`.
    """

    student: Flow = dataclasses.field(repr=False)
    report: DistillReport | SampleReport | Diagnostics

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.report}"

    @classmethod
    def of(cls, run: Outcome, student: Flow, report: Any) -> "DistillResult":
        """The result of a run of another kind."""
        shared = {field.name: getattr(run, field.name) for field in dataclasses.fields(Outcome)}
        return cls(student=student, report=report, **shared)

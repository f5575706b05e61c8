"""What a distillation achieved: how far student and teacher are apart, how fast, and a verdict."""

import dataclasses
from typing import Any

import numpy as np

from flows.distillation.measures import Timing
from flows.distillation.regions import deviations, lost
from flows.divergences import Estimate

GOOD, GOOD_EACH = 0.05, 0.02  # nats of both divergences, and for each dimension: the larger counts
WORST = 50.0  # nats of a single draw
IMPOSSIBLE = 0.01  # nats below 0, and 5 standard errors
RELIABLE = 0.7  # k-hat of |log ratios|
FASTER = 1.2  # times
BETTER = 3.0  # standard errors


@dataclasses.dataclass(frozen=True)
class DistillReport:
    """How far a student is from its teacher, and whether to use it in its place.

    Of a conditional flow divergences are means over the scored contexts, and errors are those of
    the draws at them. With integer columns divergences are of the densities that are rounded:
    bounds, from above, of those between the integers. Of a student that is all but its teacher, the
    Jeffreys and Jensen-Shannon divergences rest on rare draws, and their errors are too small.

    Attributes:
        kl_student_teacher: KL(student || teacher) in nats; blind to modes the student dropped.
        kl_teacher_student: KL(teacher || student) in nats; sees them.
        jeffreys: Their sum, by an estimate that varies less.
        jensen_shannon: Jensen-Shannon divergence in nats, at most log 2.
        accuracy: Of the best classifier of single draws into the teacher's and the student's: 1/2
            where they are equal.
        effective_sample_size: Of the student's draws, weighted towards the teacher, as a share.
        worst_log_ratio: Largest |log teacher - log student| of any draw of either, in nats.
        khat: Shape of the tail of |log teacher - log student| under the draws of each (student,
            teacher): above 0.7 the standard error of that divergence cannot be relied upon.
        num_non_finite: Draws at which one of the log densities is not finite.
        nll_teacher: Mean negative log-likelihood of the teacher on held-out points, in nats.
        nll_student: The same for the student.
        nll_gap: nll_student - nll_teacher, paired point by point.
        nll_baseline: That of a student fitted without the teacher, on the same points, or None
            (`distill(baseline=True)`).
        baseline_gap: nll_baseline - nll_student, paired, or None.
        held_out: "data" or, where no data were given, "teacher draws".
        region_shares: Shares of the draws of the teacher and of the student in each of 50 regions
            [50, 2], into which k-means parts those of the teacher; [0, 2] where few are finite.
        timings: `Timing`s of calls for 1, 1,000 and 100,000 draws; of a conditional flow for one
            draw at each of so many contexts.
        log_ratios: log teacher - log student at the draws of each (student, teacher).
        deploy: Whether the student is close, safe, faster, and no worse than `nll_baseline`.
        verdict: The reasons, in a line.
    """

    kl_student_teacher: Estimate
    kl_teacher_student: Estimate
    jeffreys: Estimate
    jensen_shannon: Estimate
    accuracy: Estimate
    effective_sample_size: float
    worst_log_ratio: float
    khat: tuple[float, float]
    num_non_finite: int
    nll_teacher: Estimate
    nll_student: Estimate
    nll_gap: Estimate
    nll_baseline: Estimate | None
    baseline_gap: Estimate | None
    held_out: str
    region_shares: np.ndarray = dataclasses.field(repr=False)
    timings: tuple[Timing, ...]
    log_ratios: tuple[np.ndarray, np.ndarray] = dataclasses.field(repr=False)
    event_size: int

    @property
    def seconds_teacher(self) -> float:
        """Wall time of `num_timed_draws` draws from the teacher, compiled; median."""
        return self.timings[-1].teacher

    @property
    def seconds_student(self) -> float:
        """The same for the student."""
        return self.timings[-1].student

    @property
    def num_timed_draws(self) -> int:
        """Draws in the longest timed calls."""
        return self.timings[-1].num_draws

    @property
    def deploy(self) -> bool:
        """Whether nothing speaks against the student: see `verdict`."""
        return not self._reasons()

    @property
    def verdict(self) -> str:
        """Whether to use the student, or why not, in a line."""
        if reasons := self._reasons():
            return "; ".join(reasons)
        at = {True: [], False: []}  # type: dict[bool, list[str]]
        for timing in self.timings:
            at[timing.speedup >= FASTER].append(f"{timing.num_draws:,}")
        limits = f", but keep the teacher at {' and '.join(at[False])}" if at[False] else ""
        return f"deploy: close, and faster at {' and '.join(at[True])} at once{limits}"

    def _reasons(self) -> list[str]:
        """What speaks against the student."""
        both = [self.kl_student_teacher, self.kl_teacher_student]
        reasons = []
        if any(kl.value < -5 * kl.standard_error - IMPOSSIBLE for kl in both):
            reasons.append("not comparable: a KL below 0, as of what is no density of such draws")
        limit = max(GOOD, GOOD_EACH * self.event_size)
        furthest = max((float(kl.value) for kl in both), key=lambda kl: np.nan_to_num(kl, nan=1e9))
        if not furthest <= limit:
            reasons.append(f"not close: a KL of {furthest:.2g} nats, more than {limit:.2g}")
        if not self.worst_log_ratio <= WORST:
            reasons.append(f"not safe: a draw that is {self.worst_log_ratio:.0f} nats off")
        if self.num_non_finite:
            reasons.append(f"not safe: {self.num_non_finite} draws without a finite log density")
        missed = lost(self.region_shares)
        if len(missed):
            teacher, student = missed.sum(axis=0)
            reasons.append(
                f"not safe: {student:.1%} of its draws are where {teacher:.1%} of the teacher's are"
            )
        if max(timing.speedup for timing in self.timings) < FASTER:
            reasons.append("keep the teacher: here it draws about as fast, or faster")
        gap = self.baseline_gap
        if gap is not None and gap.value < -GOOD and not gap.value / gap.standard_error > -BETTER:
            reasons.append(
                f"maximum likelihood on {self.held_out}, without the teacher, is "
                f"{-gap.value:.2g} nats better"
            )
        return reasons

    def to_dict(self) -> dict[str, Any]:
        """Its numbers, ready for JSON (None where not finite); the log ratios are left out."""
        out: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Estimate):
                value = {
                    "value": float(value.value),
                    "standard_error": float(value.standard_error),
                    "num_samples": value.num_samples,
                }
            if field.name == "timings":
                value = [timing._asdict() for timing in value]
            if field.name == "region_shares":
                value = value.tolist()
            if field.name != "log_ratios":
                out[field.name] = value
        out |= {"khat": list(self.khat), "deploy": self.deploy, "verdict": self.verdict}
        return _for_json(out)

    def plot(self) -> Any:
        """Log ratios and sampling times: see `flows.plotting.distillation`."""
        from flows import plotting

        return plotting.distillation(self)

    def __str__(self) -> str:
        heavy = lambda khat: khat > RELIABLE and self.worst_log_ratio > 1  # below it is harmless
        error = lambda khat: f"  (heavy tail: k-hat {khat:.2f})" if heavy(khat) else ""
        rows = [
            ("KL(student || teacher)", f"{self.kl_student_teacher} nats{error(self.khat[0])}"),
            ("KL(teacher || student)", f"{self.kl_teacher_student} nats{error(self.khat[1])}"),
            ("Jensen-Shannon", f"{self.jensen_shannon} nats"),
            ("told apart by single draws", f"{self.accuracy} of the time, at best"),
            ("effective sample size", f"{self.effective_sample_size:.1%} of the student's draws"),
            ("worst log ratio", f"{self.worst_log_ratio:.3g} nats"),
            (f"NLL of teacher on {self.held_out}", f"{self.nll_teacher} nats"),
            (f"NLL of student on {self.held_out}", f"{self.nll_student} nats"),
            ("NLL gap, student - teacher", f"{self.nll_gap} nats"),
        ]
        if self.nll_baseline is not None:
            rows.append(("NLL of one without the teacher", f"{self.nll_baseline} nats"))
        if len(self.region_shares):
            errors = np.abs(deviations(self.region_shares))
            teacher, student = self.region_shares[errors.argmax()]
            shares = f"teacher {teacher:.1%}, student {student:.1%} of the draws"
            name = f"most different of {len(errors)} regions"
            rows.append((name, f"{shares}, {errors.max():.1f} standard errors"))
        for timing in self.timings:
            teacher, student = (timing.num_draws / s for s in (timing.teacher, timing.student))
            rows.append(
                (
                    f"sampling, {timing.num_draws:,} at once",
                    f"teacher {teacher:,.0f}, student {student:,.0f} draws/s: "
                    f"{timing.speedup:.2g} times",
                )
            )
        rows.append(("verdict", self.verdict))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _for_json(value: Any) -> Any:
    """The same with None for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _for_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_for_json(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value

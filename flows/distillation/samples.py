"""What is known of a student whose teacher has draws, and no density."""

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows.distillation.measures import Timing, seconds_of_draws
from flows.distributions import Flow
from flows.divergences import Estimate, c2st, energy_distance

NUM_COMPARED = 2000  # draws of each: both comparisons cost their square, or a classifier's fit
LEAST_P = 0.01
ENOUGH = 50  # rows of each for a classifier
FAR = 1e12  # standard deviations: what is farther is as far, so that squares stay finite


@dataclasses.dataclass(frozen=True)
class SampleReport:
    """How far a student's draws are from draws of a teacher that has no density.

    Attributes:
        energy_distance: Between held-out draws of the teacher and those of the student, in
            standard deviations of the columns, with the p-value of "they are equally distributed".
        c2st: How often a classifier tells them apart, 1/2 if they are equal; None of fewer than 50
            rows, or without scikit-learn (the extra "samples").
        nll_student: Mean negative log-likelihood of the student on held-out draws, in nats.
        timings: `Timing`s of the student; the teacher's are NaN.
        num_non_finite: Draws of the student that are not finite: they are not compared.
    """

    energy_distance: Estimate
    c2st: Estimate | None
    nll_student: Estimate
    timings: tuple[Timing, ...]
    num_non_finite: int = 0

    @property
    def num_compared(self) -> int:
        """Draws of each that were compared."""
        return self.energy_distance.num_samples // 2

    @property
    def deploy(self) -> bool:
        """Whether neither comparison tells the draws apart, and there are enough of them."""
        if self.num_non_finite or self.num_compared < ENOUGH:
            return False
        tests = [self.energy_distance] + ([] if self.c2st is None else [self.c2st])
        return all(float(test.p_value) > LEAST_P for test in tests)  # type: ignore[arg-type]

    @property
    def verdict(self) -> str:
        """Whether to use the student, or why not, in a line."""
        if self.deploy:
            return f"deploy: {self.num_compared:,} draws of each cannot be told apart"
        if self.num_non_finite:
            return f"not safe: {self.num_non_finite} draws are not finite"
        if self.num_compared < ENOUGH:
            return f"not known: {self.num_compared} draws to compare with, {ENOUGH} are needed"
        return "not close: its draws can be told from the teacher's"

    def to_dict(self) -> dict[str, Any]:
        """Its numbers, ready for JSON."""
        number = lambda e: None if e is None else [float(e.value), float(e.standard_error)]
        return {
            "energy_distance": number(self.energy_distance),
            "energy_p_value": float(self.energy_distance.p_value),  # type: ignore[arg-type]
            "c2st": number(self.c2st),
            "nll_student": number(self.nll_student),
            "student_draws_per_second": {
                t.num_draws: t.num_draws / t.student for t in self.timings
            },
            "num_non_finite": self.num_non_finite,
            "deploy": self.deploy,
            "verdict": self.verdict,
        }

    def __str__(self) -> str:
        missing = f"not made: it needs {ENOUGH} held-out rows and scikit-learn"
        p_value = float(self.energy_distance.p_value)  # type: ignore[arg-type]
        rows = [
            ("energy distance", f"{self.energy_distance} (p-value {p_value:.2g})"),
            ("accuracy of a classifier", missing if self.c2st is None else f"{self.c2st}"),
            ("NLL of student on held-out draws", f"{self.nll_student} nats"),
        ]
        for timing in self.timings:
            rate = f"{timing.num_draws / timing.student:,.0f} draws/s"
            rows.append((f"sampling, {timing.num_draws:,} at once", rate))
        rows.append(("verdict", self.verdict))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def compare_draws(
    student: Flow, held_out: tuple[jax.Array, jax.Array | None, Any], key: jax.Array
) -> SampleReport:
    """Compares draws of the student with rows that it was not trained on."""
    x, context, _ = held_out
    x, context = x[:NUM_COMPARED], None if context is None else context[:NUM_COMPARED]
    draw_key, test_key, time_key = jax.random.split(key, 3)
    bound = student if context is None else student.condition(context)
    y = bound.sample(seed=draw_key, sample_shape=() if context is not None else (len(x),))
    known = [] if context is None else [context]
    scale = lambda rows: jnp.clip((rows - x.mean(axis=0)) / x.std(axis=0).clip(1e-12), -FAR, FAR)
    of_x, of_y = (jnp.concatenate([scale(rows), *known], axis=1) for rows in (x, y))
    of_y = of_y[jnp.isfinite(y).all(axis=1)]
    accuracy, infinite = None, jnp.asarray(jnp.inf)
    distance = Estimate(infinite, infinite, len(of_x), "energy_distance", jnp.zeros(()))
    if len(of_y) > 1:
        distance = energy_distance(of_x, of_y, key=test_key, num_permutations=199)
    with contextlib.suppress(ImportError):
        accuracy = c2st(of_x, of_y) if min(len(of_x), len(of_y)) >= ENOUGH else None
    return SampleReport(
        energy_distance=distance,
        c2st=accuracy,
        nll_student=Estimate.from_draws(-bound.log_prob(x)),
        timings=tuple(
            Timing(num_draws, np.nan, *times)
            for num_draws, times in seconds_of_draws([student], context, time_key)
        ),
        num_non_finite=len(of_x) - len(of_y),
    )

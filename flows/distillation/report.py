"""What a distillation achieved: divergences both ways, held-out fit, and sampling speed."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from flows.distributions import Flow
from flows.divergences import Estimate, kl
from flows.divergences.supports import on_real_line

NUM_KL_DRAWS = 20_000
NUM_TIMED_DRAWS = 10_000
NUM_REPEATS = 5


@dataclasses.dataclass(frozen=True)
class DistillReport:
    """How far a student is from its teacher.

    Attributes:
        kl_student_teacher: KL(student || teacher) in nats; blind to modes the student dropped.
        kl_teacher_student: KL(teacher || student) in nats; sees them.
        nll_teacher: Mean negative log-likelihood of the teacher on held-out points, in nats.
        nll_student: The same for the student.
        nll_gap: nll_student - nll_teacher, paired point by point.
        held_out: "data" or, where no data were given, "teacher draws".
        seconds_teacher: Wall time of `num_timed_draws` draws from the teacher, compiled; median.
        seconds_student: The same for the student.
        num_timed_draws: Draws in each timing.
    """

    kl_student_teacher: Estimate
    kl_teacher_student: Estimate
    nll_teacher: Estimate
    nll_student: Estimate
    nll_gap: Estimate
    held_out: str
    seconds_teacher: float
    seconds_student: float
    num_timed_draws: int

    def __str__(self) -> str:
        rows = [
            ("KL(student || teacher)", f"{self.kl_student_teacher} nats"),
            ("KL(teacher || student)", f"{self.kl_teacher_student} nats"),
            (f"NLL of teacher on {self.held_out}", f"{self.nll_teacher} nats"),
            (f"NLL of student on {self.held_out}", f"{self.nll_student} nats"),
            ("NLL gap, student - teacher", f"{self.nll_gap} nats"),
            ("teacher sampling", f"{self.num_timed_draws / self.seconds_teacher:,.0f} draws/s"),
            ("student sampling", f"{self.num_timed_draws / self.seconds_student:,.0f} draws/s"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def make_report(
    teacher: Any,
    student: Flow,
    held_out: jax.Array,
    context: jax.Array | None,
    name: str,
    key: jax.Array,
) -> DistillReport:
    """Compares the two on fresh draws and on held-out points [n, D] (with their context)."""
    forward_key, reverse_key, time_key = jax.random.split(key, 3)
    if context is not None:
        teacher, student = teacher.condition(context), student.condition(context)
    nll_teacher, nll_student = (-_log_prob(dist, held_out) for dist in (teacher, student))
    return DistillReport(
        kl_student_teacher=_mean_kl(student, teacher, forward_key),
        kl_teacher_student=_mean_kl(teacher, student, reverse_key),
        nll_teacher=Estimate.from_draws(nll_teacher),
        nll_student=Estimate.from_draws(nll_student),
        nll_gap=Estimate.from_draws(nll_student - nll_teacher),
        held_out=name,
        seconds_teacher=_seconds(teacher, time_key),
        seconds_student=_seconds(student, time_key),
        num_timed_draws=teacher.batch_shape[0] if teacher.batch_shape else NUM_TIMED_DRAWS,
    )


_log_prob = jax.jit(lambda dist, x: dist.log_prob(x))


@jax.jit
def _mean_kl(p: Any, q: Any, key: jax.Array) -> Estimate:
    """KL(p || q); for a batch of conditional distributions, its mean over the contexts."""
    if not p.batch_shape:
        return kl(p, q, key=key, num_samples=NUM_KL_DRAWS)
    p, q = on_real_line(p, q)
    x, log_p = p.sample_and_log_prob(seed=key)  # one draw for each context
    return Estimate.from_draws(log_p - q.log_prob(x))


@jax.jit
def _draw(dist: Any, key: jax.Array) -> jax.Array:
    return dist.sample(seed=key, sample_shape=() if dist.batch_shape else (NUM_TIMED_DRAWS,))


def _seconds(dist: Any, key: jax.Array) -> float:
    """Median wall time of a compiled call."""
    times = []
    for i in range(NUM_REPEATS + 1):  # the first one compiles
        clock = time.perf_counter()
        jax.block_until_ready(_draw(dist, jax.random.fold_in(key, i)))
        times.append(time.perf_counter() - clock)
    return float(np.median(times[1:]))

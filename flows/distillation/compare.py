"""Scores a student beside its teacher."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows._pareto import pareto_smoothed
from flows.distillation.measures import (
    BLOCK,
    Timing,
    bound_to,
    log_prob,
    log_ratios,
    seconds_of_draws,
)
from flows.distillation.regions import region_shares
from flows.distillation.report import DistillReport
from flows.distributions import Flow
from flows.divergences import Estimate
from flows.divergences.symmetric import (
    jeffreys_of,
    jensen_shannon_of,
    mean_over_sides,
    total_variation_of,
)


def compare(
    teacher: Any,
    student: Flow,
    on_real_line: tuple[Any, Any],
    held_out: jax.Array,
    context: jax.Array | None,
    name: str,
    baseline: Flow | None,
    key: jax.Array,
) -> DistillReport:
    """Compares the two on fresh draws and on held-out points [n, D] (with their context).

    Args:
        teacher: The teacher as it is, which is timed.
        student: The student.
        on_real_line: Both on the real line, where their divergences are the same.
        held_out: Points to score on.
        context: Their contexts, or None.
        name: What the points are.
        baseline: The student fitted without its teacher, or None.
        key: Random key.
    """
    student_key, teacher_key, time_key = jax.random.split(key, 3)
    scored = bound_to([teacher, student], context, len(held_out))
    nll_teacher, nll_student = (-log_prob(dist, held_out) for dist in scored)
    pair = bound_to(list(on_real_line), context, BLOCK)
    of_student, drawn_by_student = log_ratios(pair[1], pair[0], student_key)
    of_teacher, drawn_by_teacher = log_ratios(pair[0], pair[1], teacher_key)
    of_student = -of_student
    both = np.concatenate([of_student, of_teacher])
    weights = np.exp(of_student - np.nanmax(of_student))
    nll_baseline = gap = None
    if baseline is not None:
        [bound] = bound_to([baseline], context, len(held_out))
        draws = -log_prob(bound, held_out)
        nll_baseline, gap = map(Estimate.from_draws, (draws, draws - nll_student))
    return DistillReport(
        **divergences(of_student, of_teacher),
        effective_sample_size=float(weights.sum() ** 2 / (weights**2).sum() / len(weights)),
        worst_log_ratio=float(np.abs(both).max()),
        khat=(_tail(of_student), _tail(of_teacher)),
        num_non_finite=int((~np.isfinite(both)).sum()),
        nll_teacher=Estimate.from_draws(nll_teacher),
        nll_student=Estimate.from_draws(nll_student),
        nll_gap=Estimate.from_draws(nll_student - nll_teacher),
        nll_baseline=nll_baseline,
        baseline_gap=gap,
        held_out=name,
        region_shares=region_shares(drawn_by_teacher, drawn_by_student),
        timings=tuple(
            Timing(num_draws, *times)
            for num_draws, times in seconds_of_draws([teacher, student], context, time_key)
        ),
        log_ratios=(of_student, of_teacher),
        event_size=student.event_size,
    )


def divergences(of_student: np.ndarray, of_teacher: np.ndarray) -> dict[str, Estimate]:
    """How far the two are apart, from log teacher - log student at draws of each."""
    sides = [(jnp.asarray(t), jnp.ones(len(t)), len(t)) for t in (of_teacher, of_student)]
    apart = mean_over_sides(sides, total_variation_of)
    return {
        "kl_student_teacher": _mean(-of_student),
        "kl_teacher_student": _mean(of_teacher),
        "jeffreys": mean_over_sides(sides, jeffreys_of),
        "jensen_shannon": mean_over_sides(sides, jensen_shannon_of),
        "accuracy": apart.transform(lambda v: 0.5 + v / 2, lambda v: 0.5 * jnp.ones_like(v)),
    }


def _tail(log_ratios_: np.ndarray) -> float:
    """k-hat of |log ratios|; -inf where they are all but equal, inf where some are not finite."""
    size = np.abs(log_ratios_)
    if not np.isfinite(size).all():
        return np.inf
    if not size.max() > 0:
        return -np.inf
    with np.errstate(divide="ignore"):
        return pareto_smoothed(np.log(size))[1]


def _mean(draws: np.ndarray) -> Estimate:
    """Mean and standard error in double precision."""
    value, error = draws.mean(), draws.std(ddof=1) / len(draws) ** 0.5
    return Estimate(jnp.asarray(value), jnp.asarray(error), len(draws), "monte_carlo")

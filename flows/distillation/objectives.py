"""What students minimise: functions of (teacher, student, batch, key), both on the real line."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flows.density import negative_log_likelihood
from flows.distillation.layerwise import matching_loss
from flows.distillation.teachers import Batch
from flows.distributions import Flow
from flows.variational.objectives import reverse_kl


def layer_matching(teacher: Flow, student: Flow, batch: Batch, key: jax.Array) -> jax.Array:
    """Objective of the warm start of a student laid out like its teacher."""
    x, context, _ = batch
    return matching_loss(teacher.bijector, student.bijector, x, context)[1]


def likelihood(teacher: Any, student: Flow, batch: Batch, key: jax.Array) -> jax.Array:
    """KL(teacher || student), less a constant; that of the warm start of any other student."""
    return negative_log_likelihood(student.unconstrained(), batch, key)


def path_kl(
    teacher: Any,
    student: Flow,
    batch: Batch,
    key: jax.Array,
    transform: Callable[[jax.Array], jax.Array] = lambda log_ratio: log_ratio,
) -> jax.Array:
    """KL(student || teacher), by path gradients."""
    x, context, _ = batch
    student, sample_shape = student.unconstrained(), x.shape[:-1]
    if context is not None:
        teacher, student = teacher.condition(context), student.condition(context)
        sample_shape = ()
    draws = reverse_kl(student, teacher.log_prob, key, sample_shape, transform)
    return jnp.where(jnp.isfinite(draws), draws, 0.0)  # the report counts the others


def symmetric_kl(teacher: Any, student: Flow, batch: Batch, key: jax.Array) -> jax.Array:
    """KL(student || teacher) + KL(teacher || student), on draws of both."""
    return path_kl(teacher, student, batch, key) + _log_ratio(teacher, student, batch, key)


def jensen_shannon(teacher: Any, student: Flow, batch: Batch, key: jax.Array) -> jax.Array:
    r"""Jensen-Shannon divergence, on draws of both.

    With m the mean of the two densities, its gradient is half that of the mean over student draws
    of log student - log m, held fixed as a function: the score terms add up to zero.
    """
    below_mean = lambda log_ratio: jnp.log(2.0) - jax.nn.softplus(-log_ratio)
    of_teacher = below_mean(_log_ratio(teacher, student, batch, key))
    of_student = path_kl(teacher, student, batch, key, transform=below_mean)
    return 0.5 * (of_student + jax.lax.stop_gradient(of_teacher))


def _log_ratio(teacher: Any, student: Flow, batch: Batch, key: jax.Array) -> jax.Array:
    """What log teacher - log student is at the teacher's draws."""
    return likelihood(teacher, student, batch, key) - negative_log_likelihood(teacher, batch, key)


POLISH = {
    "jeffreys": symmetric_kl,
    "path": path_kl,
    "forward": likelihood,
    "js": jensen_shannon,
}

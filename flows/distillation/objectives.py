"""What students minimise: functions of (teacher, student, batch, key), both on the real line."""

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
    """Objective of the warm start of any other student, and what finds the best one."""
    return negative_log_likelihood(student.unconstrained(), batch, key)


def symmetric_kl(teacher: Any, student: Flow, batch: Batch, key: jax.Array) -> jax.Array:
    """Objective of the polish: draws of both divergences, summed."""
    x, context, _ = batch
    student = student.unconstrained()
    sample_shape = x.shape[:-1]
    if context is not None:
        teacher, student = teacher.condition(context), student.condition(context)
        sample_shape = ()
    reverse = reverse_kl(student, teacher.log_prob, key, sample_shape)
    reverse = jnp.where(jnp.isfinite(reverse), reverse, 0.0)  # the report counts the others
    return reverse + teacher.log_prob(x) - student.log_prob(x)

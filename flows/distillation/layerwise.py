"""Learning layer by layer: each layer of the student learns that of the teacher it stands for.

A MAF layer, x_i = T(z_i; theta_i(x_<i)), and an IAF layer, x_i = T(z_i; theta_i(z_<i)), with the
same order can be the same triangular map; only the network's argument differs. So a K-layer MAF
is a K-layer IAF, and one parallel pass of the teacher from data to noise gives every layer's
input, output and parameters to learn from, without sampling and without a sequential step. It is
the same with a coupling layer and one of a smaller network, and with any two layers of one kind.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows.bijectors import Bijector, Composite

SHARE_OF_GUESS = 0.1  # of the loss of the first attempt, where a layer makes several
NEGLIGIBLE = 1e-6  # nats of one coordinate: rounding, of which Adam would make steps


def is_layered(teacher: Bijector, student: Bijector) -> bool:
    """Whether the student is laid out like the teacher: same parts, univariate maps and orders.

    The networks may be any, and may read the noise or the data. One layer at least has some.
    """
    return _same_layout(teacher, student) and _has_univariate(teacher)


def _has_univariate(bijector: Bijector) -> bool:
    if isinstance(bijector, Composite):
        return any(map(_has_univariate, bijector.parts))
    return bijector.univariate is not None


def _same_layout(teacher: Bijector, student: Bijector) -> bool:
    if isinstance(teacher, Composite):
        return (
            type(teacher) is type(student)
            and equal(teacher.own, student.own)
            and all(map(_same_layout, teacher.parts, student.parts))
        )
    if isinstance(student, Composite) or teacher.univariate is None:
        return equal(teacher, student)
    return student.context_size == teacher.context_size and equal(
        student.univariate, teacher.univariate
    )


def equal(a: Any, b: Any) -> bool:
    """Whether two pytrees are equal, array by array."""
    if jax.tree.structure(a) != jax.tree.structure(b):  # type: ignore[operator]
        return False
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def matching_loss(
    teacher: Bijector, student: Bijector, x: jax.Array, context: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    r"""Walks the teacher from data to noise and sums the divergences of the layers' conditionals.

    In each layer, x_i = T(z_i; theta_i) has parameters of the teacher and of the student; the loss
    is the sum over i of the transformer's divergence between them. Of a layer that corrects a
    guess, a tenth of the guess's loss is added.

    Args:
        teacher: A bijector.
        student: A bijector of the same layout (`is_layered`).
        x: Points on the data side [..., D].
        context: Their context, or None.

    Returns:
        The noise [..., D] and the losses [...].

    Cost: one parallel pass of the student, and one of the teacher from data to noise.
    """
    return _match(x, context, teacher, student)


def _match(
    x: jax.Array, context: jax.Array | None, teacher: Bijector, student: Bijector
) -> tuple[jax.Array, jax.Array]:
    if isinstance(teacher, Composite):
        return teacher.through_parts(_match, x, context, student, inverse=True)
    z, _ = teacher._inverse_and_log_det(x, context)
    if teacher.univariate is None:
        return z, jnp.zeros(x.shape[:-1], x.dtype)
    transformer, _ = teacher.univariate
    params = teacher.parameters_at(z, x, context)[-1]
    *guess, fitted = student.parameters_at(z, x, context)
    loss = transformer.divergence(fitted, params)
    if guess:
        loss += SHARE_OF_GUESS * transformer.divergence(guess[0], params)
    return z, jnp.where(loss > NEGLIGIBLE, loss, 0.0).sum(axis=-1)

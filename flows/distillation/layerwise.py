"""The layer-wise warm start: each IAF layer learns the MAF layer it stands for.

A MAF layer, x_i = T(z_i; theta_i(x_<i)), and an IAF layer, x_i = T(z_i; theta_i(z_<i)), with the
same order can be the same triangular map; only the network's argument differs. So a K-layer MAF
is a K-layer IAF, and one parallel pass of the teacher from data to noise gives every layer's
input, output and parameters to learn from, without sampling and without a sequential step.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flows.bijectors import Bijector, Composite, Inverse, MaskedAutoregressive
from flows.conditioners import MaskedMLP


def is_maf_layer(bijector: Bijector) -> bool:
    """Whether this is a MAF layer, as `flows.maf` makes them."""
    return isinstance(bijector, Inverse) and type(bijector.bijector) is MaskedAutoregressive


def has_iaf_twin(bijector: Bijector) -> bool:
    """Whether the bijector acts by parts of which some are MAF layers, all with usual networks."""
    layers = list(_maf_layers(bijector))
    return bool(layers) and all(type(layer.conditioner) is MaskedMLP for layer in layers)


def _maf_layers(bijector: Bijector) -> Iterator[MaskedAutoregressive]:
    if isinstance(bijector, Composite):
        for part in bijector.parts:
            yield from _maf_layers(part)
    elif is_maf_layer(bijector):
        yield bijector.bijector


def iaf_twin(bijector: Bijector, rngs: nnx.Rngs) -> Bijector:
    """A copy with each MAF layer replaced by a fresh IAF layer, and all else kept.

    The IAF networks are twice as deep, and residual where the hidden sizes are equal: an IAF
    network has to compose over the coordinates what a MAF network reads off the data.
    """
    if isinstance(bijector, Composite):
        return bijector.with_parts(iaf_twin, rngs)
    if not is_maf_layer(bijector):
        return nnx.clone(bijector)
    layer = bijector.bijector
    return MaskedAutoregressive(
        layer.event_size,
        context_size=layer.context_size,
        transformer=nnx.clone(layer.transformer.inverted()),
        rngs=rngs,
        **layer.conditioner.deeper(),
    )


def same_layout(teacher: Bijector, student: Bijector) -> bool:
    """Whether the student is laid out like `iaf_twin(teacher)`: same layers, transformers, orders.

    The hidden layers of its networks may be any.
    """
    if is_maf_layer(teacher):
        layer = teacher.bijector
        return (
            isinstance(student, MaskedAutoregressive)
            and student.context_size == layer.context_size
            and equal(student.transformer, layer.transformer.inverted())
        )
    if not isinstance(teacher, Composite):
        return equal(teacher, student)
    return (
        type(teacher) is type(student)
        and equal(teacher.own, student.own)
        and all(map(same_layout, teacher.parts, student.parts))
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

    In each layer, x_i = T(z_i; theta_i) has parameters of the teacher (from x_<i) and of the
    student (from z_<i); the loss is the sum over i of the transformer's divergence between them.

    Args:
        teacher: A bijector with an IAF twin.
        student: A bijector of the same layout.
        x: Points on the data side [..., D].
        context: Their context, or None.

    Returns:
        The noise [..., D] and the losses [...].

    Cost: one parallel pass of the teacher and of the student.
    """
    return _match(x, context, teacher, student)


def _match(
    x: jax.Array, context: jax.Array | None, teacher: Bijector, student: Bijector
) -> tuple[jax.Array, jax.Array]:
    if isinstance(teacher, Composite):
        return teacher.through_parts(_match, x, context, student, inverse=True)
    if not is_maf_layer(teacher):
        return teacher._inverse_and_log_det(x, context)[0], jnp.zeros(x.shape[:-1], x.dtype)
    layer = teacher.bijector
    params = layer.parameters(x, context)
    z, _ = layer.transformer.forward_and_log_det(x, params)
    fitted = student.parameters(z, context)
    return z, student.transformer.divergence(fitted, params).sum(axis=-1)

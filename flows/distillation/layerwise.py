"""The layer-wise warm start: each IAF layer learns the MAF layer it stands for.

A MAF layer, x_i = T(z_i; theta_i(x_<i)), and an IAF layer, x_i = T(z_i; theta_i(z_<i)), with the
same order can be the same triangular map; only the network's argument differs. So a K-layer MAF
is a K-layer IAF, and one parallel pass of the teacher from data to noise gives every layer's
input, output and parameters to learn from, without sampling and without a sequential step.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flows.bijectors import (
    Affine,
    Bijector,
    Chain,
    Elementwise,
    Inverse,
    Inverted,
    MaskedAutoregressive,
    Permutation,
    Reverse,
    Stack,
    StandardizedContext,
    TriangularAffine,
)

NETWORK_FREE = (Elementwise, Permutation, Reverse, TriangularAffine)


def is_maf_layer(bijector: Bijector) -> bool:
    """Whether this is an affine MAF layer, as `flows.maf` makes them."""
    return (
        isinstance(bijector, Inverse)
        and isinstance(layer := bijector.bijector, MaskedAutoregressive)
        and isinstance(layer.transformer, Inverted)
        and isinstance(layer.transformer.transformer, Affine)
    )


def has_iaf_twin(bijector: Bijector) -> bool:
    """Whether the bijector is made of affine MAF layers and maps without networks, and no more."""
    return _is_supported(bijector) and _has_maf_layer(bijector)


def _is_supported(bijector: Bijector) -> bool:
    if is_maf_layer(bijector) or isinstance(bijector, NETWORK_FREE):
        return True
    return bool(_parts(bijector)) and all(map(_is_supported, _parts(bijector)))


def _has_maf_layer(bijector: Bijector) -> bool:
    return is_maf_layer(bijector) or any(map(_has_maf_layer, _parts(bijector)))


def _parts(bijector: Bijector) -> list[Bijector]:
    if isinstance(bijector, Chain):
        return list(bijector.bijectors)
    if isinstance(bijector, Stack):
        return [bijector.layers]
    if isinstance(bijector, StandardizedContext):
        return [bijector.bijector]
    return []


def iaf_twin(bijector: Bijector, rngs: nnx.Rngs) -> Bijector:
    """A copy with each MAF layer replaced by a fresh IAF layer, and all else kept.

    The IAF networks are twice as deep, and residual where the hidden sizes are equal: an IAF
    network has to compose over the coordinates what a MAF network reads off the data.
    """
    if is_maf_layer(bijector):
        layer = bijector.bijector
        return MaskedAutoregressive(
            layer.event_size,
            2 * layer.hidden_sizes,
            context_size=layer.context_size,
            transformer=layer.transformer.transformer,
            residual=len(set(layer.hidden_sizes)) == 1,
            activation=layer.activation,
            rngs=rngs,
        )
    twin = nnx.clone(bijector)
    if isinstance(twin, Chain):
        twin.bijectors = nnx.List(iaf_twin(part, rngs) for part in twin.bijectors)
    elif isinstance(twin, Stack):
        keys = jax.random.split(rngs.params(), twin.num_layers)
        twin.layers = jax.vmap(lambda layer, key: iaf_twin(layer, nnx.Rngs(key)))(twin.layers, keys)
    elif isinstance(twin, StandardizedContext):
        twin.bijector = iaf_twin(twin.bijector, rngs)
    return twin


def same_layout(teacher: Bijector, student: Bijector) -> bool:
    """Whether the student is laid out like `iaf_twin(teacher)`: same layers, transformers, orders.

    The hidden layers of its networks may be any.
    """
    if is_maf_layer(teacher):
        layer = teacher.bijector
        return (
            isinstance(student, MaskedAutoregressive)
            and student.context_size == layer.context_size
            and equal(student.transformer, layer.transformer.transformer)
        )
    if type(teacher) is not type(student) or len(_parts(teacher)) != len(_parts(student)):
        return False
    if isinstance(teacher, Stack) and teacher.num_layers != student.num_layers:
        return False
    if isinstance(teacher, StandardizedContext) and not (
        equal(teacher.loc, student.loc) and equal(teacher.scale, student.scale)
    ):
        return False
    if _parts(teacher):
        return all(map(same_layout, _parts(teacher), _parts(student)))
    return equal(teacher, student)


def equal(a: Any, b: Any) -> bool:
    """Whether two pytrees are equal, array by array."""
    if jax.tree.structure(a) != jax.tree.structure(b):  # type: ignore[operator]
        return False
    return all(
        x.shape == y.shape and bool((x == y).all())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def matching_loss(
    teacher: Bijector, student: Bijector, x: jax.Array, context: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    r"""Walks the teacher from data to noise and sums the divergences of the layers' conditionals.

    In each layer the conditional of x_i is N(mu_i, sigma_i^2) for the teacher (from x_<i) and
    N(m_i, s_i^2) for the student (from z_<i); the loss is sum_i KL(N(m_i, s_i) || N(mu_i, sigma_i))
    + KL(N(mu_i, sigma_i) || N(m_i, s_i)).

    Args:
        teacher: A bijector with an IAF twin.
        student: A bijector of the same layout.
        x: Points on the data side [..., D].
        context: Their context, or None.

    Returns:
        The noise [..., D] and the losses [...].

    Cost: one parallel pass of the teacher and of the student.
    """
    if context is not None and teacher.context_size is None:
        context = None
    if is_maf_layer(teacher):
        layer = teacher.bijector
        params = layer.conditioner(x, context)
        z, _ = layer.transformer.forward_and_log_det(x, params)
        target = layer.transformer.transformer.shift_and_log_scale(params)
        fitted = student.transformer.shift_and_log_scale(student.conditioner(z, context))
        return z, symmetric_normal_kl(*fitted, *target).sum(axis=-1)
    if isinstance(teacher, Stack):

        def step(carry, layers):
            z, term = matching_loss(layers[0], layers[1], carry[0], context)
            return (z, carry[1] + term), None

        start = (x, jnp.zeros(x.shape[:-1], x.dtype))
        return jax.lax.scan(step, start, (teacher.layers, student.layers))[0]
    if isinstance(teacher, Chain):
        total = jnp.zeros(x.shape[:-1], x.dtype)
        for part, twin in zip(teacher.bijectors, student.bijectors, strict=True):
            x, term = matching_loss(part, twin, x, context)
            total = total + term
        return x, total
    if isinstance(teacher, StandardizedContext):
        return matching_loss(teacher.bijector, student.bijector, x, teacher.standardize(context))
    return teacher.inverse(x, context), jnp.zeros(x.shape[:-1], x.dtype)


def symmetric_normal_kl(
    m: jax.Array, log_s: jax.Array, mu: jax.Array, log_sigma: jax.Array
) -> jax.Array:
    """KL(N(m, s) || N(mu, sigma)) + KL(N(mu, sigma) || N(m, s)), elementwise.

    With r = log s - log sigma it is cosh(2 r) - 1 + (m - mu)^2 (1 / s^2 + 1 / sigma^2) / 2.
    """
    spread = jnp.cosh(2 * (log_s - log_sigma)) - 1
    return spread + 0.5 * (m - mu) ** 2 * (jnp.exp(-2 * log_s) + jnp.exp(-2 * log_sigma))

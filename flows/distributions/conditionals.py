"""The conditionals p(x_i | x_0 .. x_{i-1}) of flows that are autoregressive in x."""

import jax
import jax.numpy as jnp

from flows.bijectors import Bijector
from flows.distributions.bases import Distribution
from flows.divergences import as_gaussian


def normal_conditionals(
    base: Distribution, bijector: Bijector, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The loc and scale [..., D] of x_i given x_<i, loc_i + scale_i e_i, for points x [..., D].

    The bijector is f = h o permutation with h triangular and affine along its diagonal, so that
    w = h^-1(x) has w_i = (x_i - m_i(x_<i)) / s_i(x_<i), and dw_i/dx_i = 1 / s_i.
    """
    noise = as_gaussian(base)
    permutations = _permutations_before_triangular(bijector)
    if noise is None or not noise.diagonal or permutations is None:
        raise NotImplementedError("The conditionals of this flow are not known to be normal.")

    def reorder(z: jax.Array) -> jax.Array:
        for permutation in permutations:
            z = permutation.forward(z)
        return z

    def whiten(x: jax.Array) -> jax.Array:
        return reorder((bijector.inverse(x) - noise.loc) / noise.scale)

    def derivative(axis: jax.Array) -> jax.Array:
        along = jnp.broadcast_to(jax.nn.one_hot(axis, x.shape[-1], dtype=x.dtype), x.shape)
        return jnp.take(jax.jvp(whiten, (x,), (along,))[1], axis, axis=-1)

    x = jnp.broadcast_to(x, jax.eval_shape(whiten, x).shape)
    scale = 1 / jnp.moveaxis(jax.lax.map(derivative, jnp.arange(x.shape[-1])), 0, -1)
    return x - scale * whiten(x), scale


def _permutations_before_triangular(bijector: Bijector) -> list[Bijector] | None:
    """The permutations that act on the noise before all else; None if f is not of that form."""
    layers = list(bijector.composed_of())
    permutations = []
    while layers and layers[-1].is_permutation:
        permutations.append(layers.pop())
    return permutations if all(layer.is_affine_triangular for layer in layers) else None

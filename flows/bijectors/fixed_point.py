"""The inverse of an autoregressive map: a fixed point of its parameters.

To invert y_i = T(x_i; theta_i(x_0 .. x_{i-1})) is to find the parameters with

    theta = F(theta) = network(T^-1(y; theta)),

where F_i sees theta_0 .. theta_{i-1} only. There are two methods. "blocked" solves coordinate after
coordinate by forward substitution, in about the cost of two network passes. "jacobi" repeats
theta <- F(theta), all coordinates at once, until nothing moves: D passes at most, exact then.

The derivative is that of the implicit function theorem, d theta = F_theta d theta + F_y dy + ...:
a linear system of the same triangular shape, solved by the same method, forwards for tangents and
backwards for cotangents. Differentiating through the forward substitution takes 1.5 times as long
and 4 times the memory at D = 64, batch 1000 (0.8 and 1.6 times at D = 8, see
`benchmarks/autoregressive.py`); through "jacobi" it is impossible.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from flows.bijectors.transformers import Transformer
from flows.conditioners import MaskedMLP, compute_in, substitution

METHODS = ("auto", "blocked", "jacobi")


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@compute_in(None)  # an inverse is only as exact as its products
def inverse_parameters(
    method: str,
    network: MaskedMLP,
    transformer: Transformer,
    y: jax.Array,
    context: jax.Array | None,
) -> jax.Array:
    """The parameters [N, D, P] with which T maps the preimage of y [N, D] to y.

    Args:
        method: "blocked" or "auto", or "jacobi".
        network: The network theta.
        transformer: The univariate map T.
        y: Points, of the dtype of the network's weights.
        context: Contexts [N, context_size] or [1, context_size], or None.
    """
    if method == "jacobi":
        update = lambda theta: _update(theta, network, transformer, y, context)
        start = jnp.zeros((*y.shape, transformer.num_params), y.dtype)
        if hasattr(network, "start_of_inverse"):
            start = jnp.broadcast_to(network.start_of_inverse(y, context), start.shape)
        return _iterate(update, start, y.shape[-1], unit=1.0)

    coordinates = y.T

    def step(i, theta_i):
        x_i, _ = transformer.inverse_and_log_det(coordinates[i], theta_i.T)
        return network.features(x_i).T, theta_i

    return _points_first(substitution.solve(network, step, context, y.shape[0]))


@inverse_parameters.defjvp
@compute_in(None)
def _inverse_parameters_jvp(method, primals, tangents):
    """Solves d theta - F_theta d theta = F_p dp for the tangents dp of everything else."""
    network, transformer, y, context = primals
    theta = inverse_parameters(method, *primals)
    _, by_theta = jax.linearize(lambda theta: _update(theta, *primals), theta)
    _, by_the_rest = jax.jvp(lambda *primals: _update(theta, *primals), primals, tangents)
    solve, transpose_solve = (
        _jacobi_solves(y.shape[-1])
        if method == "jacobi"
        else _blocked_solves(network, transformer, y, context, theta)
    )
    return theta, jax.lax.custom_linear_solve(
        lambda v: v - by_theta(v), by_the_rest, solve, transpose_solve
    )


def _update(theta, network, transformer, y, context):
    """F(theta)."""
    new = network(transformer.inverse_and_log_det(y, theta)[0], context)
    return jnp.broadcast_to(new, theta.shape)


def _jacobi_solves(event_size: int) -> tuple[Callable, Callable]:
    """Solvers of v - A v = b and of its transpose, for strictly triangular A."""

    def solve(matvec, b):
        return _iterate(lambda v: b + (v - matvec(v)), b, event_size)

    return solve, solve


def _iterate(update: Callable, start: jax.Array, event_size: int, unit: float = 0.0) -> jax.Array:
    """Repeats v <- update(v), exact after `event_size` times, until v moves by rounding only.

    The test is relative, entry by entry, so that it holds for cotangents of any scale; where
    entries have a scale of their own, the `unit`, smaller ones count as if they were as large.
    """
    tolerance = 10 * jnp.finfo(start.dtype).eps

    def moves(state):
        sweep, old, new = state
        still = jnp.abs(new - old) <= tolerance * (unit + jnp.abs(new))  # false where not finite
        return (sweep < event_size) & ~still.all()

    def sweep(state):
        number, _, v = state
        return number + 1, v, update(v)

    return jax.lax.while_loop(moves, sweep, (1, start, update(start)))[2]


def _blocked_solves(network, transformer, y, context, theta) -> tuple[Callable, Callable]:
    """Solvers of v - F_theta v = b and of its transpose at theta, by substitution."""
    # x_i depends on theta_i only, and the features that the network sees of it on x_i.
    x, pull = jax.vjp(lambda theta: transformer.inverse_and_log_det(y, theta)[0], theta)
    (slope,) = pull(jnp.ones_like(x))
    slope = _points_last(slope)  # [D, P, N]
    _, feature_slope = jax.jvp(network.features, (x,), (jnp.ones_like(x),))
    feature_slope = _points_last(feature_slope)  # [D, F, N]
    at = substitution.slopes(network, x, context)

    def solve(matvec, b):
        b = _points_last(b)

        def step(i, z):
            v_i = b[i] + z
            return feature_slope[i] * (slope[i] * v_i).sum(0), v_i

        return _points_first(substitution.solve_tangent(network, step, at))

    def transpose_solve(vecmat, b):
        b = _points_last(b)

        def step(i, z):
            i = network.event_size - 1 - i
            seen = feature_slope[i, ::-1][: len(z)]  # z has F rows, or none
            v_i = b[i] + slope[i] * (seen * z).sum(0)
            return v_i[::-1], v_i

        return _points_first(substitution.solve_cotangent(network, step, at)[::-1])

    return solve, transpose_solve


def _points_last(v: jax.Array) -> jax.Array:
    return jnp.moveaxis(v, 0, -1)


def _points_first(v: jax.Array) -> jax.Array:
    return jnp.moveaxis(v, -1, 0)

"""What is left of exp(x) near x = 0 without its tangent, to full precision."""

import jax
import jax.numpy as jnp

TERMS = 18  # the next one, 2 / 19!, is below the precision of float64


def exp_excess(x: jax.Array) -> jax.Array:
    """Computes exp(x) - 1 - x, elementwise, by its series for |x| < 1: no digits cancel."""
    near = jnp.abs(x) < 1
    small, large = jnp.where(near, x, 0.0), jnp.where(near, 1.0, x)
    series = jnp.ones_like(small)
    for k in range(TERMS, 2, -1):
        series = 1 + small / k * series
    return jnp.where(near, small**2 / 2 * series, jnp.exp(large) - 1 - large)


def log_excess(x: jax.Array) -> jax.Array:
    """Computes x - log(1 + x), elementwise for x > -1: no digits cancel near x = 0."""
    near = jnp.abs(x) < 0.5
    small, large = jnp.where(near, x, 0.0), jnp.where(near, 1.0, x)
    return jnp.where(near, exp_excess(jnp.log1p(small)), large - jnp.log1p(large))

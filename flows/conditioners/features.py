"""How networks see a coordinate: maps of x [...] to features [..., F]."""

import jax
import jax.numpy as jnp

SCALE = 5.0


def compressed(x: jax.Array) -> jax.Array:
    """SCALE * asinh(x / SCALE): x near the data, its logarithm far away.

    Without it the maps of sharp flows grow without bound outside the data: on the galaxy catalogue
    3 draws in 10,000 left it by far, and KL(teacher || student) of a distillation was 1e4 nats
    instead of 0.35, for 0.1 nats of likelihood.
    """
    return SCALE * jnp.arcsinh(x / SCALE)[..., None]


def circle(x: jax.Array) -> jax.Array:
    """The cosine and sine of an angle."""
    return jnp.stack([jnp.cos(x), jnp.sin(x)], axis=-1)

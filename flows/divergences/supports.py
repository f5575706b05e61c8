"""Where a distribution has mass: families of distrax and TFP whose `log_prob` does not say."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

POSITIVE = {
    "BetaQuotient", "Chi", "Chi2", "Exponential", "Gamma", "GammaGamma", "GeneralizedGamma",
    "InverseGamma", "InverseGaussian", "LogLogistic", "LogNormal", "NoncentralChi2", "Weibull",
}  # fmt: skip
UNIT = {"Beta", "Kumaraswamy", "LogitNormal"}


def same_space(p: Any, q: Any) -> None:
    """Raises if p and q are distributions over different things."""
    p_shape, q_shape = tuple(p.event_shape), tuple(q.event_shape)
    if p_shape != q_shape:
        raise ValueError(f"p and q must share an event shape, got {p_shape} and {q_shape}.")
    if is_circular(p) != is_circular(q):
        raise ValueError(
            "p and q must share a space, got one over angles, where x and x + 2 pi are the same "
            "point, and one over numbers, where they are not."
        )


def is_circular(dist: Any) -> bool:
    """Whether it is a density of angles, which is one over every interval of length 2 pi."""
    if type(dist).__name__ == "Independent":
        return is_circular(dist.distribution)
    return bool(getattr(dist, "is_circular", type(dist).__name__ == "VonMises"))


def log_prob(dist: Any, x: jax.Array) -> jax.Array:
    """Log of dist(x), and -inf off the support, where some families return NaN or worse.

    `tfd.Exponential(1.0).log_prob(-1.0)` is 1.0, for example, and that of a gamma NaN.
    """
    value = dist.log_prob(x)
    outside = _outside(dist, x)
    return value if outside is None else jnp.where(outside, -jnp.inf, value)


def _outside(dist: Any, x: jax.Array) -> jax.Array | None:
    """Which points lie off the support; None if the family is not known to need it."""
    for inner in ("components_distribution", "distribution"):
        if hasattr(dist, inner) and not hasattr(dist, "bijector"):
            below = getattr(dist, inner)
            outside = _outside(below, x)
            if outside is None:
                return None
            extra = len(dist.event_shape) - len(below.event_shape)
            return outside.any(axis=tuple(np.arange(-extra, 0)))
    name = type(dist).__name__
    if name in POSITIVE:
        return x < 0
    if name in UNIT:
        return (x < 0) | (x > 1)
    if name == "GeneralizedPareto":
        return x < dist.loc
    if name == "Multinomial":
        return x.sum(axis=-1) != dist.total_count
    if name == "Dirichlet":
        return (x < 0).any(axis=-1) | (jnp.abs(x.sum(axis=-1) - 1) > 1e-3)
    return None

"""Where a distribution has mass: families of distrax and TFP whose `log_prob` does not say."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

POSITIVE = {
    "BetaQuotient", "Chi", "Chi2", "Exponential", "Gamma", "GammaGamma", "GeneralizedGamma",
    "InverseGamma", "InverseGaussian", "LogLogistic", "LogNormal", "NoncentralChi2", "Weibull",
}  # fmt: skip
UNIT = {"Beta", "Kumaraswamy", "LogitNormal"}


DISCRETE = {
    "Bernoulli", "Binomial", "Categorical", "Geometric", "Multinomial", "NegativeBinomial",
    "OneHotCategorical", "Poisson",
}  # fmt: skip


def on_real_line(p: Any, q: Any) -> tuple[Any, Any]:
    """The two as they are on the real line, where they are flows of one support; else themselves.

    Divergences are the same there, and free of the rounding next to the ends of the support.

    Raises:
        ValueError: p and q are distributions over different things.
    """
    same_space(p, q)
    supports = [getattr(dist, "support", None) for dist in (p, q)]
    if supports[0] is None or supports[0] != supports[1] or p.is_discrete:
        return p, q
    if not all(hasattr(dist, "unconstrained") for dist in (p, q)):
        return p, q
    return p.unconstrained(), q.unconstrained()


def same_space(p: Any, q: Any) -> None:
    """Raises if p and q are distributions over different things."""
    p_shape, q_shape = tuple(p.event_shape), tuple(q.event_shape)
    if p_shape != q_shape:
        raise ValueError(f"p and q must share an event shape, got {p_shape} and {q_shape}.")
    if not comparable(p, q):
        raise ValueError(f"p and q must be over the same things, got {space(p)} and {space(q)}.")


def comparable(p: Any, q: Any) -> bool:
    """Whether p and q are both over numbers, or over integers, or over angles of one period."""
    first, second = space(p), space(q)
    if isinstance(first, str) and isinstance(second, str):
        return first == second
    one_each = lambda s, other: (s,) * len(other) if isinstance(s, str) else s
    return one_each(first, second) == one_each(second, first)


def space(dist: Any) -> Any:
    """What its events are: see `flows.distributions.Distribution.space`."""
    if type(dist).__name__ == "Independent":
        return space(dist.distribution)
    known = {"VonMises": f"angles of period {2 * math.pi:.9g}"}
    known |= dict.fromkeys(DISCRETE, "integers")
    return getattr(dist, "space", known.get(type(dist).__name__, "numbers"))


def ends(dist: Any) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest value of each coordinate [*batch, *event], -inf and inf for none.

    Raises:
        ValueError: The values of the coordinates depend on each other, as on a simplex.
    """
    shape = (*dist.batch_shape, *dist.event_shape)
    name = type(dist).__name__
    low: Any
    high: Any
    if name in POSITIVE or name in UNIT:
        low, high = 0.0, 1.0 if name in UNIT else np.inf
    elif hasattr(dist, "components_distribution"):
        axis = -1 - len(dist.event_shape)
        lows, highs = ends(dist.components_distribution)
        low, high = lows.min(axis=axis), highs.max(axis=axis)
    elif hasattr(dist, "low") and hasattr(dist, "high"):
        low, high = dist.low, dist.high
    elif hasattr(dist, "distribution") and not hasattr(dist, "bijector"):
        low, high = ends(dist.distribution)
    else:
        low, high = _ends_of_map(dist)
    low, high = (np.broadcast_to(np.asarray(end, float), shape) for end in (low, high))
    return low, high


def _ends_of_map(dist: Any) -> tuple[Any, Any]:
    """Where the map that makes the values coordinate by coordinate levels off, far out."""
    if hasattr(dist, "experimental_default_event_space_bijector"):
        bijector = dist.experimental_default_event_space_bijector()
        if bijector is None:
            return -np.inf, np.inf
        if bijector.inverse_event_shape(dist.event_shape) != dist.event_shape:
            raise ValueError(f"{dist.name} is over no product of intervals.")
        each = bijector.forward_min_event_ndims == 0
    else:
        bijector = getattr(dist, "bijector", None)
        each = getattr(bijector, "event_ndims_in", 1) == 0 or hasattr(bijector, "ndims")
    if bijector is None or not each:
        return -np.inf, np.inf
    shape = (*dist.batch_shape, *dist.event_shape)
    far = [-1e7, -1e6, 1e6, 1e7]
    ends_ = [np.asarray(bijector.forward(jnp.full(shape, value)), float) for value in far]
    first = np.where(ends_[0] == ends_[1], ends_[0], -np.inf)
    last = np.where(ends_[2] == ends_[3], ends_[3], np.inf)
    falling = ends_[1] > ends_[2]
    return (
        np.where(falling, np.where(np.isinf(last), -np.inf, last), first),
        np.where(falling, np.where(np.isinf(first), np.inf, first), last),
    )


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

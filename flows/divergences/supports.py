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
    "Bernoulli", "BetaBinomial", "Binomial", "Categorical", "DirichletMultinomial", "Geometric",
    "Multinomial", "NegativeBinomial", "OneHotCategorical", "Poisson", "Skellam", "Zipf",
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
    """Raises unless p and q are distributions over the same things."""
    for name, dist in (("p", p), ("q", q)):
        if not (hasattr(dist, "event_shape") and hasattr(dist, "log_prob")):
            raise TypeError(
                f"{name} must be a distribution of flows, distrax or TFP, got "
                f"{type(dist).__name__}: draws are compared by flows.divergences.samples."
            )
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
    if type(dist).__name__ in ("Independent", "Sample"):
        return space(dist.distribution)
    if hasattr(dist, "components_distribution"):
        return space(dist.components_distribution)
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
    low: Any = -np.inf
    high: Any = np.inf
    if name in POSITIVE or name in UNIT:
        low, high = 0.0, 1.0 if name in UNIT else np.inf
    elif hasattr(dist, "components_distribution"):
        axis = -1 - len(dist.event_shape)
        lows, highs = ends(dist.components_distribution)
        low, high = lows.min(axis=axis), highs.max(axis=axis)
    elif name == "Mixture":
        lows, highs = zip(*map(ends, dist.components), strict=True)
        low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    elif getattr(dist, "low", None) is not None and getattr(dist, "high", None) is not None:
        low, high = dist.low, dist.high
    elif name in ("Independent", "Sample"):
        low, high = ends(dist.distribution)
    elif hasattr(dist, "experimental_default_event_space_bijector"):
        try:
            bijector = dist.experimental_default_event_space_bijector()
            event_shape = None if bijector is None else bijector.inverse_event_shape(shape)
        except (NotImplementedError, TypeError, ValueError):
            bijector = None  # nobody knows
        if bijector is not None and event_shape != shape:
            raise ValueError(f"{dist.name} is over no product of intervals.")
        if bijector is not None and bijector.forward_min_event_ndims == 0:
            low, high = _image(bijector, np.full(shape, -np.inf), np.full(shape, np.inf))
    elif _is_elementwise(getattr(dist, "bijector", None)):
        low, high = _image(dist.bijector, *ends(dist.distribution))
    low, high = (np.broadcast_to(np.asarray(end, float), shape) for end in (low, high))
    return low, high


def _is_elementwise(bijector: Any) -> bool:
    """Whether a bijector of distrax maps coordinate by coordinate."""
    if hasattr(bijector, "bijectors"):
        return all(map(_is_elementwise, bijector.bijectors))
    return hasattr(bijector, "ndims") or getattr(bijector, "event_ndims_in", 1) == 0


def _image(bijector: Any, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a monotone map makes of the ends: where it levels off, far out, there is one."""
    image = lambda points: np.asarray(bijector.forward(jnp.asarray(points)), float)

    def end(of: np.ndarray, sign: float) -> tuple[np.ndarray, np.ndarray]:
        near, far = (image(np.where(np.isinf(of), sign * size, of)) for size in (1e6, 1e7))
        return far, np.isfinite(of) | (near == far)

    (first, first_is_end), (last, last_is_end) = end(low, -1), end(high, 1)
    falls = first > last
    least = np.where(falls, np.where(last_is_end, last, -np.inf), first)
    least = np.where(falls | first_is_end, least, -np.inf)
    largest = np.where(falls, np.where(first_is_end, first, np.inf), last)
    return least, np.where(falls | last_is_end, largest, np.inf)


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

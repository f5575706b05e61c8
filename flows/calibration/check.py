"""Checks an amortised posterior q(theta | x) on simulated pairs."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows import _checks, supports
from flows.calibration.report import CalibrationReport

LEAST_PAIRS, LEAST_DRAWS = 40, 10
BLOCK = 10_000  # draws at once
DISTANCES = 2**22  # numbers at once, between contexts
CLOSE = 100  # roundings between densities or distances that are taken for equal


def check_calibration(
    posterior: Any, theta: Any, context: Any = None, *, key: jax.Array, num_draws: int = 200
) -> CalibrationReport:
    r"""Checks an amortised posterior on pairs theta ~ prior, context ~ p(context | theta).

    Where q(theta | context) is the posterior, theta is one more draw of it, so that its place among
    `num_draws` others is uniform, whatever the places are made by:

    - by each parameter: ranks of simulation-based calibration (Talts et al. 2018,
      arXiv:1804.06788). They see the bias and width of single parameters. Not seen: what
      parameters have to do with one another, and whether the context is used at all.
    - by log q: coverage of highest-density regions (Hermans et al. 2022, arXiv:2110.06581). Sees
      regions that are too small or too large, missing correlations among them. Not seen: whether
      the context is used; nor, in one dimension, a bias small against the width.
    - by the distance to a reference point, in standard deviations of theta: TARP (Lemos et al.
      2023, arXiv:2302.03026). The point is the mirror image, in the mean of theta, of the theta of
      the pair with the nearest context. Points that do not depend on the context would miss a
      posterior that returns the prior, and the nearest theta itself, which is about a draw of
      the posterior, misses posteriors pulled towards the prior mean; from its mirror image both are
      seen. Not seen: what nearest contexts do not tell, as where a long context is mostly noise.

    None sees deviations smaller than the band, nor those that cancel over the prior (too wide for
    one context, too narrow for another), nor the far tails, nor that real data are unlike those of
    the simulator.

    Of an exact posterior at most 1 % of reports are not `calibrated`: each of the D + 2 p-values is
    compared with 0.01 / (D + 2). n pairs see coverages that are off by 2 / sqrt(n): 0.2 for 100
    pairs, 0.06 for 1,000; gaps by chance are up to 1.36 / sqrt(n), in 95 % of reports.

    Args:
        posterior: A conditional `flows.Flow` or `flows.Ensemble`; or independent draws of any
            posterior, [n, num_draws, D], of each of the contexts.
        theta: Draws of the prior [n, D], inside the flow's support. The pairs must not have been
            trained on, nor chosen by their theta.
        context: What was simulated from each [n, C]. Of draws it may be left out: the reference
            points then do not depend on it.
        key: Random key.
        num_draws: Draws of the flow for each pair, 10 or more.

    Returns:
        A `CalibrationReport`: print it, or `report.plot()`.

    Raises:
        TypeError: `posterior` is neither; theta or the context does not hold numbers.
        ValueError: Wrong shapes, rows that differ in number, fewer than 40 of them, non-finite
            values or theta outside of the support (the error names the row), or a flow without a
            context.

    Cost: n num_draws draws of the flow and their log densities, 10,000 at once, compiled once for
        each shape; and n^2 distances between contexts.

    Examples:
        >>> import flows, jax
        >>> from flax import nnx
        >>> theta, noise = jax.random.normal(jax.random.key(0), (2, 500, 2))
        >>> flow = flows.maf(2, context_size=2, num_layers=1, rngs=nnx.Rngs(0))  # N(0, 1)
        >>> report = flows.check_calibration(flow, theta, theta + noise, key=jax.random.key(1))
        >>> bool(report.p_values.min() > 0.01), bool(report.tarp_p_value < 1e-6), report.calibrated
        (True, True, False)
    """
    key = _checks.prng_key("key", key)
    names = _names(theta)
    is_flow = hasattr(posterior, "condition")
    if is_flow:
        num_draws = _checks.positive_int("num_draws", num_draws, least=LEAST_DRAWS)
        _require_conditional(posterior, context)
        size, context_size = posterior.event_size, posterior.context_size
    else:
        posterior = _draws("posterior", posterior)
        (_, num_draws, size), context_size = posterior.shape, None
    of_integers = not is_flow or posterior.is_discrete
    theta = _checks.table("theta", theta, size, integers=of_integers, constants=False)
    if len(theta) < LEAST_PAIRS:
        raise ValueError(f"theta must have at least {LEAST_PAIRS} rows, got {len(theta)}.")
    reference_key, draw_key, tie_key = jax.random.split(key, 3)
    if context is None:  # nearest is then any
        context = jax.random.uniform(reference_key, (len(theta), 1))
    context = _checks.table("context", context, context_size, integers=True)
    _checks.same_length("context", context, "theta", theta)
    reference = _references(theta, context, reference_key)
    if is_flow:
        supports.require_inside("theta", np.asarray(theta), posterior.support)
        places = _among_draws_of(posterior, theta, context, reference, draw_key, num_draws)
    else:
        _checks.same_length("posterior", posterior, "theta", theta)
        places = _among(posterior, theta, reference)
    below, ties, num_bad = (np.asarray(place) for place in places)
    tie = np.asarray(jax.random.uniform(tie_key, below.shape), np.float64)
    positions = below + tie * (ties + 1)
    levels = positions / (num_draws + 1)
    return CalibrationReport(
        names=names or tuple(f"theta[{i}]" for i in range(size)),
        ranks=np.minimum(positions.astype(int), num_draws)[:, :size],
        hpd_levels=levels[:, size + 1] if is_flow else None,
        tarp_levels=levels[:, size],
        num_draws=num_draws,
        num_non_finite=int(num_bad.sum()),
    )


def _names(theta: Any) -> tuple[str, ...]:
    """The names of the columns of a frame; none of an array."""
    return tuple(str(name) for name in theta.columns) if _checks.is_frame(theta) else ()


def _require_conditional(posterior: Any, context: Any) -> None:
    if posterior.context_size is None:
        raise ValueError(
            "posterior must be a conditional flow, built with context_size=..., and not yet bound "
            "by condition(): this one takes no context."
        )
    _checks.context_wanted("context", context is not None, posterior.context_size)


def _draws(name: str, value: Any) -> jax.Array:
    """Draws [n, L, D]; they need not be finite."""
    draws = np.asarray(value)
    if draws.dtype == object:
        raise TypeError(
            f"{name} must be a conditional flow (of a fit, its .flow) or draws [n, draws, D], got "
            f"a {type(value).__name__}."
        )
    _checks.numbers(name, draws)
    if draws.ndim != 3 or draws.shape[1] < LEAST_DRAWS:
        raise ValueError(
            f"{name} as draws must have shape [n, draws, D] with {LEAST_DRAWS} draws or more, got "
            f"shape {draws.shape}."
        )
    return jnp.asarray(draws, jnp.result_type(float))


@jax.jit
def _references(theta: jax.Array, context: jax.Array, key: jax.Array) -> jax.Array:
    """The reference point of each pair [n, D].

    The nearest context is looked for among the pairs that are later in a random order. So no two
    pairs refer to one another, even in turns (but for the last, which takes the first), and levels
    are independent.
    """
    order = jax.random.permutation(key, len(theta))
    scale = context.std(axis=0)
    context = ((context - context.mean(axis=0)) / jnp.where(scale > 0, scale, 1.0))[order]
    place = jnp.arange(len(theta))

    def nearest(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        squared = ((context - row[1]) ** 2).sum(axis=-1)
        return jnp.where(place > row[0], squared, jnp.inf).argmin()

    batch_size = max(1, DISTANCES // context.size)
    found = jax.lax.map(nearest, (place, context), batch_size=batch_size)
    mirrored = 2 * theta.mean(axis=0) - theta[order][found]
    return jnp.zeros_like(theta).at[order].set(mirrored)


@functools.partial(jax.jit, static_argnames=("num_draws",))
def _among_draws_of(
    posterior: Any,
    theta: jax.Array,
    context: jax.Array,
    reference: jax.Array,
    key: jax.Array,
    num_draws: int,
) -> Any:
    """Where each pair's theta is among draws of the flow: see `_place`."""
    scale = theta.std(axis=0)

    def of_block(block: tuple[jax.Array, ...]) -> Any:
        i, theta, context, reference = block
        bound = posterior.condition(context)
        draws = bound.sample(seed=jax.random.fold_in(key, i[0]), sample_shape=(num_draws,))
        points = jnp.concatenate([theta[None], draws])
        offsets = (points - reference) / scale
        return jax.vmap(_place, in_axes=1)(points, offsets, bound.log_prob(points))

    size = min(len(theta), max(1, BLOCK // num_draws))
    rows = (jnp.arange(-(-len(theta) // size) * size) % len(theta)).reshape(-1, size)
    places = jax.lax.map(of_block, (rows, theta[rows], context[rows], reference[rows]))
    whole = lambda of_blocks: of_blocks.reshape(-1, *of_blocks.shape[2:])[: len(theta)]
    return jax.tree.map(whole, places)


@jax.jit
def _among(draws: jax.Array, theta: jax.Array, reference: jax.Array) -> Any:
    """Where each theta [n, D] is among its draws [n, L, D]: see `_place`."""
    points = jnp.concatenate([theta[:, None], draws], axis=1)
    offsets = (points - reference[:, None]) / theta.std(axis=0)
    return jax.vmap(functools.partial(_place, log_q=None))(points, offsets)


def _place(points: jax.Array, offsets: jax.Array, log_q: jax.Array | None) -> Any:
    """Where the first of the points [L + 1, D] is among the others.

    In each coordinate, in its distance from a reference, and in -log q, where that is known.

    Returns:
        How many others are below it [D + 2], and how many are equal [D + 2], but for rounding; and
        how many points are not finite. A NaN counts as above.
    """
    distance = jnp.sqrt((offsets**2).sum(axis=-1, keepdims=True))
    places = [points, distance] if log_q is None else [points, distance, -log_q[:, None]]
    first, others = jnp.split(jnp.concatenate(places, axis=1), [1])
    size = points.shape[1]
    slack = jnp.abs(first).at[:, :size].set(0.0).at[:, size + 1 :].add(1.0)
    slack = jnp.where(jnp.isfinite(first), CLOSE * jnp.finfo(first.dtype).eps * slack, 0.0)
    equal = (jnp.abs(others - first) <= slack) | (others == first)
    below = (others < first) & ~equal
    bad = ~jnp.isfinite(jnp.concatenate(places, axis=1)).all(axis=1)
    return below.sum(axis=0), equal.sum(axis=0), bad.sum()

"""Neural spline flows, on R^D and on the torus."""

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx

from flows import _checks
from flows.architectures.autoregressive import maf
from flows.architectures.base import standardized_context
from flows.architectures.coupling import real_nvp
from flows.bijectors import Chain, CircularSpline, RationalQuadraticSpline, Wrap
from flows.conditioners import circle
from flows.distributions import CircularUniform, Distribution, Flow


def nsf(
    event_size: int,
    *,
    autoregressive: bool = False,
    num_bins: int = 8,
    bound: float = 5.0,
    rngs: nnx.Rngs,
    **options: Any,
) -> Flow:
    r"""Neural spline flow: `real_nvp`, or `maf`, with rational-quadratic splines for T.

    Source: Durkan et al. 2019, arXiv:1906.04032.

    Cost: that of `real_nvp` (both directions parallel) or of `maf`, with 3 num_bins - 1 parameters
    for each coordinate instead of two.

    Args:
        event_size: Size of the vectors. 1 is allowed: the density of a number, which may depend on
            the context.
        autoregressive: Whether the layers are those of `maf` instead of `real_nvp`.
        num_bins: Pieces of each spline.
        bound: Where the splines end and the identity begins, in units of the noise: give
            `standardize_with`, or data of about unit scale.
        rngs: Source of the initial weights, e.g. `nnx.Rngs(0)`.
        **options: All others of `real_nvp` or `maf`: `num_layers`, `context_size`,
            `standardize_with`, `hidden_sizes` and so on.

    Example:
        >>> import flows, jax
        >>> from flax import nnx
        >>> flow = flows.nsf(3, num_layers=2, rngs=nnx.Rngs(0))
        >>> flow.sample(seed=jax.random.key(0), sample_shape=(5,)).shape
        (5, 3)
    """
    architecture = maf if autoregressive else real_nvp
    spline = RationalQuadraticSpline(num_bins, bound)
    return architecture(event_size, transformer=spline, rngs=rngs, **options)


def ncsf(
    event_size: int,
    *,
    autoregressive: bool = False,
    num_bins: int = 8,
    base: Distribution | None = None,
    standardize_with: Any = None,
    rngs: nnx.Rngs,
    **options: Any,
) -> Flow:
    r"""Neural circular spline flow: a density of angles in radians, on the torus.

    Layers are those of `nsf` with circular splines, and networks that see sine and cosine; the
    base is uniform. x and x + 2 pi have the same density; draws lie in [-pi, pi).

    Source: Rezende et al. 2020, arXiv:2002.02428.

    Cost: as `nsf`.

    Args:
        event_size: Number of angles.
        autoregressive: Whether the layers are those of `maf` instead of `real_nvp`.
        num_bins: Pieces of each spline.
        base: Distribution of the noise; it must have the period 2 pi.
            `flows.CircularUniform(event_size)` by default.
        standardize_with: A pair (angles, context), for the context to be standardised, or angles,
            which are checked only: all their values must fit into one turn. Either may be None.
        rngs: Source of the initial weights, e.g. `nnx.Rngs(0)`.
        **options: All others of `real_nvp` or `maf`: `num_layers`, `context_size` and so on.

    Raises:
        ValueError: The values of a column of `standardize_with` span more than 2 pi, or the base
            is not over angles.

    Example:
        >>> import flows, jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> flow = flows.ncsf(2, num_layers=2, rngs=nnx.Rngs(0))
        >>> x = jnp.array([0.1, -2.0])
        >>> bool(jnp.allclose(flow.log_prob(x + 2 * jnp.pi), flow.log_prob(x), atol=1e-5))
        True
    """
    architecture = maf if autoregressive else real_nvp
    return on_circle(
        architecture, event_size, num_bins=num_bins, base=base, standardize_with=standardize_with,
        rngs=rngs, **options,
    )  # fmt: skip


def on_circle(
    architecture: Callable[..., Flow],
    event_size: int,
    *,
    num_bins: int = 8,
    base: Distribution | None = None,
    standardize_with: Any = None,
    rngs: nnx.Rngs,
    **options: Any,
) -> Flow:
    """A flow of angles with the layers of any architecture; arguments are those of `ncsf`."""
    flow = architecture(
        event_size,
        transformer=CircularSpline(num_bins),
        base=CircularUniform(event_size) if base is None else base,
        features=circle,
        rngs=rngs,
        **options,
    )
    if not flow.base.is_circular:
        raise ValueError(
            f"base must be over angles, such as flows.CircularUniform({event_size}), got "
            f"{flow.base.name}."
        )
    angles, context = _checks.pair("standardize_with", standardize_with)
    if angles is not None:
        _require_one_turn(np.asarray(angles), event_size)
    return Flow(flow.base, Chain([Wrap(event_size), standardized_context(flow.bijector, context)]))


def _require_one_turn(angles: np.ndarray, event_size: int) -> None:
    _checks.inspect_table("standardize_with", angles, event_size, integers=True)
    span = (angles.max(axis=0).astype(float) - angles.min(axis=0).astype(float)).max()
    if span > 2 * np.pi * (1 + 1e-6):
        raise ValueError(
            f"standardize_with has angles that span {span:.4g}, more than one turn: ncsf takes "
            "radians."
        )

"""Neural spline flows on the torus, and of tables with angles in some of the columns."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from flows import _checks, supports
from flows.architectures.autoregressive import maf
from flows.architectures.base import require_one_turn
from flows.architectures.coupling import real_nvp
from flows.architectures.splines import affine_spline
from flows.bijectors import Blocks, CircularSpline
from flows.conditioners import circle
from flows.distributions import CircularUniform, Distribution, Flow, Product


def ncsf(
    event_size: int,
    *,
    autoregressive: bool = False,
    num_bins: int = 8,
    base: Distribution | None = None,
    rngs: nnx.Rngs,
    **options: Any,
) -> Flow:
    r"""Neural circular spline flow: a density of angles, on the torus.

    Layers are those of `nsf` with circular splines, and networks that see sine and cosine; the
    base is uniform. x and x + period have the same density. Angles are in radians, and draws lie
    in [-pi, pi), unless `support=flows.supports.circle(period, start)` says otherwise. Where only
    some columns are circles the others get an `nsf` given the angles.

    Source: Rezende et al. 2020, arXiv:2002.02428.

    Cost: as `nsf`.

    Args:
        event_size: Number of angles, or of columns.
        autoregressive: Whether the layers are those of `maf` instead of `real_nvp`.
        num_bins: Pieces of each spline.
        base: Distribution of the noise; it must have the period 2 pi.
            `flows.CircularUniform(event_size)` by default. None where some columns are no angles.
        rngs: Source of the initial weights, e.g. `nnx.Rngs(0)`.
        **options: All others of `real_nvp` or `maf`: `num_layers`, `context_size` and so on. Of
            `standardize_with`, a pair (angles, context), the context is standardised, and the
            angles are checked only: they must fit into one turn. Either may be None, but not the
            rows where some columns are no angles.

    Raises:
        ValueError: The values of a column of `standardize_with` span more than a turn, or the base
            or the support is not over angles.

    Examples:
        >>> import flows, jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> flow = flows.ncsf(2, num_layers=2, rngs=nnx.Rngs(0))
        >>> x = jnp.array([0.1, -2.0])
        >>> bool(jnp.allclose(flow.log_prob(x + 2 * jnp.pi), flow.log_prob(x), atol=1e-5))
        True
    """
    architecture = maf if autoregressive else real_nvp
    return on_circle(architecture, event_size, num_bins=num_bins, base=base, rngs=rngs, **options)


def on_circle(
    architecture: Callable[..., Flow],
    event_size: int,
    *,
    num_bins: int = 8,
    base: Distribution | None = None,
    support: Any = supports.ANGLES,
    rngs: nnx.Rngs,
    **options: Any,
) -> Flow:
    """A flow of angles with the layers of any architecture; arguments are those of `ncsf`."""
    columns = supports.of_columns(support, _checks.positive_int("event_size", event_size))
    if columns is None:
        raise ValueError("support must have a circle, for a flow over angles: see flows.nsf.")
    circular = supports.of_kind(columns, "circle")
    if circular.any() and not circular.all():
        return _beside_numbers(architecture, columns, num_bins, base, rngs, **options)
    return architecture(
        event_size,
        transformer=CircularSpline(num_bins),
        base=CircularUniform(event_size) if base is None else base,
        features=circle,
        support=columns,
        rngs=rngs,
        **options,
    )


def _beside_numbers(
    architecture: Callable[..., Flow],
    columns: supports.Columns,
    num_bins: int,
    base: Distribution | None,
    rngs: nnx.Rngs,
    *,
    context_size: int | None = None,
    standardize_with: Any = None,
    **options: Any,
) -> Flow:
    """p(angles) p(numbers | cosines and sines of the angles): two flows, given as one."""
    if base is not None:
        raise ValueError("base must be None where some columns are angles and some are not.")
    circular = supports.of_kind(columns, "circle")
    angles, others = np.flatnonzero(circular).tolist(), np.flatnonzero(~circular).tolist()
    take = lambda where: tuple(columns[i] for i in where)
    x, context = _checks.pair("standardize_with", standardize_with)
    with_angles = with_others = None
    if x is None and context is not None:
        raise ValueError("standardize_with must hold rows x, where some columns are no angles.")
    if x is not None:
        x = _checks.array("standardize_with", x)
        _checks.inspect_table("standardize_with", x, len(columns), integers=True)
        supports.require_inside("standardize_with", x, columns)
        require_one_turn(x, columns)
        with_angles = (x[:, angles], context)
        turned, _ = supports.to_real(take(angles), jnp.asarray(x[:, angles], float))
        seen = np.asarray(circle(turned)).reshape(len(x), -1)
        if context is not None:
            seen = np.concatenate([seen, _checks.array("standardize_with[1]", context)], axis=1)
        with_others = (x[:, others], seen)
    first = on_circle(
        architecture, len(angles), num_bins=num_bins, support=take(angles), rngs=rngs,
        context_size=context_size, standardize_with=with_angles, **options,
    )  # fmt: skip
    second = architecture(
        len(others),
        transformer=affine_spline(num_bins),
        support=take(others),
        context_size=2 * len(angles) + (context_size or 0),
        standardize_with=with_others,
        rngs=rngs,
        **options,
    )
    return Flow(
        Product(angles, first.base, second.base),
        Blocks(angles, first.bijector, second.bijector, circle),
        columns,
    )

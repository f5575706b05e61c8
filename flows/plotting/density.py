"""Maps of distributions of two columns."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from flows.plotting.canvas import COLOURS, SMALL, panel, require, wrapped
from flows.plotting.points import level_holding, names_for, read

NUM_CELLS = 150  # along each axis
NUM_DRAWS = 2_000  # that say where the flow is
CUT, MARGIN = 0.005, 0.1  # of the points outside of the picture, and of the range around them
MOST_POINTS = 2_000  # of the cloud
PEAK = 0.01  # of the mass, which may all have the darkest colour


def density(
    flow: Any,
    *,
    samples: Any = None,
    names: Sequence[str] | None = None,
    bounds: Any = None,
    axis: Axes | None = None,
) -> Axes:
    """Map of the density of a distribution of two columns, and points on it.

    Args:
        flow: A distribution over R^2 with `log_prob`; a conditional flow bound to one context,
            `flow.condition(context)`.
        samples: Points [n, 2] to lay over it, an array, a frame or {label: either}; of more than
            2,000 as many are shown, evenly taken.
        names: Names of the two columns; by default those of the frame.
        bounds: The picture, ((x_low, x_high), (y_low, y_high)); by default 99 % of the points, or
            without any of draws of the flow, and a tenth more.
        axis: Axis to draw on.

    Returns:
        The axis. The peaks with 1 % of the mass have the darkest colour; where the log density is
        NaN there is none.

    Raises:
        ValueError: The distribution has not two columns, is a batch of them, or has integer
            columns; or points, names or bounds are not as they must be.

    Cost: `log_prob` of 22,500 points, at once.

    Examples:
        >>> import flows
        >>> axis = flows.plotting.density(flows.StandardNormal(2), bounds=((-2, 2), (-3, 3)))
        >>> axis.get_xlabel(), axis.get_ylabel()
        ('x0', 'x1')
    """
    _require_plane(flow)
    cloud, label = None, ""
    if samples is None:
        labels = names_for(2, names)
    else:
        sets, labels = read("samples", samples, names, num_columns=2)
        if len(sets) != 1:
            raise ValueError(f"samples must be one set of points, got {len(sets)}.")
        [(label, cloud)] = sets.items()
    edges = [np.linspace(low, high, NUM_CELLS + 1) for low, high in _picture(flow, cloud, bounds)]
    centres = np.meshgrid(*[(of[1:] + of[:-1]) / 2 for of in edges])
    log_prob = np.asarray(flow.log_prob(jnp.stack(centres, axis=-1)), np.float64)
    with np.errstate(over="ignore"):
        values = np.ma.masked_invalid(np.exp(log_prob))
    axis = panel(axis)
    peak = level_holding(PEAK, values.filled(0.0)) or 1.0
    axis.pcolormesh(*edges, values, cmap="Blues", vmin=0.0, vmax=peak, rasterized=True)
    if cloud is not None:
        some = cloud[:: -(-len(cloud) // MOST_POINTS)]
        style: dict[str, Any] = {"color": COLOURS[1], "alpha": 0.6, "linewidths": 0}
        axis.scatter(some[:, 0], some[:, 1], s=4, label=label, rasterized=True, **style)
        if label:
            axis.legend(loc="upper right", fontsize=SMALL["fontsize"])
    axis.set(xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]])
    axis.set(xlabel=wrapped(labels[0]), ylabel=wrapped(labels[1]))
    return axis


def _require_plane(flow: Any) -> None:
    require("flow", flow, "log_prob", "a distribution with log_prob, of a fit its .flow")
    shapes = tuple(flow.batch_shape), tuple(flow.event_shape)
    if shapes != ((), (2,)):
        raise ValueError(
            "flow must be one distribution of two columns, got batch shape {} and event shape {}: "
            "bind one context by flow.condition(context).".format(*shapes)
        )
    if getattr(flow, "is_discrete", False):
        raise ValueError(
            "flow has integer columns, which have no density: pass flow.dequantized(), that of "
            "x + u with u uniform on [0, 1)."
        )


def _picture(flow: Any, cloud: np.ndarray | None, bounds: Any) -> np.ndarray:
    """The ends of both axes [2, 2]."""
    if bounds is not None:
        ends = np.asarray(bounds, np.float64)
        if ends.shape != (2, 2) or not np.isfinite(ends).all() or (ends[:, 0] >= ends[:, 1]).any():
            raise ValueError(
                f"bounds must be ((x_low, x_high), (y_low, y_high)), finite, got {bounds!r}."
            )
        return ends
    if cloud is None:
        draws = flow.sample(seed=jax.random.key(0), sample_shape=(NUM_DRAWS,))
        [cloud] = read("draws of flow", draws, None).sets.values()
    low, high = np.quantile(cloud, [CUT, 1 - CUT], axis=0)
    room = MARGIN * np.where(high > low, high - low, np.maximum(np.abs(low), 1.0))
    return np.stack([low - room, high + room], axis=1)

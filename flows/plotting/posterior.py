"""What a variational posterior shows."""

from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flows import _checks
from flows._pareto import pareto_smoothed
from flows.plotting.canvas import COLOURS, SMALL, grid, headline, panel, panels, require
from flows.plotting.losses import QUANTITIES, draw_curves
from flows.plotting.points import edges

NUM_BINS = 60


def weights(log_weights: Any, *, axis: Axes | None = None) -> Axes:
    """Histogram of log importance weights, with their effective sample size and k-hat.

    Args:
        log_weights: log p - log q at independent draws of q [n], up to a constant, such as
            `posterior.log_weights(seed=key)`.
        axis: Axis to draw on.

    Returns:
        The axis: how many draws have which weight, in nats above the mean weight. Where q is p all
        are at zero; a few far to the right carry the weight of all others. The title tells of
        weights that are zero, or not numbers, which have no place in the histogram.

    Raises:
        TypeError: They are no numbers.
        ValueError: They are not [n], or none is finite.

    Examples:
        >>> import flows, numpy as np
        >>> flows.plotting.weights(np.zeros(1000)).get_title()
        'ESS 1,000 of 1,000, k-hat -inf'
    """
    values = np.asarray(log_weights)
    _checks.numbers("log_weights", values)
    if values.ndim != 1:
        raise ValueError(f"log_weights must have shape [n], got {values.shape}.")
    values = values.astype(np.float64)
    khat = pareto_smoothed(values)[1]
    finite = values[np.isfinite(values)]
    scaled = np.exp(finite - finite.max())
    mean = np.log(scaled.sum() / (values < np.inf).sum()) + finite.max()
    ess = scaled.sum() ** 2 / (scaled**2).sum()
    axis = panel(axis)
    counts, bins = np.histogram(finite - mean, edges(finite - mean, NUM_BINS, cut=0.0))
    axis.stairs(counts, bins, color=COLOURS[0], fill=True, alpha=0.8)
    axis.axvline(0, color="0.4", linewidth=0.8, linestyle="--")
    axis.set(yscale="log", ylim=(0.5, None))
    axis.set(xlabel="log weight, less that of the mean (nats)", ylabel="draws")
    others = {"of weight zero": np.isneginf(values).sum(), "no numbers": (~(values < np.inf)).sum()}
    said = [f"ESS {ess:,.0f} of {len(values):,}, k-hat {khat:.2f}"]
    said += [f"{number:,} {what}" for what, number in others.items() if number]
    axis.set_title("\n".join(said), fontsize=10)
    return axis


def posterior(posterior: Any, *, seed: jax.Array, axes: Any = None) -> Figure:
    """How the ELBO rose, and the importance weights of 10,000 draws.

    Args:
        posterior: A `flows.Posterior`.
        seed: Random key.
        axes: Two axes to draw on.

    Returns:
        The figure: the ELBO at each step, up to the log evidence, and `weights`.

    Raises:
        TypeError: It is no posterior, or the seed no key.
        ValueError: The axes are not two.
    """
    require("posterior", posterior, "log_weights", "what flows.fit_posterior returns")
    log_weights = posterior.log_weights(seed=seed)
    shown = panels(axes, grid(2, 2))
    draw_curves(shown[0], {"elbo": posterior.history["elbo"]}, QUANTITIES["elbo"])
    evidence = float(posterior.diagnostics.log_evidence.value)
    shown[0].axhline(evidence, linestyle="--", color="0.4", label=f"log evidence {evidence:.4g}")
    shown[0].legend(**SMALL)
    weights(log_weights, axis=shown[1])
    if axes is None:
        headline(shown, f"verdict: {posterior.diagnostics.verdict}")
    return shown[0].figure

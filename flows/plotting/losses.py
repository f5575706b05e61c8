"""Curves of training."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flows.plotting.canvas import COLOURS, SMALL, grid, panels

OF_EPOCHS = ("train", "validation")  # all others have a value for each step
QUANTITIES = {
    "elbo": "ELBO (nats)",
    "cross_entropy": "cross-entropy (nats)",
    "warm_start": "loss of the warm start (nats)",
    "polish": "KL in both directions (nats)",
}
MOST_SHOWN = 200  # medians of a curve
BEGINNING, FAR = 0.1, 4  # a tenth of a curve is not shown if without it the range is a fourth


class _Panel(NamedTuple):
    title: str
    quantity: str
    curves: dict[str, np.ndarray]


def losses(results: Any, *, axes: Any = None) -> Figure:
    """What was minimised in training, by epochs or by steps.

    Curves "train" and "validation" have a value for each epoch, all others one for each step: so
    are the histories of `flows.fit`, `flows.fit_posterior`, `flows.distill` and
    `flows.training.train`.

    Args:
        results: What one of them returned; or several results, or their `.history`, by title.
        axes: Axes to draw on, as many as there are panels.

    Returns:
        The figure, with a panel for each quantity of each result. Validation is marked where it is
        lowest. Of more than 400 steps medians are shown, over as many as the axis says; the first
        tenth of a curve lies outside of the picture if it is far from the rest.

    Raises:
        TypeError: There is something that has no history.
        ValueError: There is nothing to show, or the axes are too few or many.

    Examples:
        >>> import flows
        >>> maf = {"train": [3.0, 2.0, 1.0], "validation": [3.0, 1.5, 2.0]}
        >>> figure = flows.plotting.losses({"MAF": maf})
        >>> figure.axes[0].get_xlabel(), figure.axes[0].get_legend().texts[-1].get_text()
        ('epoch', 'lowest: epoch 2')
    """
    named = results if isinstance(results, Mapping) else {"": results}
    shown = [panel for title, result in named.items() for panel in _panels_of(title, result)]
    if not shown:
        raise ValueError("results must have curves in their history, got none.")
    axes = panels(axes, grid(len(shown), 2))
    for axis, (title, quantity, curves) in zip(axes, shown, strict=True):
        draw_curves(axis, curves, quantity)
        axis.set_title(title, fontsize=10)
    return axes[0].figure


def _panels_of(title: str, result: Any) -> list[_Panel]:
    """The curves of a result, those of one quantity together."""
    history = getattr(result, "history", result)
    if not isinstance(history, Mapping) or not all(np.ndim(of) == 1 for of in history.values()):
        raise TypeError(
            "results must be a result with a .history, such as that of flows.fit, or several of "
            f"them by title, got {type(result).__name__}{f' for {title!r}' if title else ''}."
        )
    of_epochs = "negative log-likelihood (nats)" if hasattr(result, "held_out") else "loss (nats)"
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, curve in history.items():
        if len(curve) or name not in OF_EPOCHS:
            quantity = QUANTITIES.get(name, of_epochs)
            found.setdefault(quantity, {})[name] = np.asarray(curve, np.float64)
    return [_Panel(str(title), quantity, curves) for quantity, curves in found.items()]


def draw_curves(axis: Axes, curves: Mapping[str, np.ndarray], quantity: str) -> None:
    """Draws curves of one quantity by name, and marks where validation is lowest."""
    unit = "epoch" if all(name in OF_EPOCHS for name in curves) else "step"
    width = max(1, *(len(values) // MOST_SHOWN for values in curves.values()))
    shown = []
    for (name, values), colour in zip(curves.items(), COLOURS, strict=False):
        blocks = values[: len(values) // width * width].reshape(-1, width)
        medians = np.ma.median(np.ma.masked_invalid(blocks), axis=1).filled(np.nan)
        marker = "o" if len(medians) < 30 else ""
        at = width * (np.arange(len(medians)) + 1)
        axis.plot(at, medians, marker=marker, markersize=3, color=colour, label=name)
        shown.append(medians)
    _limit(axis, shown)
    axis.set_xlabel(f"{unit} (medians of {width})" if width > 1 else unit)
    axis.set_ylabel(quantity)
    validation = curves.get("validation", np.zeros(0))
    if np.isfinite(validation).any():
        best = int(np.nanargmin(validation)) + 1
        axis.axvline(best, linestyle=":", color="0.4", label=f"lowest: epoch {best}")
    if len(axis.get_legend_handles_labels()[0]) > 1:
        axis.legend(**SMALL)


def _limit(axis: Axes, curves: list[np.ndarray]) -> None:
    """A logarithmic axis where values span decades, or one without a beginning far off."""
    late = [curve[int(BEGINNING * len(curve)) :] for curve in curves]
    known, later = (of[np.isfinite(of)] for of in map(np.concatenate, (curves, late)))
    if len(known) > 10 and known.min() > 0 and np.ptp(known) > 30 * known.min():
        axis.set_yscale("log")
    elif len(later) and np.ptp(known) > FAR * np.ptp(later) > 0:
        room = 0.08 * np.ptp(later)
        axis.set_ylim(later.min() - room, later.max() + room)

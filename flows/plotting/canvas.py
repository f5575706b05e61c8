"""What figures are drawn on: axes that are given, or those of a new figure."""

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#1b4f72", "#d35400", "#1e8449", "#7d3c98", "#b7950b", "#c2185b")
BAND = "0.9"  # what chance explains
PANEL = (3.4, 3.1)  # inches: two beside one another can be read on a phone
SMALL: dict[str, Any] = {"fontsize": 9, "frameon": False}  # of legends
NAME_WIDTH = 18  # characters of a line; names have two lines, or three


class OnceShown(Figure):
    """A figure that a notebook shows once, whether or not it ends a cell.

    A notebook shows what a cell returns, and then what pyplot holds: after the one not the other.
    Windows of other backends stay open.
    """

    def _ipython_display_(self) -> None:
        if "inline" in plt.get_backend():
            plt.close(self)
        raise NotImplementedError  # shown as others are


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """A figure of so many inches."""
    return plt.figure(figsize=(width, height), FigureClass=OnceShown, **options)


def panel(axis: Axes | None) -> Axes:
    """The axis, or that of a new figure.

    Raises:
        TypeError: It is no axis of matplotlib.
    """
    if axis is None:
        return new_figure(4.6, 3.8, layout="constrained").subplots()
    return _axis("axis", axis)


def panels(axes: Any, places: Any, size: tuple[float, float] = PANEL) -> list[Any]:
    """The axes, or those of a new figure.

    Args:
        axes: Axes that are given, in an array or a sequence; or None.
        places: Which panel is where, an array [rows, columns] of 0, 1, ..; -1 where there is none.
        size: Width and height of a place in inches.

    Raises:
        TypeError: They are no axes of matplotlib.
        ValueError: They are not as many as there are panels.
    """
    places = np.asarray(places)
    number = places.max() + 1
    if axes is None:
        rows, columns = places.shape
        figure = new_figure(columns * size[0], rows * size[1], layout="constrained")
        by_place = figure.subplot_mosaic(places.tolist(), empty_sentinel=-1)
        return [by_place[i] for i in range(number)]
    given = list(np.asarray(axes, object).ravel())
    if len(given) != number:
        raise ValueError(f"axes must be {number} matplotlib Axes, got {len(given)}.")
    return [_axis(f"axes[{i}]", axis) for i, axis in enumerate(given)]


def grid(number: int, most_columns: int) -> np.ndarray:
    """Places of so many panels, row by row.

    Examples:
        >>> from flows.plotting.canvas import grid
        >>> grid(5, 3).tolist()
        [[0, 1, 2], [3, 4, -1]]
    """
    columns = min(number, most_columns)
    places = np.full((-(-number // columns), columns), -1)
    places.flat[:number] = np.arange(number)
    return places


def headline(axes: list[Any], text: str) -> None:
    """Writes a line above all panels of a figure."""
    figure = axes[0].figure
    width = int(13 * figure.get_figwidth())  # characters
    figure.suptitle(textwrap.fill(text, width), fontsize=10)


def wrapped(name: Any) -> str:
    """A name in lines that fit a panel; one with formulas is left as it is.

    Examples:
        >>> from flows.plotting.canvas import wrapped
        >>> print(wrapped("photometric redshift"))
        photometric
        redshift
    """
    text, most = str(name), 2 * NAME_WIDTH
    if "$" in text:
        return text
    return textwrap.fill(text if len(text) <= most else f"{text[: most - 1]}…", NAME_WIDTH)


def require(name: str, value: Any, attribute: str, wanted: str) -> None:
    """Raises unless a value has what is to be shown of it."""
    if not hasattr(value, attribute):
        raise TypeError(f"{name} must be {wanted}, got a {type(value).__name__}.")


def _axis(name: str, value: Any) -> Axes:
    if not isinstance(value, Axes):
        raise TypeError(f"{name} must be a matplotlib Axes, got a {type(value).__name__}.")
    return value

"""Levels that are uniform on [0, 1] where a distribution is right: how far they are from that."""

import numpy as np
import scipy.special

FALSE_ALARMS = 0.01  # of all tests of one report or figure together


def p_value(levels: np.ndarray, number: float | None = None) -> float:
    """Kolmogorov-Smirnov test of uniform levels [n] (Stephens 1970, J. R. Stat. Soc. B 32).

    Args:
        levels: The levels.
        number: What counts for n, where levels have errors in common.
    """
    number = len(levels) if number is None else number
    return float(scipy.special.kolmogorov(abs(gap(levels)[0]) * _stephens(number)))


def largest_gap(p_value: float, number: float) -> float:
    """The gap of so many levels that has this p-value."""
    return float(scipy.special.kolmogi(p_value) / _stephens(number))


def _stephens(n: float) -> float:
    return n**0.5 + 0.12 + 0.11 / n**0.5


def gap(levels: np.ndarray) -> tuple[float, float]:
    """Where the coverage of levels [n] is furthest from uniform: by how much, and at which level.

    Examples:
        >>> import numpy as np
        >>> from flows._levels import gap
        >>> gap(np.array([0.1, 0.2, 0.3, 0.4]))
        (0.6, 0.4)
    """
    ordered = np.sort(levels)
    steps = np.arange(len(ordered) + 1) / len(ordered)
    gaps = np.concatenate([steps[1:] - ordered, steps[:-1] - ordered])
    worst = int(np.abs(gaps).argmax())
    return float(gaps[worst]), float(ordered[worst % len(ordered)])


def share_below(levels: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The share of levels [n] that are at most so large [...]: their coverage.

    Examples:
        >>> import numpy as np
        >>> from flows._levels import share_below
        >>> share_below(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.2, 0.5])).tolist()
        [0.5, 1.0]
    """
    return np.searchsorted(np.sort(levels), at, side="right") / len(levels)

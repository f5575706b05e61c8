"""What one column may hold."""

import dataclasses
import math
from typing import Any

from flows import _checks


@dataclasses.dataclass(frozen=True)
class Support:
    """Where one column may lie: use `real`, `positive`, `interval` and so on.

    Attributes:
        low: The lower end, -inf for none.
        high: The upper end, inf for none.
        kind: "continuous", "circle", "integers", or "dequantized" for the unit cells
            [n, n + 1) of integers n from low to high.
    """

    low: float = -math.inf
    high: float = math.inf
    kind: str = "continuous"

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval that the real line is mapped to."""
        return self.low, self.high + (self.kind in ("integers", "dequantized"))

    @property
    def space(self) -> str:
        """What it holds: "numbers", "integers" or "angles of period 6.28318531"."""
        if self.kind == "circle":
            return f"angles of period {self.high - self.low:.9g}"
        return "integers" if self.kind == "integers" else "numbers"

    def __str__(self) -> str:
        ends = f"{self.low:g}, {self.high:g}"
        name = "interval" if self.kind == "continuous" else self.kind
        return {real: "real", positive: "positive"}.get(self, f"{name}({ends})")


real = Support()
positive = Support(low=0.0)


TURN = 2 * math.pi
ANGLES = Support(-math.pi, math.pi, "circle")
"""What flows over angles make, where no `circle` is given."""


def interval(low: float, high: float) -> Support:
    """Numbers from `low` to `high`, ends included; an end that is infinite is none.

    A value at an end is taken for one that is the resolution of the numbers inside: where many
    are, there is no density. With one infinite end, the other is excluded, as in `positive`.

    Raises:
        ValueError: `low` is not below `high`.
    """
    return Support(*_ordered(low, high))


def circle(period: float = TURN, start: float = 0.0) -> Support:
    """Angles, hours and the like, of which x and x + period are one point.

    Draws lie in [start, start + period). For `flows.ncsf`, whose layers are periodic.

    Raises:
        ValueError: `period` is not positive.
    """
    period = _checks.positive("period", period)
    return Support(_number("start", start), float(start) + period, "circle")


def integers(low: float = -math.inf, high: float = math.inf) -> Support:
    """Whole numbers from `low` to `high`, both included: `integers(0)` for counts.

    Raises:
        ValueError: An end is not a whole number, or `low` is above `high`.
    """
    low, high = _number("low", low), _number("high", high)
    for name, end in (("low", low), ("high", high)):
        if math.isfinite(end) and end != math.floor(end):
            raise ValueError(f"{name} must be a whole number, got {end}.")
    if low > high or math.inf in (low, -high):
        raise ValueError(f"low must not be above high, got {low:g} and {high:g}.")
    return Support(low, high, "integers")


def categories(k: int) -> Support:
    """Classes 0, 1 .. k - 1."""
    return integers(0, _checks.positive_int("k", k, least=2) - 1)


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}.") from None
    if math.isnan(number):
        raise ValueError(f"{name} must be a number, got {value!r}.")
    return number


def _ordered(low: Any, high: Any) -> tuple[float, float]:
    low, high = _number("low", low), _number("high", high)
    if not low < high:
        raise ValueError(f"low must be below high, got {low:g} and {high:g}.")
    return low, high

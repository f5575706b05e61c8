"""Posteriors as tables: mean, standard deviation and interval of each parameter."""

import dataclasses
from typing import Any

import jax
import numpy as np

from flows._structures import columns_of, names_of
from flows.variational.diagnostics import Diagnostics

PROBABILITY = 0.89  # of the intervals: the default of ArviZ
SHOWN = 100  # rows, when printed


@dataclasses.dataclass(frozen=True)
class Summary:
    """Moments and intervals of draws, a row for each number of the parameters.

    Attributes:
        names: Such as "mu" and "theta[0]".
        mean: Means [n].
        sd: Standard deviations [n].
        low: Lower ends of the intervals that hold 89 %, with as much below as above [n].
        high: Their upper ends [n].
        diagnostics: Whether to trust them.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray
    low: np.ndarray
    high: np.ndarray
    diagnostics: Diagnostics

    def to_dict(self) -> dict[str, dict[str, float]]:
        """{"mu": {"mean": .., "sd": .., "low": .., "high": ..}, ..}."""
        columns = {key: getattr(self, key) for key in ("mean", "sd", "low", "high")}
        return {
            name: {key: float(values[i]) for key, values in columns.items()}
            for i, name in enumerate(self.names)
        }

    def __str__(self) -> str:
        ends = f"eti{PROBABILITY:.0%}_lb", f"eti{PROBABILITY:.0%}_ub"
        rows = [("", "mean", "sd", *(end.replace("%", "") for end in ends))]
        for i, name in enumerate(self.names[:SHOWN]):
            numbers = (values[i] for values in (self.mean, self.sd, self.low, self.high))
            rows.append((name, *(f"{number:.4g}" for number in numbers)))
        first = max(len(row[0]) for row in rows)
        lines = [f"{row[0]:<{first}}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows]
        if len(self.names) > SHOWN:
            lines.append(f"and {len(self.names) - SHOWN} more")
        return "\n".join([*lines, f"verdict: {self.diagnostics.verdict}"])


def summarize(draws: Any, diagnostics: Diagnostics) -> Summary:
    """The summary of draws of parameters: a pytree of arrays [n, ..]."""
    table = columns_of(draws).astype(np.float64)
    tail = (1 - PROBABILITY) / 2
    low, high = np.quantile(table, [tail, 1 - tail], axis=0)
    names = names_of(jax.tree.map(lambda leaf: leaf[0], draws))
    return Summary(names, table.mean(axis=0), table.std(axis=0, ddof=1), low, high, diagnostics)

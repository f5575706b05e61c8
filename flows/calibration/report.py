"""What simulated pairs say of an amortised posterior: levels, p-values and a verdict."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from flows import _levels

IN_A_BIN, MOST_BINS = 20, 20  # pairs that are expected, and bins of ranks
CLEAR = 3.0  # standard errors, before a deviation is given a name
SHOWN, NAMED = 10, 3  # parameters in the table, and in the verdict

# What levels mean that are too high, too low, too far from 1/2, and too near it.
OF_RANKS = ("draws are too low", "draws are too high", "too narrow", "too wide")
OF_REGIONS = ("regions are too small", "regions are too large", *["regions have other shapes"] * 2)
OF_POINTS = ("draws too near the prior mean", "draws too far from it", "too narrow", "too wide")


class Check(NamedTuple):
    """One check: what of, its p-value, where it is furthest off, and what that means."""

    name: str
    p_value: float
    gap: float
    at: float
    finding: str


@dataclasses.dataclass(frozen=True)
class CalibrationReport:
    """Whether the draws of a posterior are spread as the parameters are that they stand for.

    A level is the share of draws on one side of the true parameters, ties broken at random: uniform
    on [0, 1] where the posterior is exact. The share of levels up to c is the `coverage` of
    regions of credibility c.

    Attributes:
        names: Names of the parameters.
        ranks: How many draws of each parameter lie below the true one, 0 .. num_draws [n, D].
        hpd_levels: Credibility of the smallest highest-density region with the true parameters in
            it [n]; None of draws alone, whose density is not known.
        tarp_levels: Share of the draws that are nearer to the reference point than the true
            parameters [n].
        num_draws: Draws for each pair.
        num_non_finite: Draws and true parameters that are not finite, or have no finite density.
    """

    names: tuple[str, ...]
    ranks: np.ndarray = dataclasses.field(repr=False)
    hpd_levels: np.ndarray | None = dataclasses.field(repr=False)
    tarp_levels: np.ndarray = dataclasses.field(repr=False)
    num_draws: int
    num_non_finite: int

    @property
    def num_pairs(self) -> int:
        """Number of pairs n."""
        return len(self.ranks)

    @property
    def p_values(self) -> np.ndarray:
        """Chi-square tests of uniform ranks, in 2 to 20 bins of 20 pairs or more [D]."""
        return _p_values_of_ranks(self.ranks, self.num_draws)

    @property
    def hpd_p_value(self) -> float | None:
        """Kolmogorov-Smirnov test of uniform `hpd_levels`; None where these are not known."""
        return None if self.hpd_levels is None else _levels.p_value(self.hpd_levels)

    @property
    def tarp_p_value(self) -> float:
        """Kolmogorov-Smirnov test of uniform `tarp_levels`."""
        return _levels.p_value(self.tarp_levels)

    def coverage(self, credibility: Any) -> dict[str, np.ndarray]:
        """The share of the pairs within regions of credibilities [...], "HPD" and "TARP"."""
        curves = {"HPD": self.hpd_levels, "TARP": self.tarp_levels}
        return {
            name: _levels.share_below(levels, credibility)
            for name, levels in curves.items()
            if levels is not None
        }

    @property
    def least_p_value(self) -> float:
        """What a p-value must reach: 0.01 over the number of checks."""
        return _levels.FALSE_ALARMS / (len(self.names) + 1 + (self.hpd_levels is not None))

    @property
    def band(self) -> float:
        """What all gaps of a curve of an exact posterior stay within, in 95 % of reports."""
        return _levels.largest_gap(0.05, self.num_pairs)

    @property
    def checks(self) -> list[Check]:
        """All checks: of each parameter, of highest-density regions, of random points."""
        levels = (self.ranks + 0.5) / (self.num_draws + 1)
        checks = [
            Check(
                f"ranks of {name}", float(p_value), *_levels.gap(column), _finding(column, OF_RANKS)
            )
            for name, p_value, column in zip(self.names, self.p_values, levels.T, strict=True)
        ]
        for name, column, findings in (
            ("HPD coverage", self.hpd_levels, OF_REGIONS),
            ("TARP coverage", self.tarp_levels, OF_POINTS),
        ):
            if column is not None:
                p_value, finding = _levels.p_value(column), _finding(column, findings)
                checks.append(Check(name, p_value, *_levels.gap(column), finding))
        return checks

    @property
    def reasons(self) -> list[str]:
        """What speaks against the posterior; nothing where it is calibrated."""
        failed = [check for check in self.checks if not check.p_value >= self.least_p_value]
        said = [f"{check.name}: {check.finding} (p = {check.p_value:.2g})" for check in failed]
        num_ranks = sum(check.name.startswith("ranks") for check in failed)
        hidden = max(0, num_ranks - NAMED)
        if hidden:
            said[NAMED:num_ranks] = [f"ranks of {hidden} more parameters"]
        if self.num_non_finite:
            said.append(f"{self.num_non_finite} points or densities are not finite")
        return said

    @property
    def calibrated(self) -> bool:
        """Whether no check fails; of an exact posterior one does in 1 % of reports at most."""
        return not self.reasons

    @property
    def verdict(self) -> str:
        """Whether it is calibrated, or why not, in a line."""
        if reasons := self.reasons:
            return f"NOT CALIBRATED: {'; '.join(reasons)}"
        seen = _levels.largest_gap(self.least_p_value, self.num_pairs)
        return f"calibrated, as far as {self.num_pairs:,} pairs tell: coverage within {seen:.2g}"

    def plot(self) -> Any:
        """Ranks and both coverages: see `flows.plotting.calibration`."""
        from flows import plotting

        return plotting.calibration(self)

    def __str__(self) -> str:
        num_names = len(self.names)
        ranks = sorted(self.checks[:num_names], key=lambda check: check.p_value)[:SHOWN]
        shown = self.checks if num_names <= SHOWN else [*ranks, *self.checks[num_names:]]
        width = max(17, *(len(check.name) for check in shown))
        rows = [("check", "p-value    largest gap")]
        rows += [(c.name, f"{c.p_value:<9.2g}  {c.gap:+.3f} at {c.at:.2f}") for c in shown]
        if num_names > SHOWN:
            rows.insert(SHOWN + 1, ("", f"and {num_names - SHOWN} more parameters, less far off"))
        if self.hpd_levels is None:
            rows.append(("HPD coverage", "not known of draws without a density"))
        rows += [
            ("least p-value", f"{self.least_p_value:.2g}, of these {len(self.checks)} checks"),
            ("pairs", f"{self.num_pairs:,}, {self.num_draws:,} draws of each"),
            ("gaps by chance", f"up to {self.band:.3f}, in 95 % of reports"),
            ("non-finite", f"{self.num_non_finite}"),
            ("verdict", self.verdict),
        ]
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _p_values_of_ranks(ranks: np.ndarray, num_draws: int) -> np.ndarray:
    """Chi-square tests of uniform ranks [n, D], in bins of whole ranks; p-values [D]."""
    num_bins = min(MOST_BINS, len(ranks) // IN_A_BIN, num_draws + 1)
    bins = np.arange(num_draws + 1) * num_bins // (num_draws + 1)
    count = lambda of: np.bincount(of, minlength=num_bins)
    expected = len(ranks) * count(bins) / (num_draws + 1)
    squares = [((count(bins[column]) - expected) ** 2 / expected).sum() for column in ranks.T]
    return scipy.special.chdtrc(num_bins - 1, np.array(squares))


def _finding(levels: np.ndarray, findings: tuple[str, ...]) -> str:
    """What levels [n] say that are not uniform, by their mean and their mean distance from 1/2."""
    signs = np.array([levels.mean() - 0.5, np.abs(2 * levels - 1).mean() - 0.5])
    signs *= (12 * len(levels)) ** 0.5  # in standard errors
    which = int(np.abs(signs).argmax())
    if abs(signs[which]) < CLEAR:
        return "of another shape"
    return findings[2 * which + int(signs[which] < 0)]

"""How good an approximation is, judged by importance weights on fresh draws."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows._pareto import pareto_smoothed
from flows.distributions import Flow
from flows.divergences import Estimate
from flows.targets import Target
from flows.variational.modes import LostMode
from flows.variational.tempering import LostRegion
from flows.variational.weights import FEW, WeightedDraws, shifts, stray_share, weighted_draws

NUM_DRAWS = 10_000  # of q, and as many that reach further
KHAT_LIMIT = 0.7
EXACT_ESS = 0.999  # of all draws: nothing is left to train
EVEN_ESS = 0.99  # of all draws: weights then move no mean by more than a tenth of its deviation
NOISE_ESS = 0.01  # of all draws: below, weights say nothing of how good q is
MEAN_LIMIT, SD_LIMIT = 0.1, 0.15  # of what weights may change, before it counts
FEW_LIMIT = 0.115  # of a variance that may rest on few draws
STRAY_LIMIT = 0.25  # of a variance: then the deviation is off by 15 %
MISSED_LIMIT, ERRORS = 0.02, 4  # nats of evidence that q's own draws may miss, and standard errors
ERROR_LIMIT = 0.1  # nats: where few of the draws that reach further decide, nothing is known
NAMED = 3  # lost modes, when printed


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """What the importance weights w = p(x) / q(x), x ~ q, say about q.

    Attributes:
        elbo: Mean of log w: a lower bound on the log evidence, in nats.
        log_evidence: log of the mean weight, of draws that reach further than q; its standard
            error by the delta method.
        ess: Effective sample size, (sum w)^2 / sum w^2, out of `num_samples`.
        khat: Shape of the generalised Pareto tail of the weights (Vehtari et al. 2024,
            arXiv:1507.02646). Above 0.7 uneven weights, and with them the posterior, are not to
            be trusted.
        num_samples: Number of draws.
        num_nonfinite: Draws whose log weight was NaN or +inf; they are left out of the numbers
            above. (A weight of zero counts.)
        num_outside: Draws of weight zero: the target has no mass there, log p = -inf.
        spread: Standard deviation of log w, of draws inside.
        missed: Log evidence, less that of q's own draws alone, which miss what lies in the
            target's tails and not in q's.
        mean_shift: By how much weights move the mean of a coordinate, of the worst, in standard
            deviations. (Of draws that reach further than q; NaN where only weights are known.)
        sd_shift: By which ratio, less 1, they change the standard deviation of the worst.
        tail_share: Which share of a variance rests on 5 of 20,000 weighted draws that reach
            further, of the worst coordinate: less than 0.01 of a normal. Of a Student-t with 2.5
            degrees of freedom it is 0.13 to 0.3; its deviation is off by 15 % now and then, also
            where q is exact.
        stray_share: Which share of a variance of q, of the worst parameter in its own space, is of
            draws where the target has less than a hundredth of what q has. (exp of a far draw may
            be all of it, where the draw itself is nothing.)
        lost_modes: Modes that a search around 0 and around q found, and where q lacks more than
            half of the mass, with their share of the evidence; none where all of that is below one
            per cent. Weights do not tell: their draws never go there. Modes that no search found
            are not told by anything here. None where they were not looked for: beyond 200
            dimensions, of a flow with a support, or of a target without a Hessian.
        lost_regions: The region with mass of the target where q has next to none, found by
            tempering, with its share of the evidence; empty where there is none. None where it was
            not looked for, as a mode is lost already, beyond 200 dimensions, or of a flow with a
            support, or where tempering did not get there.
    """

    elbo: Estimate
    log_evidence: Estimate
    ess: float
    khat: float
    num_samples: int
    num_nonfinite: int
    num_outside: int = 0
    spread: float = np.nan
    missed: Estimate | None = None
    mean_shift: float = np.nan
    sd_shift: float = np.nan
    tail_share: float = np.nan
    stray_share: float = np.nan
    lost_modes: tuple[LostMode, ...] | None = None
    lost_regions: tuple[LostRegion, ...] | None = None

    @property
    def reasons(self) -> list[str]:
        """Why not to trust q; none where it can be trusted."""
        few = f"{self.tail_share:.0%} of a variance rests on {FEW} of {2 * NUM_DRAWS:,} draws"
        stray = f"draws where the target has next to none make {self.stray_share:.0%} of a variance"
        return (
            self._flaws
            + [few] * (self.tail_share > FEW_LIMIT)
            + [stray] * (self.stray_share > STRAY_LIMIT)
        )

    @property
    def _flaws(self) -> list[str]:
        """What is wrong with q itself."""
        outside = self.num_outside / self.num_samples
        reasons = {
            f"k-hat is not below {KHAT_LIMIT}": self._uneven and not self.khat < KHAT_LIMIT,
            "weights are not finite": self.num_nonfinite > 0,
            f"{outside:.1%} of the draws lie where the target has no mass": outside > 0,
            "the ELBO is not finite": not outside and not jnp.isfinite(self.elbo.value),
            f"weights move a mean by {self.mean_shift:.2f} deviations": (
                self.mean_shift > MEAN_LIMIT
            ),
            f"weights change a deviation by {self.sd_shift:.0%}": self.sd_shift > SD_LIMIT,
            f"its draws miss {self._missing:.1%} of the evidence": not self._missing <= 0,
            f"the log evidence is known to +- {self._error:.2f} only": self._error > ERROR_LIMIT,
            "the target has modes that q lacks": bool(self.lost_modes),
            "the target has mass where q has none": bool(self.lost_regions),
        }
        return [reason for reason, holds in reasons.items() if holds]

    @property
    def trustworthy(self) -> bool:
        """Whether k-hat is below 0.7, weights are finite and change little, and nothing is lost.

        They change little where they move no mean by more than a tenth of its standard deviation,
        and no standard deviation by more than 15 %, nor leave it to a few draws. k-hat does not
        count where the ESS is at least 99 % of the draws: the tail of weights so even is noise, and
        of these draws |E_p f - E_q f| <= sd(w) sd(f) = sd(f) sqrt(n / ESS - 1), a tenth of sd(f).
        """
        return not self.reasons

    @property
    def verdict(self) -> str:
        """The word "good", or why not to trust q."""
        return f"DO NOT TRUST: {'; '.join(self.reasons)}" if self.reasons else "good"

    @property
    def exact(self) -> bool:
        """Whether nothing is left to train: weights are even to 1 in 1,000."""
        return self.ess >= EXACT_ESS * self.num_samples and not self.wanting

    @property
    def wanting(self) -> bool:
        """Whether q has flaws, or nearly has."""
        return bool(self._flaws or self.mean_shift > MEAN_LIMIT / 2 or self.sd_shift > SD_LIMIT / 2)

    @property
    def addable(self) -> tuple[LostMode, ...]:
        """What q may be started again with: lost modes, or a region if q is good but for that."""
        alone = len(self._flaws) == 1
        return self.lost_modes or (self.lost_regions if alone else None) or ()

    def better_than(self, other: "Diagnostics") -> bool:
        """Whether fewer flaws speak against it, or as many and its effective size is larger.

        Where next to no draws count in either, both are noise, and the larger ELBO is better.
        """
        if max(self.ess, other.ess) < NOISE_ESS * self.num_samples:
            return bool(self.elbo.value > other.elbo.value)
        return (len(self._flaws), -self.ess) < (len(other._flaws), -other.ess)

    @property
    def _error(self) -> float:
        return float(self.log_evidence.standard_error)

    @property
    def _uneven(self) -> bool:
        """Whether k-hat counts."""
        return self.ess < EVEN_ESS * self.num_samples

    @property
    def _missing(self) -> float:
        """Share of the evidence that q's own draws miss, if it is more than chance and little."""
        if self.missed is None:
            return 0.0
        nats, error = float(self.missed.value), float(self.missed.standard_error)
        return 0.0 if nats <= max(MISSED_LIMIT, ERRORS * error) else 1 - np.exp(-nats)

    def __str__(self) -> str:
        return "\n".join(
            [
                f"ELBO          {self.elbo}",
                f"log evidence  {self.log_evidence}",
                f"ESS           {self.ess:.0f} of {self.num_samples}",
                f"k-hat         {self.khat:.2f}{'' if self._uneven else ' (weights are even)'}",
                f"weights move  means by {self.mean_shift:.2f} sd, sds by {self.sd_shift:.0%}",
                f"heavy tails   {FEW} draws make {self.tail_share:.1%} of a variance",
                f"stray draws   make {self.stray_share:.1%} of a variance",
                f"non-finite    {self.num_nonfinite}",
                *self._about_modes(),
                *self._about_regions(),
                f"verdict       {self.verdict}",
            ]
        )

    def _about_regions(self) -> list[str]:
        if self.lost_regions is None:
            return ["lost region   not looked for"]
        return [f"lost region   {region}" for region in self.lost_regions] or [
            "lost region   none found"
        ]

    def _about_modes(self) -> list[str]:
        if self.lost_modes is None:
            return ["lost modes    not looked for"]
        if not self.lost_modes:
            return ["lost modes    none found"]
        named = [f"lost mode     {mode}" for mode in self.lost_modes[:NAMED]]
        more = len(self.lost_modes) - NAMED
        return named + [f"              and {more} more"] * (more > 0)


def judge(flow: Flow, target: Target, key: jax.Array, batch_size: int) -> Diagnostics:
    """Judges q by 10,000 draws of its own, and as many that reach further.

    Args:
        flow: q.
        target: The target.
        key: Random key.
        batch_size: At how many draws the target is evaluated at once.
    """
    drawn = weighted_draws(flow, target.log_density, key, 2 * NUM_DRAWS, batch_size)
    draws = drawn.on_host()
    alone = diagnose((draws.log_p - draws.log_q)[:NUM_DRAWS])
    evidence = _log_evidence(draws)
    missed = Estimate(
        evidence.value - alone.log_evidence.value,
        jnp.asarray(np.hypot(evidence.standard_error, alone.log_evidence.standard_error)),
        len(draws.x),
        "importance_sampling",
    )
    weights, _ = pareto_smoothed(draws.log_p - draws.log_r)
    mean_shift, sd_shift, tail_share = shifts(draws.x, weights)
    parameters = target.table(drawn.x).astype(np.float64)
    return dataclasses.replace(
        alone,
        log_evidence=evidence,
        missed=missed,
        mean_shift=mean_shift,
        sd_shift=sd_shift,
        tail_share=tail_share,
        stray_share=stray_share(parameters, draws, float(evidence.value)),
    )


def diagnose(log_weights: np.ndarray) -> Diagnostics:
    """Summarises log importance weights [n] of independent draws of q.

    Examples:
        >>> import numpy as np
        >>> from flows.variational.diagnostics import diagnose
        >>> exact = diagnose(np.full(1000, 2.0))
        >>> float(exact.log_evidence.value), exact.ess
        (2.0, 1000.0)
    """
    khat = pareto_smoothed(log_weights)[1]
    usable = _usable(np.asarray(log_weights, np.float64))
    weights = np.exp(usable - usable.max())
    return Diagnostics(
        elbo=Estimate.from_draws(jnp.asarray(usable)),
        log_evidence=_log_mean(usable.max(), weights),
        ess=float(weights.sum() ** 2 / (weights**2).sum()),
        khat=khat,
        num_samples=len(log_weights),
        num_nonfinite=len(log_weights) - len(usable),
        num_outside=int(np.isneginf(usable).sum()),
        spread=float(usable[np.isfinite(usable)].std()),
    )


def _log_evidence(draws: WeightedDraws) -> Estimate:
    r"""Log of the mean of p / r, and its standard error.

    The ratios q / r, whose mean is 1, are a control variate: where q is near p little error is
    left. Source: Owen & Zhou 2000, J. Am. Stat. Assoc. 95 (449).
    """
    log_weights = draws.log_p - draws.log_r
    log_weights = np.where(log_weights < np.inf, log_weights, -np.inf)  # NaN is no mass
    top = log_weights.max()
    weights = np.exp(log_weights - top)
    control = np.nan_to_num(np.exp(draws.log_q - draws.log_r) - 1)
    slope = np.cov(weights, control)[0, 1] / max(control.var(ddof=1), 1e-12)
    return _log_mean(top, weights - slope * control)


def _log_mean(top: Any, weights: np.ndarray) -> Estimate:
    """Log of the mean of exp(top) weights [n], and its standard error by the delta method."""
    mean, error = weights.mean(), weights.std(ddof=1) / np.sqrt(len(weights))
    value, error = jnp.asarray(top + np.log(mean)), jnp.asarray(error / mean)
    return Estimate(value, error, len(weights), "importance_sampling")


def _usable(log_weights: np.ndarray) -> np.ndarray:
    return log_weights[log_weights < np.inf]  # without NaN

"""How good an approximation is, judged by importance weights on fresh draws."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from flows.divergences import Estimate
from flows.variational.modes import LostMode

KHAT_LIMIT = 0.7
EVEN_ESS = 0.99  # of all draws: weights then move no mean by more than a tenth of its deviation
NAMED = 3  # lost modes, when printed


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """What the importance weights w = p(x) / q(x), x ~ q, say about q.

    Attributes:
        elbo: Mean of log w: a lower bound on the log evidence, in nats.
        log_evidence: log of the mean weight; its standard error by the delta method.
        ess: Effective sample size, (sum w)^2 / sum w^2, out of `num_samples`.
        khat: Shape of the generalised Pareto tail of the weights (Vehtari et al. 2024,
            arXiv:1507.02646). Above 0.7 uneven weights, and with them the posterior, are not to
            be trusted.
        num_samples: Number of draws.
        num_nonfinite: Draws whose log weight was NaN or +inf; they are left out of the numbers
            above. (A weight of zero counts.)
        lost_modes: Modes that a search around 0 and around q found, and where q lacks more than
            half of the mass, with their share of the evidence; those below one per cent are left
            out. Weights do not tell: their draws never go there. Modes that no search found are
            not told by anything here. None where they were not looked for: beyond 200 dimensions,
            of a flow with a support, or of a target without a Hessian.
    """

    elbo: Estimate
    log_evidence: Estimate
    ess: float
    khat: float
    num_samples: int
    num_nonfinite: int
    lost_modes: tuple[LostMode, ...] | None = None

    @property
    def reasons(self) -> list[str]:
        """Why not to trust q; none where it can be trusted."""
        reasons = {
            f"k-hat is not below {KHAT_LIMIT}": not self.khat < KHAT_LIMIT
            and self.ess < EVEN_ESS * self.num_samples,
            "weights are not finite": self.num_nonfinite > 0,
            "the ELBO is not finite": not jnp.isfinite(self.elbo.value),
            "the target has modes that q lacks": bool(self.lost_modes),
        }
        return [reason for reason, holds in reasons.items() if holds]

    @property
    def trustworthy(self) -> bool:
        """Whether k-hat is below 0.7, weights and ELBO are finite, and no mode is known lost.

        k-hat does not count where the ESS is at least 99 % of the draws: the tail of weights so
        even is noise, and of these draws |E_p f - E_q f| <= sd(w) sd(f) = sd(f) sqrt(n / ESS - 1),
        a tenth of sd(f).
        """
        return not self.reasons

    def __str__(self) -> str:
        reasons = "; ".join(self.reasons)
        return "\n".join(
            [
                f"ELBO          {self.elbo}",
                f"log evidence  {self.log_evidence}",
                f"ESS           {self.ess:.0f} of {self.num_samples}",
                f"k-hat         {self.khat:.2f}",
                f"non-finite    {self.num_nonfinite}",
                *self._about_modes(),
                f"verdict       {f'DO NOT TRUST: {reasons}' if reasons else 'good'}",
            ]
        )

    def _about_modes(self) -> list[str]:
        if self.lost_modes is None:
            return ["lost modes    not looked for"]
        named = [f"lost mode     {mode}" for mode in self.lost_modes[:NAMED]]
        more = len(self.lost_modes) - NAMED
        return named + [f"              and {more} more"] * (more > 0)


def diagnose(log_weights: np.ndarray) -> Diagnostics:
    """Summarises log importance weights [n] of independent draws.

    Example:
        >>> import numpy as np
        >>> exact = diagnose(np.full(1000, 2.0))
        >>> float(exact.log_evidence.value), exact.ess
        (2.0, 1000.0)
    """
    from arviz_stats.base import array_stats  # scipy.stats is slow to import

    log_weights = np.asarray(log_weights, dtype=np.float64)
    usable = log_weights[~np.isnan(log_weights) & (log_weights < np.inf)]
    n = len(usable)
    if n < 2 or not np.isfinite(usable).any():
        raise ValueError(f"Of {len(log_weights)} log weights, none or one is finite.")
    top = usable.max()
    weights = np.exp(usable - top)
    mean = weights.mean()
    log_evidence = Estimate(
        jnp.asarray(top + np.log(mean)),
        jnp.asarray(weights.std(ddof=1) / np.sqrt(n) / mean),
        n,
        "monte_carlo",
    )
    tail = np.sort(usable)[-max(5, int(3 * np.sqrt(n))) :]
    if usable.min() > top - 1e-6:
        khat = -np.inf  # q is p: there is no tail
    elif not np.isfinite(tail).all() or len(np.unique(tail)) < 5:
        khat = np.inf  # a few draws carry all the weight: no tail can be fitted
    else:
        # psislw takes log-likelihoods, whose negatives are the log weights of leave-one-out.
        khat = float(array_stats.psislw(-usable)[1])
    return Diagnostics(
        elbo=Estimate.from_draws(jnp.asarray(usable)),
        log_evidence=log_evidence,
        ess=float(weights.sum() ** 2 / (weights**2).sum()),
        khat=khat,
        num_samples=len(log_weights),
        num_nonfinite=len(log_weights) - n,
    )

"""How good an approximation is, judged by importance weights on fresh draws."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from flows.divergences import Estimate

KHAT_LIMIT = 0.7


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """What the importance weights w = p(x) / q(x), x ~ q, say about q.

    Attributes:
        elbo: Mean of log w: a lower bound on the log evidence, in nats.
        log_evidence: log of the mean weight; its standard error by the delta method.
        ess: Effective sample size, (sum w)^2 / sum w^2, out of `num_samples`.
        khat: Shape of the generalised Pareto tail of the weights (Vehtari et al. 2024,
            arXiv:1507.02646). Above 0.7 the weights, and with them the posterior, are not to be
            trusted.
        num_samples: Number of draws.
        num_nonfinite: Draws whose log weight was NaN or +inf; they are left out of the numbers
            above. (A weight of zero counts.)
    """

    elbo: Estimate
    log_evidence: Estimate
    ess: float
    khat: float
    num_samples: int
    num_nonfinite: int

    @property
    def trustworthy(self) -> bool:
        """Whether k-hat is below 0.7, every weight is finite and so is the ELBO."""
        finite = self.num_nonfinite == 0 and bool(jnp.isfinite(self.elbo.value))
        return finite and self.khat < KHAT_LIMIT

    def __str__(self) -> str:
        verdict = "good" if self.trustworthy else f"DO NOT TRUST (limit {KHAT_LIMIT})"
        return "\n".join(
            [
                f"ELBO          {self.elbo}",
                f"log evidence  {self.log_evidence}",
                f"ESS           {self.ess:.0f} of {self.num_samples}",
                f"k-hat         {self.khat:.2f}  {verdict}",
                f"non-finite    {self.num_nonfinite}",
            ]
        )


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

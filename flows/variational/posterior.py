"""A fitted posterior: its draws, as they are and corrected towards the target."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from flows import _checks
from flows._pareto import pareto_smoothed
from flows.distributions import Flow
from flows.divergences import Estimate
from flows.targets import Target
from flows.training import Outcome, Program
from flows.variational.chains import Chains, independent
from flows.variational.diagnostics import Diagnostics
from flows.variational.summaries import Summary, summarize
from flows.variational.weights import weighted_draws

BATCH = 128  # evaluations of the target at once
PROPOSALS = 4  # for each draw that is asked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Posterior(Outcome):
    """A fitted variational posterior, and how it went: see also `flows.training.Outcome`.

    Draws are parameters of the model: points [D] where the target is a function of points, and
    else the pytree that the target is of (`flows.targets`), with an array [*sample_shape, *shape]
    for each parameter.

    Attributes:
        flow: q, a distribution on R^D.
        target: The `flows.targets.Target`: called with one point [D], log p up to a constant. Its
            `constrain` maps points to the parameters of the model, and `unconstrain` back.
        losses: Minus the ELBO estimate of every step of the first stage, in nats; none where the
            start was exact.
        history: {"elbo": ...}, the ELBO estimate of every step, and {"cross_entropy": ...}, what
            the second stage minimised, where there was one.
        diagnostics: ELBO, log evidence, effective sample size and k-hat on fresh draws, and modes
            and regions that q has lost.
    """

    flow: Flow = dataclasses.field(repr=False)
    target: Target = dataclasses.field(repr=False)
    diagnostics: Diagnostics

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.diagnostics}"

    def sample(self, *, seed: jax.Array, sample_shape: int | tuple[int, ...] = ()) -> Any:
        """Draws parameters [*sample_shape, ..] of q."""
        return self.target.constrain(self.flow.sample(seed=seed, sample_shape=sample_shape))

    def log_prob(self, theta: Any) -> jax.Array:
        """Log density of q at parameters [..., ..], in their own space; -inf outside of it."""
        u, log_det = self.target.unconstrain(theta)
        return self.flow.log_prob(u) + log_det

    def summary(self, *, seed: jax.Array, num_samples: int = 10_000) -> Summary:
        """Mean, standard deviation and interval of each parameter, of draws of `resample`."""
        draws = self.resample(seed=seed, sample_shape=(num_samples,))
        return summarize(draws, self.diagnostics)

    def to_arviz(self, *, seed: jax.Array, num_samples: int = 1000, num_chains: int = 4) -> Any:
        """Draws of `resample` as an `xarray.DataTree`, for ArviZ.

        Args:
            seed: Random key.
            num_samples: Draws of each chain.
            num_chains: Number of chains: the draws are independent, and cut into as many.

        Returns:
            The groups "posterior" and "sample_stats" (lp: log p(u), of the target's points u,
            log-Jacobian included; log_q: that of q), and in the attributes the verdict.

        Raises:
            ImportError: arviz-base is missing: `pip install "flows-jax[arviz]"`.
        """
        from flows.adapters.arviz import to_inference_data

        for name, size in (("num_samples", num_samples), ("num_chains", num_chains)):
            _checks.positive_int(name, size)
        u = self._resampled(seed, (num_chains, num_samples))
        stats = {"lp": _at_each(self.target.log_density, u), "log_q": self.flow.log_prob(u)}
        attrs = {
            "verdict": self.diagnostics.verdict,
            "pareto_k": self.diagnostics.khat,
            "log_evidence": float(self.diagnostics.log_evidence.value),
        }
        return to_inference_data(self.target.constrain(u), stats, attrs)

    def predictive(
        self, *args: Any, seed: jax.Array, num_samples: int = 1000, **kwargs: Any
    ) -> Any:
        """Draws of what the model predicts.

        Args:
            *args: Of a numpyro model, its arguments, with None for the data to be predicted.
            seed: Random key.
            num_samples: Number of draws: of parameters, and of predictions for each.
            **kwargs: Keyword arguments of a numpyro model.

        Returns:
            Predictions by their names, [num_samples, ..]: the sites of a numpyro model that are
            not parameters, or the pinned parts of a TFP joint distribution.

        Raises:
            ValueError: The target is known by its log density alone.
        """
        if self.target.predict is None:
            raise ValueError(
                "predictive needs a model that makes data: a target of flows.targets.from_numpyro "
                "or from_tfp, not of a log density."
            )
        draw_key, key = jax.random.split(_checks.prng_key("seed", seed))
        parameters = self.sample(seed=draw_key, sample_shape=(num_samples,))
        return self.target.predict(key, parameters, *args, **kwargs)

    def expectation(
        self, f: Callable[[jax.Array], Any], *, seed: jax.Array, num_samples: int = 10_000
    ) -> Any:
        r"""The target's mean of f, E_p[f(theta)], from weighted draws.

        E_p[f] is close to sum_i w_i f(theta_i), theta_i ~ r, where w_i are proportional to
        p(theta_i) / r(theta_i), add up to 1 and are smoothed in their tail (Vehtari et al. 2024,
        arXiv:1507.02646); its standard error is sqrt(sum_i w_i^2 (f(theta_i) - E_p[f])^2). Half of
        the draws are of q, and half reach further: r is q with wider noise.

        Args:
            f: A function of the parameters of one draw: returns an array, or a pytree of them.
            seed: Random key.
            num_samples: Number of draws.

        Returns:
            An `Estimate`, or a pytree of them. Draws cannot correct for what q has lost.

        Examples:
            >>> import flows, jax, jax.numpy as jnp
            >>> posterior = flows.fit_posterior(
            ...     lambda theta: -0.5 * jnp.sum((theta - 3.0) ** 2),
            ...     event_size=2, key=jax.random.key(0), num_steps=10, progress=False)
            >>> mean = posterior.expectation(lambda theta: theta, seed=jax.random.key(1))
            >>> mean.value.round(1).tolist()
            [3.0, 3.0]
        """
        u, weights = self._weighted(seed, num_samples)
        values = jax.jit(jax.vmap(f))(self.target.constrain(u))
        return jax.tree.map(lambda of_draws: _weighted_mean(of_draws, weights), values)

    def resample(self, *, seed: jax.Array, sample_shape: int | tuple[int, ...] = ()) -> Any:
        """Draws parameters [*sample_shape, ..] of the target: draws of q, chosen by their weights.

        Four times as many are drawn, 10,000 at least, and resampled systematically; draws and
        weights are those of `expectation`. A point of large weight comes more than once.

        Args:
            seed: Random key.
            sample_shape: Shape of the draws.
        """
        return self.target.constrain(self._resampled(seed, sample_shape))

    def log_weights(self, *, seed: jax.Array, num_samples: int = 10_000) -> np.ndarray:
        """Log importance weights log p(u) - log q(u) of draws of q [n], up to a constant.

        They are what `diagnostics` is made of: where q is the posterior, all are equal.

        Args:
            seed: Random key.
            num_samples: Number of draws n.
        """
        shape = (_checks.positive_int("num_samples", num_samples, least=2),)
        u, log_q = self.flow.sample_and_log_prob(
            seed=_checks.prng_key("seed", seed), sample_shape=shape
        )
        log_p = _at_each(self.target.log_density, u)
        return np.asarray(log_p, np.float64) - np.asarray(log_q, np.float64)

    def plot(self, *, seed: jax.Array) -> Any:
        """ELBO and importance weights: see `flows.plotting.posterior`."""
        from flows import plotting

        return plotting.posterior(self, seed=seed)

    def _resampled(self, seed: jax.Array, sample_shape: int | tuple[int, ...]) -> jax.Array:
        """Points u [*sample_shape, D] of the target."""
        shape = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
        number = int(np.prod(shape))
        draw_key, start_key, order_key = jax.random.split(_checks.prng_key("seed", seed), 3)
        u, weights = self._weighted(draw_key, max(10_000, PROPOSALS * number))
        edges = (np.arange(number) + float(jax.random.uniform(start_key))) / max(number, 1)
        chosen = np.searchsorted(np.cumsum(weights), edges).clip(max=len(weights) - 1)
        order = jax.random.permutation(order_key, number)
        return u[chosen[order]].reshape(*shape, self.flow.event_size)

    def refine(
        self,
        method: Literal["imh", "nuts", "nuts+imh"] = "imh",
        *,
        seed: jax.Array,
        num_samples: int = 1000,
        num_warmup: int = 500,
        num_chains: int = 4,
    ) -> Chains:
        """Runs Markov chains on the target that start from `resample` and use q to move.

        Args:
            method: "imh", independent Metropolis-Hastings: draws of q are proposed; it costs no
                gradients, moves between modes, and sticks where weights are large. "nuts", the
                no-U-turn sampler in the space of q's noise, where the target is nearly the base,
                with one mode nearly normal (Hoffman et al. 2019, arXiv:1903.03704); it goes where
                q has no draws, and seldom to another mode. "nuts+imh" does both in turn (Gabrie
                et al. 2022, arXiv:2105.12603). These two need blackjax:
                `pip install "flows-jax[mcmc]"`.
            seed: Random key.
            num_samples: Draws of each chain.
            num_warmup: Steps before them, in which "nuts" adapts; none are needed by "imh".
            num_chains: Number of chains.

        Returns:
            `Chains`: their draws, R-hat and effective sample sizes.

        Raises:
            ImportError: "nuts" without blackjax.
            ValueError: "nuts" of a flow with a support, or a number is not as it must be.
        """
        _checks.one_of("method", method, ("imh", "nuts", "nuts+imh"))
        for name, size in (("num_samples", num_samples), ("num_chains", num_chains)):
            _checks.positive_int(name, size)
        _checks.positive_int("num_warmup", num_warmup)
        if method != "imh" and self.flow.support is not None:
            raise ValueError(
                f'method="{method}" needs a flow on all of R^D, and flow has a support.'
            )
        start_key, chain_key = jax.random.split(_checks.prng_key("seed", seed))
        start = self._resampled(start_key, (num_chains,))
        log_density = self.target.log_density
        if method == "imh":
            moved = independent(self.flow, log_density, start, chain_key, num_samples)
        else:
            from flows.adapters.blackjax import nuts  # an extra

            both = method == "nuts+imh"
            moved = nuts(self.flow, log_density, start, chain_key, num_samples, num_warmup, both)
        chains = Chains.of(*moved)
        return dataclasses.replace(
            chains,
            draws=self.target.constrain(chains.draws),
            lost_modes=self.diagnostics.lost_modes or (),
            lost_regions=self.diagnostics.lost_regions or (),
        )

    def _weighted(self, key: jax.Array, num_samples: int) -> tuple[jax.Array, np.ndarray]:
        """Draws that reach beyond q [n, D], and smoothed weights [n], which add up to 1."""
        _checks.positive_int("num_samples", num_samples, least=2)
        key = _checks.prng_key("seed", key)
        draws = weighted_draws(self.flow, self.target.log_density, key, num_samples, BATCH)
        return draws.x, pareto_smoothed(np.asarray(draws.log_p - draws.log_r))[0]


@jax.jit
def _at_each(log_density: Program, u: jax.Array) -> jax.Array:
    """Of points u [.., n, D], BATCH at once."""
    flat = u.reshape(-1, u.shape[-1])
    return jax.lax.map(log_density, flat, batch_size=BATCH).reshape(u.shape[:-1])


def _weighted_mean(values: jax.Array, weights: np.ndarray) -> Estimate:
    """Of values [n, ...]; draws of weight zero may have any, NaN too."""
    used = weights > 0
    known = np.asarray(values, np.float64)[used]
    w = weights[used].reshape(-1, *[1] * (known.ndim - 1))
    mean = (w * known).sum(axis=0)
    error = np.sqrt((w**2 * (known - mean) ** 2).sum(axis=0))
    return Estimate(jnp.asarray(mean), jnp.asarray(error), len(weights), "importance_sampling")

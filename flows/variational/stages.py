"""The stages of training: reverse KL, and where that is not good enough forward KL as well."""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flows.distributions import Flow
from flows.targets import Target
from flows.training import NonFiniteError, adam_unless_given, attaching, train
from flows.variational.diagnostics import judge
from flows.variational.objectives import forward_kl, reverse_kl
from flows.variational.posterior import Posterior

PEAKS = 2e-3, 1e-3  # of the learning rates of the two stages
MOST_ROWS = 20_000  # of data, for the second to be run and for modes to be looked for
SHARE, DRAWS = 3, 4  # the second has a third of the steps, with four times the draws
SHORT = 750  # steps of the first, after which it is judged: many posteriors need no more


@dataclasses.dataclass(frozen=True)
class ReverseKL:
    """The objective of the first stage: minus the ELBO, of draws where the target has mass."""

    target: Target
    num_samples: int

    def __call__(self, flow: Flow, batch: Any, key: jax.Array) -> jax.Array:
        losses = reverse_kl(flow, jax.vmap(self.target.given(batch)), key, (self.num_samples,))
        inside = losses < jnp.inf
        return jnp.where(inside, losses, jax.lax.stop_gradient(losses.mean(where=inside)))


@dataclasses.dataclass(frozen=True)
class ForwardKL:
    """The objective of the second stage."""

    target: Callable[[jax.Array], jax.Array]
    num_samples: int

    def __call__(self, flow: Flow, batch: None, key: jax.Array) -> jax.Array:
        return forward_kl(flow, jax.vmap(self.target), key, self.num_samples)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stages:
    """Trains a flow towards a target, as far as it needs.

    A flow whose importance weights are even is not trained at all, or for a short part of the
    first stage only, and no stage ends worse than it began. Reverse KL gets close from far away,
    but its draws are those of q, and where q has no tails it learns them slowly; the forward KL
    learns them from draws that reach further, once q is close. It is run where weights would still
    move means or deviations.

    Attributes:
        target: The target, of which all but its log density is for the posterior alone.
        num_steps: Of the first stage, at most.
        num_samples: Draws in each of them.
        batch_size: Rows of the target's data in each of them; None for all.
        learning_rate: Peak of the first stage's; half of it in the second.
        optimizer: In place of Adam, in both.
        stop_early: Whether the first stage stops at a plateau.
        judge_key: Random key of the draws that judge q.
        options: Further arguments of `train`.
    """

    target: Target
    num_steps: int
    num_samples: int
    batch_size: int | None
    learning_rate: float | None
    optimizer: optax.GradientTransformation | None
    stop_early: bool
    judge_key: jax.Array
    options: dict[str, Any]

    def __call__(self, flow: Flow, key: jax.Array, folder: Path | None) -> Posterior:
        """Trains a flow, with checkpoints in a folder if one is given."""
        start = self._judged(flow, losses=np.zeros(0), history={"elbo": np.zeros(0)})
        if start.diagnostics.exact:
            return start
        first = self._first(start, key, folder)
        many = self.target.num_rows > MOST_ROWS
        if many or not first.diagnostics.wanting or first.stop_reason == "interrupted":
            return first
        return self._second(first, jax.random.fold_in(key, 1), folder)

    def _first(self, start: Posterior, key: jax.Array, folder: Path | None) -> Posterior:
        others = self.optimizer is not None or self.batch_size is not None or self.stop_early
        if others or self.num_steps <= SHORT:
            return _better(self._trained(start, self.num_steps, key, folder), start)
        short = self._trained(start, SHORT, key, folder)
        best = _better(short, start)
        if best.diagnostics.exact or short.stop_reason == "interrupted":
            return best
        rest_key, rest_folder = jax.random.fold_in(key, 2), folder and folder / "rest"
        try:
            rest = self._trained(short, self.num_steps - SHORT, rest_key, rest_folder)
        except NonFiniteError as error:
            warnings.warn(
                f"The posterior is that of the first {SHORT} steps: {error}", stacklevel=2
            )
            return best
        return _better(rest, best)

    def _trained(
        self, before: Posterior, num_steps: int, key: jax.Array, folder: Path | None
    ) -> Posterior:
        result = train(
            before.flow,
            ReverseKL(self.target, self.num_samples),
            self.target.data if self.batch_size else None,
            key=key,
            optimizer=adam_unless_given(self.optimizer, self.learning_rate, num_steps, PEAKS[0]),
            num_steps=num_steps,
            batch_size=self.batch_size or self.num_samples,
            stop_at_plateau=self.stop_early,
            checkpoint_dir=folder,
            description="ELBO",
            **self.options,
        )
        losses = np.append(before.losses, result.losses)
        return self._judged(
            result.module,
            losses=losses,
            history={"elbo": -losses},
            stop_reason=result.stop_reason,
            num_skipped=before.num_skipped + result.num_skipped,
        )

    def _second(self, first: Posterior, key: jax.Array, folder: Path | None) -> Posterior:
        num_steps, num_samples = max(1, self.num_steps // SHARE), DRAWS * self.num_samples
        rate = None if self.learning_rate is None else self.learning_rate / 2
        try:
            result = train(
                first.flow,
                ForwardKL(self.target.log_density, num_samples),
                key=key,
                optimizer=adam_unless_given(self.optimizer, rate, num_steps, PEAKS[1]),
                num_steps=num_steps,
                batch_size=num_samples,
                checkpoint_dir=folder and folder / f"forward-{self.num_steps}",
                description="forward KL",
                **self.options,
            )
        except NonFiniteError:
            return first
        interrupted = result.stop_reason == "interrupted"
        history = first.history | {"cross_entropy": result.losses}
        second = self._judged(
            result.module,
            losses=first.losses,
            history=history,
            stop_reason="interrupted" if interrupted else first.stop_reason,
            num_skipped=first.num_skipped + result.num_skipped,
        )
        return _better(second, first)

    def _judged(self, flow: Flow, **outcome: Any) -> Posterior:
        with attaching(flow):
            diagnostics = judge(flow, self.target, self.judge_key, self.num_samples)
        outcome = {"stop_reason": "finished", "num_skipped": 0, **outcome}
        return Posterior(flow=flow, target=self.target, diagnostics=diagnostics, **outcome)


def _better(trained: Posterior, before: Posterior) -> Posterior:
    """What was trained, with the flow of before if that was the better one."""
    if trained.diagnostics.better_than(before.diagnostics):
        return trained
    return dataclasses.replace(trained, flow=before.flow, diagnostics=before.diagnostics)

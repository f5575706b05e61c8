"""Variational inference: a flow as a posterior, by the reverse-KL ELBO."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from flows import _checks
from flows.distributions import Flow, require_flow, require_single
from flows.training import Outcome, Program, TrainingState, adam_unless_given, trace, train
from flows.variational.diagnostics import Diagnostics, diagnose
from flows.variational.laplace import first_starts
from flows.variational.modes import lost_modes
from flows.variational.objectives import reverse_kl
from flows.variational.start import starting_flow

NUM_DIAGNOSTIC_DRAWS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Posterior(Outcome):
    """A fitted variational posterior, and how it went: see also `flows.training.Outcome`.

    Attributes:
        flow: q, a distribution on R^D.
        losses: Minus the ELBO estimate of every step, in nats.
        history: {"elbo": ...}, the ELBO estimate of every step.
        diagnostics: ELBO, log evidence, effective sample size and k-hat on fresh draws, and modes
            that q has lost.
    """

    flow: Flow
    diagnostics: Diagnostics

    def sample(self, *, seed: jax.Array, sample_shape: int | tuple[int, ...] = ()) -> jax.Array:
        """Draws points [*sample_shape, D]."""
        return self.flow.sample(seed=seed, sample_shape=sample_shape)

    def log_prob(self, theta: jax.Array) -> jax.Array:
        """Log density of q at theta [..., D]."""
        return self.flow.log_prob(theta)


@dataclasses.dataclass(frozen=True)
class _NegativeELBO:
    target: Callable[[jax.Array], jax.Array]
    num_samples: int

    def __call__(self, flow: Flow, batch: None, key: jax.Array) -> jax.Array:
        return reverse_kl(flow, jax.vmap(self.target), key, (self.num_samples,))


def fit_posterior(
    target: Callable[[jax.Array], jax.Array],
    *,
    event_size: int | None = None,
    flow: Flow | None = None,
    key: jax.Array,
    num_steps: int = 3000,
    num_samples: int = 128,
    learning_rate: float | None = None,
    optimizer: optax.GradientTransformation | None = None,
    stop_early: bool = False,
    ema_decay: float | None = None,
    mesh: Mesh | None = None,
    checkpoint_dir: str | os.PathLike | None = None,
    callback: Callable[[TrainingState], Any] | None = None,
    progress: bool = True,
) -> Posterior:
    r"""Fits q to a log density by maximising the ELBO, E_q[log p(theta) - log q(theta)].

    Without a `flow`, coordinates are first whitened by the best of several Laplace fits, which
    stays as it is, so that units do not matter once a mode is found; behind it are a learnable
    affine layer and a RealNVP. Where several modes are found, its base is a mixture of normals,
    a component for each mode, fitted by importance sampling. Raw coordinates make most posteriors
    fail. Gradients are path gradients (Roeder et al. 2017, arXiv:1703.09194).

    Args:
        target: Log density of one point theta [D], up to a constant, on all of R^D: a JAX function
            that can be differentiated twice (once will do for a `flow` of your own, but no lost
            modes are looked for then). Constrained parameters need a change of variables with its
            log-Jacobian added. Another function of the same operations, on data of the same
            shapes, does not compile again.
        event_size: D; needed without a `flow`.
        flow: q to start from, unconditional; it is not changed.
        key: Random key.
        num_steps: Optimiser steps.
        num_samples: Draws from q in each step.
        learning_rate: Peak of the default optimizer's learning rate, 2e-3 by default.
        optimizer: An optax optimizer; by default Adam with warm-up, cosine decay to zero and
            adaptive gradient clipping.
        stop_early: Whether to stop when the ELBO, noisy as it is, has stopped rising: rises of
            less than about 0.001 standard deviations of the noise a step count as none. Best with
            an optimizer of constant learning rate.
        ema_decay: If given, e.g. 0.999, the posterior is an exponential moving average of the
            parameters.
        mesh: Devices to split the draws over, by its axis "data"; an axis "model" splits large
            weights. Without one it takes ALL devices, if they can share the draws equally.
        checkpoint_dir: Where to save the run now and then. The same call, after the process was
            killed, goes on from there; with more steps, the run there is lengthened.
        callback: Called a few times a second with a `flows.training.TrainingState`.
        progress: Whether to show a bar, or in a log file a line now and then.

    Returns:
        A `Posterior`. Its `.diagnostics` say when not to use it, and a warning does so too.
        (With `event_size=1` affine layers can only make q a normal; give a `flow` of your own.)

    Raises:
        TypeError: `target` is not callable, or `flow` is not a flow.
        ValueError: `target` does not return a scalar or is nowhere finite; sizes do not agree.
        flows.training.NonFiniteError: The optimisation diverged; `.module` is the last flow.

    Cost: in each step, the target and its gradient at `num_samples` points, and one pass of the
    flow in each direction; before and after, some ten thousand evaluations to look for modes,
    and where there seem to be several some hundred thousand to tell their shares.

    Example:
        >>> import flows, jax, jax.numpy as jnp
        >>> posterior = flows.fit_posterior(
        ...     lambda theta: -0.5 * jnp.sum(theta**2),
        ...     event_size=2, key=jax.random.key(0), num_steps=10, progress=False)
        >>> posterior.sample(seed=jax.random.key(1), sample_shape=(5,)).shape
        (5, 2)
    """
    if not callable(target):
        raise TypeError(f"target must be a callable log density, got {target!r}.")
    if flow is not None:
        require_flow("flow", flow)
        require_single("flow", flow)
        if flow.is_discrete:
            raise ValueError("flow must be over real numbers, and has integer columns.")
        if event_size not in (None, flow.event_size):
            raise ValueError(f"event_size is {event_size}, but flow has {flow.event_size}.")
        event_size = flow.event_size
    if event_size is None:
        raise ValueError("event_size is needed: pass event_size=D, or a flow.")
    _checks.positive_int("event_size", event_size)
    _checks.positive_int("num_steps", num_steps)
    _checks.positive_int("num_samples", num_samples)
    key = _checks.prng_key("key", key)
    start_key, network_key, train_key, final_key, modes_key = jax.random.split(key, 5)
    target = _traced(target, event_size)
    starts = first_starts(event_size, start_key)
    if flow is None:
        flow = starting_flow(
            target, starts, nnx.Rngs(network_key), jax.random.fold_in(start_key, 1)
        )
    result = train(
        flow,
        _NegativeELBO(target, num_samples),
        key=train_key,
        optimizer=adam_unless_given(optimizer, learning_rate, num_steps, 2e-3),
        num_steps=num_steps,
        batch_size=num_samples,
        stop_at_plateau=stop_early,
        ema_decay=ema_decay,
        mesh=mesh,
        checkpoint_dir=checkpoint_dir,
        callback=callback,
        progress=progress,
        description="ELBO",
    )
    log_weights = _log_weights(result.module, target, final_key, NUM_DIAGNOSTIC_DRAWS, num_samples)
    diagnostics = diagnose(np.asarray(log_weights))
    try:
        lost = lost_modes(
            result.module, target, starts, float(diagnostics.log_evidence.value),
            float(np.std(log_weights)), modes_key,
        )  # fmt: skip
        diagnostics = dataclasses.replace(diagnostics, lost_modes=lost)
    except (Exception, KeyboardInterrupt) as error:  # the posterior is not lost by it
        warnings.warn(
            "Modes that the posterior may have lost were not looked for: "
            f"{type(error).__name__}: {error}",
            stacklevel=2,
        )
    if not diagnostics.trustworthy:
        warnings.warn(f"The posterior is not to be trusted:\n{diagnostics}", stacklevel=2)
    return Posterior(
        flow=result.module,
        losses=result.losses,
        history={"elbo": -result.losses},
        diagnostics=diagnostics,
        stop_reason=result.stop_reason,
        num_skipped=result.num_skipped,
    )


def _traced(target: Callable[[jax.Array], jax.Array], event_size: int) -> Program:
    """The target as a pytree: another that computes the same, with other data, compiles no more."""
    point = jax.ShapeDtypeStruct((event_size,), jnp.result_type(float))
    out = jax.eval_shape(target, point)
    if getattr(out, "shape", None) != ():
        raise ValueError(
            f"target must map a point [{event_size}] to a scalar log density, got {out}."
        )
    return trace(target, point)


@functools.partial(jax.jit, static_argnames=("n", "batch_size"))
def _log_weights(flow: Flow, target, key: jax.Array, n: int, batch_size: int) -> jax.Array:
    theta, log_q = flow.sample_and_log_prob(seed=key, sample_shape=(n,))
    return jax.lax.map(target, theta, batch_size=batch_size) - log_q

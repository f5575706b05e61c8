"""Variational inference: a flow as a posterior, by the reverse-KL ELBO."""

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from flows import _checks
from flows.architectures import posterior_flow
from flows.distributions import Flow, require_flow, require_single
from flows.targets import Target, as_target
from flows.training import Program, TrainingState, adam_unless_given
from flows.variational.laplace import MOST_DIMENSIONS, LaplaceFits, laplace_fits
from flows.variational.lost import warn_of_modes, with_lost
from flows.variational.posterior import Posterior
from flows.variational.search import first_starts
from flows.variational.stages import MOST_ROWS, PEAKS, Stages
from flows.variational.start import better_of_two, fits_of, with_laplace, with_modes


def fit_posterior(
    target: Callable[[jax.Array], jax.Array] | Target,
    *,
    event_size: int | None = None,
    flow: Flow | None = None,
    key: jax.Array,
    start: Literal["auto", "laplace"] | None = "auto",
    num_steps: int = 3000,
    num_samples: int = 128,
    batch_size: int | None = None,
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
    a component for each mode, fitted by importance sampling; and so it is where tempering finds
    mass without a mode of its own. Raw coordinates make most posteriors fail. Gradients are path
    gradients (Roeder et al. 2017, arXiv:1703.09194). Where these leave tails short, a second stage
    lowers the forward divergence, KL(p || q), on weighted draws that reach further than q.

    Args:
        target: Log density of one point theta [D], up to a constant, on all of R^D: a JAX function
            that can be differentiated twice (once will do for a `flow` of your own, but no lost
            modes are looked for then). For named parameters in supports of their own it is one
            of `flows.targets`: `from_log_density`, `from_tfp` or `from_numpyro`. Another function
            of the same operations, on data of the same shapes, does not compile again.
        event_size: D; needed for a function without a `flow`.
        flow: q to start from, unconditional; it is not changed.
        start: "laplace" puts a flow behind the whitening map of the best Laplace fit, and "auto"
            does so if that raises the ELBO, as it does unless the flow has been trained; without
            a `flow`, "auto" also looks for several modes. None starts from the flow as it is.
        key: Random key.
        num_steps: Optimiser steps of the first stage, at most: an exact start takes none, and with
            the default optimizer (on all rows, and without `stop_early`) the stage ends after 750
            if q is exact then, to an effective sample size of 99.9 %. A second stage, where it is
            needed, has a third as many, and where modes were lost both are run again.
        num_samples: Draws from q in each step; the second stage takes four times as many.
        batch_size: Rows of the data in each step of the first stage, for a target that has them
            (`flows.targets.from_log_density`); None for all. Everything else is of all rows.
        learning_rate: Peak of the default optimizer's learning rate, 2e-3 by default; half of it
            in the second stage.
        optimizer: An optax optimizer; by default Adam with warm-up, cosine decay to zero and
            adaptive gradient clipping.
        stop_early: Whether to stop when the ELBO, noisy as it is, has stopped rising: rises of
            less than about 0.001 standard deviations of the noise a step count as none. Best with
            an optimizer of constant learning rate.
        ema_decay: If given, e.g. 0.999, the posterior is an exponential moving average of the
            parameters.
        mesh: Devices to split the draws over, or the rows of a batch, by its axis "data"; an axis
            "model" splits large weights. Without one it takes ALL devices, if they can share them
            equally.
        checkpoint_dir: Where to save the run now and then. The same call, after the process was
            killed, goes on from there; with more steps, the run there is lengthened.
        callback: Called a few times a second with a `flows.training.TrainingState`, in each stage:
            the first 750 steps, the rest of the first stage, the second.
        progress: Whether to show a bar, or in a log file a line now and then.

    Returns:
        A `Posterior`. Its `.diagnostics` say when not to use it, and a warning does so too.

    Raises:
        TypeError: `target` is neither a function nor a `Target`, or `flow` is not a flow.
        ValueError: `target` does not return a scalar or is nowhere finite; sizes do not agree.
        flows.training.NonFiniteError: The optimisation diverged; `.module` is the last flow. (And
            of a KeyboardInterrupt that comes while a flow is judged it is that one.)

    Cost: in each step, the target and its gradient at `num_samples` points, and one pass of the
    flow in each direction. Before and after: 65,536 evaluations to look for modes, in each of one
    to 16 searches; 20,000 each time that q is judged; D + 1 gradients for each of 32 Hessians of
    a search; where there seem to be several modes 131,072 evaluations to tell their shares; and
    some 100,000 for what tempering finds. A target of more than 20,000 rows of data is not
    searched, nor is a second stage run.

    Examples:
        >>> import flows, jax, jax.numpy as jnp
        >>> posterior = flows.fit_posterior(
        ...     lambda theta: -0.5 * jnp.sum(theta**2),
        ...     event_size=2, key=jax.random.key(0), num_steps=10, progress=False)
        >>> posterior.sample(seed=jax.random.key(1), sample_shape=(5,)).shape
        (5, 2)
    """
    if flow is not None:
        require_flow("flow", flow)
        require_single("flow", flow)
        if flow.is_discrete:
            raise ValueError("flow must be over real numbers, and has integer columns.")
        if event_size not in (None, flow.event_size):
            raise ValueError(f"event_size is {event_size}, but flow has {flow.event_size}.")
        event_size = flow.event_size
    target = as_target(target, event_size)
    log_density, event_size = target.log_density, target.event_size
    if flow is not None and flow.support is not None and target.forward is not None:
        raise ValueError("flow has a support, and target has its own: flow must be on all of R^D.")
    if start is not None:
        _checks.one_of("start", start, ("auto", "laplace"))
    if start == "laplace" and flow is not None and flow.support is not None:
        raise ValueError('start="laplace" needs a flow on all of R^D, and flow has a support.')
    _checks.positive_int("num_steps", num_steps)
    _checks.positive_int("num_samples", num_samples)
    _require_rows(target, batch_size)
    adam_unless_given(optimizer, learning_rate, num_steps, PEAKS[0])  # or says what is wrong
    key = _checks.prng_key("key", key)
    start_key, network_key, train_key, judge_key, modes_key = jax.random.split(key, 5)
    network = posterior_flow(event_size, nnx.Rngs(network_key)) if flow is None else flow
    fits = _first_fits(log_density, event_size, flow, start, start_key)
    searched = target.num_rows <= MOST_ROWS
    look = (
        searched and event_size <= MOST_DIMENSIONS and network.support is None and fits is not None
    )
    stages = Stages(
        target=target,
        num_steps=num_steps,
        num_samples=num_samples,
        batch_size=batch_size,
        learning_rate=learning_rate,
        optimizer=optimizer,
        stop_early=stop_early,
        judge_key=judge_key,
        options={
            "ema_decay": ema_decay, "mesh": mesh, "callback": callback, "progress": progress,
        },
    )  # fmt: skip
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    start_key = jax.random.fold_in(start_key, 1)
    alone = start == "laplace" or (flow is None and not searched)
    fits_of_start = None if start is None else fits
    begun = _begun(network, log_density, flow, alone, fits_of_start, start_key)
    posterior = stages(begun, train_key, folder)
    known = fits if look else None
    regions = searched and event_size <= MOST_DIMENSIONS and network.support is None
    search = partial(with_lost, regions=regions, batch_size=num_samples, key=modes_key)
    posterior = search(posterior, known)
    may_begin_again = flow is None and start == "auto" and posterior.stop_reason != "interrupted"
    lost = posterior.diagnostics.addable if may_begin_again else ()
    if lost and known is not None:
        try:
            added = fits_of(lost, known)
            begun = with_modes(network, log_density, known, start_key, added)
            again = stages(begun, train_key, folder and folder / f"again-{num_steps}")
            again = search(again, known.joined(added))
        except (FloatingPointError, ValueError) as error:
            warnings.warn(f"What was lost could not be added: {error}", stacklevel=2)
        else:
            looked = again.diagnostics.lost_modes is not None
            if looked and again.diagnostics.better_than(posterior.diagnostics):
                posterior = again
    if not posterior.diagnostics.trustworthy:
        warnings.warn(f"The posterior is not to be trusted:\n{posterior.diagnostics}", stacklevel=2)
    return posterior


def _require_rows(target: Target, batch_size: int | None) -> None:
    if batch_size is None:
        return
    _checks.positive_int("batch_size", batch_size)
    if not target.num_rows:
        raise ValueError(
            "batch_size needs a target that has rows of data: "
            "flows.targets.from_log_density(log_prior, .., log_likelihood=.., data=..)."
        )
    if batch_size > target.num_rows:
        raise ValueError(f"batch_size is {batch_size}, more than the {target.num_rows} rows.")


def _begun(
    network: Flow,
    log_density: Program,
    flow: Flow | None,
    alone: bool,
    fits: LaplaceFits | None,
    key: jax.Array,
) -> Flow:
    """The flow at its start: behind the best Gaussian alone, or what is better than that."""
    if fits is None:
        return network
    if alone:
        return with_laplace(network, log_density, fits, key)
    return (with_modes if flow is None else better_of_two)(network, log_density, fits, key)


def _first_fits(
    log_density: Program, event_size: int, flow: Flow | None, start: str | None, key: jax.Array
) -> LaplaceFits | None:
    """Gaussians at the modes around 0; None where they are neither needed nor can be had."""
    needed = start == "laplace" or (flow is None and start is not None)
    wanted = start is not None or event_size <= MOST_DIMENSIONS
    if not needed and (not wanted or (flow and flow.support is not None)):
        return None
    try:
        return laplace_fits(log_density, first_starts(event_size, key))
    except Exception as error:  # it has no Hessian
        if needed:
            raise
        warn_of_modes(error)
        return None

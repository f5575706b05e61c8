"""The host's part of training: it starts the compiled loop, looks in, reports and saves."""

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from flows import _checks
from flows.training import sharding
from flows.training.checkpoints import Checkpoints
from flows.training.interrupts import deferred_interrupt
from flows.training.on_device import LOG_SIZE, Objective, Task, parts
from flows.training.program import Program, trace
from flows.training.progress import progress_bar
from flows.training.results import NonFiniteError, TrainingResult, TrainingState
from flows.training.run import Run, finite_mean
from flows.training.sources import NEVER, source

EXHAUSTED = (None, 0)
SECONDS_PER_CHUNK = 0.3  # how long the compiled loop runs before the host looks in


def train(
    module: nnx.Module,
    objective: Objective,
    data: Any = None,
    *,
    validation: Any = None,
    metric: Objective | None = None,
    key: jax.Array,
    optimizer: optax.GradientTransformation,
    batch_size: int = 1,
    num_steps: int,
    patience: int | None = None,
    stop_at_plateau: bool = False,
    ema_decay: float | None = None,
    mesh: jax.sharding.Mesh | None = None,
    checkpoint_dir: Any = None,
    callback: Callable[[TrainingState], Any] | None = None,
    progress: bool = True,
    description: str = "train",
) -> TrainingResult:
    """Minimises the mean of `objective` over the `nnx.Param`s of a module.

    Steps run in a compiled loop that the host looks into a few times a second. A second call with
    arguments of the same shapes does not compile again, nor does one with a fresh optimizer that
    does the same. The result depends on the arguments alone: not on timing, nor, but for rounding,
    on the devices. Ctrl-C ends the run at the next look and keeps the best module so far.

    Args:
        module: What is trained; it is left unchanged, a new module is returned.
        objective: Returns the losses [batch_size] of a batch. It is traced once: what it closes
            over is what it was when `train` was called.
        data: Pytree of arrays with equal leading axes, drawn in shuffled batches; a
            `flows.training.OnDisk` or a `flows.training.Batches`; or None.
        validation: Pytree of arrays, evaluated after each epoch with the same random numbers.
        metric: What to evaluate there; by default the objective.
        key: Random key.
        optimizer: Any optax optimizer that needs no more than gradients and the loss.
        batch_size: Rows in a batch; each epoch leaves out the remainder of its shuffle.
        num_steps: Largest number of steps.
        patience: Stop after this many epochs without a better validation loss; None for never.
        stop_at_plateau: Stop when the training loss, noisy as it is, has stopped falling (see
            `flows.training.plateau`): for objectives without validation data.
        ema_decay: Decay of an exponential moving average of the parameters, e.g. 0.999. On
            validation the better of the two counts; without, the average is what is returned.
        mesh: Devices, with an axis "data" for the batch and perhaps one "model" for the last axis
            of weights. Without one it takes ALL devices, if they can share the batch equally.
        checkpoint_dir: Where to save the run now and then. The same call, made again after the
            process has died, goes on from there and ends as if nothing had happened. With more
            steps the run there is lengthened: the schedule of `adam` then spans them all.
        callback: Called with a `TrainingState` a few times a second, for logging.
        progress: Whether to show a bar, or in a log file a line now and then.
        description: What to call the run on the bar.

    Raises:
        NonFiniteError: Over a fifth of the last hundred steps, or all there were, failed.
        ValueError: The directory holds another run, or no checkpoint there can be read.

    An exception that ends the run, this one or one of the data or of the callback, carries the
    best module so far as its attribute `.module`.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be an optax optimizer, got {optimizer!r}.")
    if ema_decay is not None and not 0 < ema_decay < 1:
        raise ValueError(f"ema_decay must lie between 0 and 1, got {ema_decay}.")
    mesh = sharding.resolve(mesh, batch_size)
    data_key, step_key = jax.random.split(key)
    batches = source(data, data_key, batch_size, num_steps, mesh)
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]
    traced = functools.partial(_traced, graphdef, params, rest, step_key)
    measured = None
    if validation is not None:
        num_rows = _checks.num_rows("validation", validation)
        _, width = parts(num_rows, mesh)
        example = jax.eval_shape(
            lambda tree: jax.tree.map(lambda array: array[jnp.zeros(width, int)], tree), validation
        )
        measured = traced(metric or objective, example)
        shape = jax.eval_shape(measured, params, rest, example, step_key).shape
        if shape != (width,):
            raise ValueError(
                f"metric (by default objective) must return the loss of each of {width} examples, "
                f"got shape {shape}."
            )
    task = Task(
        rest=rest,
        objective=traced(objective, batches.example),
        metric=measured,
        validation=validation,
        key=step_key,
        validation_key=jax.random.fold_in(step_key, NEVER),
        num_steps=jnp.int32(num_steps),
        steps_per_epoch=jnp.int32(min(batches.steps_per_epoch, num_steps)),
        patience=jnp.int32(NEVER if patience is None else patience),
        stop_at_plateau=jnp.asarray(stop_at_plateau),
        decay=jnp.asarray(ema_decay or 0.0, float),
    )
    run = Run(graphdef, task, params, optimizer, ema_decay is not None, mesh)
    checkpoints = None
    if checkpoint_dir is not None:
        checkpoints = Checkpoints(checkpoint_dir, run.identity(batches, batch_size))
        run.restore(checkpoints)
    run.place()
    bar = progress_bar(num_steps, run.step, description, progress)
    try:
        with bar, contextlib.closing(batches.blocks(run.step)) as blocks:
            reason = _drive(run, blocks, checkpoints, callback, bar)
        if run.step:
            run.conclude()
        if reason == "failing" or run.num_skipped == run.step > 0:
            raise NonFiniteError(
                "The loss, its gradient or the updated parameters were not finite in "
                f"{run.num_skipped} of {run.step} steps. Look for extreme values in the data or "
                "the target, or lower the learning rate; .module is the best so far."
            )
    except Exception as error:
        with contextlib.suppress(RuntimeError):  # if it came while the state was being replaced
            if run.step and jax.process_count() == 1:  # the others may still be at work
                run.conclude()
            error.module = run.best_module()  # type: ignore[attr-defined]
        raise
    for problem in _problems(run):
        warnings.warn(problem, stacklevel=3)
    return TrainingResult(
        module=run.best_module(),
        losses=run.losses,
        history=run.by_epoch(),
        stop_reason=reason,
        num_skipped=run.num_skipped,
    )


def _drive(
    run: Run,
    blocks: Iterator[tuple[Any, float] | None],
    checkpoints: Checkpoints | None,
    callback: Callable[[TrainingState], Any] | None,
    bar: Any,
) -> str:
    """Runs the compiled loop in chunks to the end; returns the reason of the end."""
    block: Any = None
    end: float = run.step
    chunk = 10
    alone = jax.process_count() == 1  # otherwise Ctrl-C has to be agreed upon
    with deferred_interrupt() as interrupted:
        while (reason := run.why_stopped()) is None:
            if run.step == end:
                found = next(blocks, EXHAUSTED)
                if found is EXHAUSTED or (found is None and alone and interrupted()):
                    reason = "interrupted" if found is None else "exhausted"
                    break
                if found is None:
                    continue  # the next block is still on its way
                block, end = found
            clock, first = time.monotonic(), run.step
            run.advance(int(min(first + chunk, end, run.num_steps)), block)
            rate = (run.step - first) / max(time.monotonic() - clock, 1e-6)
            seen = _seen_by_callback(run, first, rate)
            bar.set_postfix(_shown(seen), refresh=False)
            bar.update(run.step - first)
            if callback is not None:
                callback(seen)
            wish = min(LOG_SIZE, max(1, int(SECONDS_PER_CHUNK * rate)))
            save = checkpoints is not None and checkpoints.due()
            chunk, pressed, due = map(int, sharding.of_first_process(wish, interrupted(), save))
            if pressed:
                reason = "interrupted"
                break
            if checkpoints is not None and due:
                run.save(checkpoints)
        if checkpoints is not None:
            run.save(checkpoints)
    return reason


def _problems(run: Run) -> Iterator[str]:
    """What went wrong without ending the run."""
    if run.num_skipped:
        yield (
            f"{run.num_skipped} training steps had a non-finite loss or gradient, or led to "
            "non-finite parameters; skipped."
        )
    num_bad = int(np.sum(~np.isfinite(run.validation)))
    if num_bad:
        yield (
            f"The validation loss was not finite in {num_bad} of {len(run.validation)} epochs; "
            "these were passed over. Look for extreme values in the validation data."
        )
    tenth = len(run.losses) // 10
    begin, end = run.losses[:tenth], run.losses[len(run.losses) - tenth :]
    if run.never_improved:
        yield (
            "No epoch was better on validation than the start, which is returned. It may be right "
            "already; if not, lower the learning rate, or train on more data."
        )
    elif tenth > 1 and finite_mean(end) - finite_mean(begin) > 3 * np.std(begin):
        yield (
            f"The training loss rose from {finite_mean(begin):.4g} to {finite_mean(end):.4g}: "
            "lower the learning rate."
        )


def _seen_by_callback(run: Run, first: int, rate: float) -> TrainingState:
    return TrainingState(
        step=run.step,
        num_steps=run.num_steps,
        epoch=run.num_epochs,
        loss=finite_mean(run.losses[first:]),
        validation_loss=float(run.validation[-1]) if len(run.validation) else None,
        steps_per_second=rate,
        num_skipped=run.num_skipped,
        make_module=run.best_module,
    )


def _shown(seen: TrainingState) -> dict[str, str]:
    shown = {"train": f"{seen.loss:.4f}"}
    if seen.validation_loss is not None:
        shown["validation"] = f"{seen.validation_loss:.4f}"
    return shown


def _traced(
    graphdef: Any, params: Any, rest: Any, key: jax.Array, function: Objective, example: Any
) -> Program:
    """An objective as a `Program` of (params, rest, batch, key)."""
    return trace(
        lambda params, rest, batch, key: function(nnx.merge(graphdef, params, rest), batch, key),
        params, rest, example, key,
    )  # fmt: skip

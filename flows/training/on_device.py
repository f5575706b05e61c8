"""The compiled part: steps, validation and the decision to stop, in one loop on the device."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from flows._programs import quick_jit
from flows.training.plateau import Plateau
from flows.training.program import Program
from flows.training.sharding import keep_parameters, split_batch

Objective = Callable[[Any, Any, jax.Array], jax.Array]
"""Maps (module, batch, key) to the per-example losses [batch]."""

LOG_SIZE = 4096  # steps between two looks of the host, at most
EVALUATION_ROWS = 4096  # rows evaluated at once
FAILING_LIMIT = 0.2  # the share of the last hundred or so steps that may fail


class State(NamedTuple):
    """All that changes, and all that a checkpoint needs."""

    step: jax.Array  # steps done
    params: Any
    opt_state: Any
    average: Any  # exponential moving average of the parameters, or None
    best: Any  # parameters with the lowest validation loss; None without validation
    best_loss: jax.Array
    since_best: jax.Array  # epochs
    validated: jax.Array  # step of the last validation
    num_skipped: jax.Array
    failing: jax.Array  # running share of steps that were skipped
    plateau: Plateau


class Task(NamedTuple):
    """All that stays."""

    rest: Any  # what of the module is not trained
    objective: Program  # maps (params, rest, batch, key) to the per-example losses
    metric: Any  # what validation measures, likewise
    validation: Any
    key: jax.Array
    validation_key: jax.Array
    num_steps: jax.Array
    steps_per_epoch: jax.Array
    patience: jax.Array
    stop_at_plateau: jax.Array
    decay: jax.Array  # of the moving average


class Log(NamedTuple):
    """What happened in one call."""

    losses: jax.Array  # of the steps, from 0
    validation: jax.Array  # of the epochs that ended, from 0
    num_epochs: jax.Array


def start(params: Any, optimizer: Any, averaged: bool, validated: bool) -> State:
    """The state before the first step."""
    zero = jnp.zeros((), jnp.int32)
    return _copied(
        State(
            step=zero,
            params=params,
            opt_state=optimizer.init(params),
            average=params if averaged else None,
            best=params if validated else None,
            best_loss=jnp.asarray(jnp.inf, float),
            since_best=zero,
            validated=zero - 1,
            num_skipped=zero,
            failing=jnp.zeros(()),
            plateau=Plateau.start(),
        )
    )


@jax.jit
def _copied(state: State) -> State:
    """The same: every call overwrites it, and it may share no array with others, nor in itself."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, dtype=leaf.dtype), state)


@jax.jit
def reasons(state: State, task: Task) -> dict[str, jax.Array]:
    """The rules that end a run, and whether they hold."""
    return {
        "failing": state.failing > FAILING_LIMIT,
        "finished": (state.step >= task.num_steps) & ~_validation_is_due(state, task),
        "patience": state.since_best >= task.patience,
        "plateau": task.stop_at_plateau & state.plateau.reached,
    }


def _validation_is_due(state: State, task: Task) -> jax.Array:
    """Before the first step, at the end of an epoch, and after the last step."""
    if task.validation is None:
        return jnp.asarray(False)
    ends = (state.step % task.steps_per_epoch == 0) | (state.step == task.num_steps)
    return ends & (state.validated < state.step)


@quick_jit(static_argnames="mesh", donate_argnames="state")
def run(
    state: State, until: jax.Array, task: Task, data: Any, update: Program, *, mesh: Mesh
) -> tuple[State, Log]:
    """Steps on to step `until` (at most LOG_SIZE of them), or to where a rule ends the run."""
    first = state.step

    def running(carry: tuple[State, Log]) -> jax.Array:
        state, _ = carry
        ended = functools.reduce(jnp.logical_or, reasons(state, task).values())
        return ((state.step < until) | _validation_is_due(state, task)) & ~ended

    def step(carry: tuple[State, Log]) -> tuple[State, Log]:
        state, loss = _step(carry[0], task, data, update, mesh)
        losses = carry[1].losses.at[carry[0].step - first].set(loss)
        return state, carry[1]._replace(losses=losses)

    def act(carry: tuple[State, Log]) -> tuple[State, Log]:
        if task.validation is None:
            return step(carry)
        look = functools.partial(_validate, task=task, mesh=mesh)
        return jax.lax.cond(_validation_is_due(carry[0], task), look, step, carry)

    empty = jnp.full(LOG_SIZE, jnp.nan)
    log = Log(empty, empty, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(running, act, (state, log))


def _step(
    state: State, task: Task, data: Any, update: Program, mesh: Mesh
) -> tuple[State, jax.Array]:
    """One step of the optimizer; skipped if its loss, gradient or outcome is not finite."""
    batch = data.batch(state.step)
    key = jax.random.fold_in(task.key, state.step)

    def mean_loss(params: Any) -> jax.Array:
        return split_batch(task.objective(params, task.rest, batch, key), mesh).mean()

    loss, grads = jax.value_and_grad(mean_loss)(state.params)
    loss = loss.astype(state.best_loss.dtype)
    updates, opt_state = update(grads, state.opt_state, state.params, loss)
    params = keep_parameters(optax.apply_updates(state.params, updates), mesh)
    ok = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))
    ok = jax.tree.reduce(lambda ok, leaf: ok & jnp.isfinite(leaf).all(), params, ok)
    average = state.average
    if average is not None:
        decay = jnp.minimum(task.decay, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(params, average, 1 - decay)
    new = params, opt_state, average, state.plateau.update(loss)
    old = state.params, state.opt_state, state.average, state.plateau
    params, opt_state, average, plateau = jax.tree.map(functools.partial(jnp.where, ok), new, old)
    state = state._replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        average=average,
        plateau=plateau,
        num_skipped=state.num_skipped + ~ok,
        failing=0.99 * state.failing + 0.01 * ~ok,
    )
    return state, loss


@quick_jit(static_argnames="mesh")
def validate(state: State, task: Task, *, mesh: Mesh) -> tuple[State, jax.Array]:
    """Validates as at the end of an epoch; returns the loss."""
    empty = jnp.full(1, jnp.nan)
    state, log = _validate((state, Log(empty, empty, jnp.zeros((), jnp.int32))), task, mesh)
    return state, log.validation[0]


def _validate(carry: tuple[State, Log], task: Task, mesh: Mesh) -> tuple[State, Log]:
    """Keeps the parameters, or their average, if they are the best so far; logs the epochs."""
    state, log = carry
    params = state.params
    if state.average is None:
        loss = evaluate(params, task, mesh)
    else:
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, state.average)
        loss, of_average = jax.lax.map(lambda params: evaluate(params, task, mesh), both)
        better = (of_average < loss) | jnp.isnan(loss)
        params = jax.tree.map(functools.partial(jnp.where, better), state.average, params)
        loss = jnp.where(better, of_average, loss)
    better = loss < state.best_loss
    epochs_done = (state.step > 0).astype(jnp.int32)  # none before the first step
    new = state._replace(
        best=jax.tree.map(functools.partial(jnp.where, better), params, state.best),
        best_loss=jnp.where(better, loss, state.best_loss),
        since_best=jnp.where(better, 0, state.since_best + epochs_done),
        validated=state.step,
    )
    validation = log.validation.at[log.num_epochs].set(loss)
    return new, Log(log.losses, validation, log.num_epochs + epochs_done)


def evaluate(params: Any, task: Task, mesh: Mesh) -> jax.Array:
    """Mean of the metric over the validation data, with the same random numbers every time."""
    num_rows = len(jax.tree.leaves(task.validation)[0])
    num_parts, width = parts(num_rows, mesh)

    def add_part(total: jax.Array, part: jax.Array) -> tuple[jax.Array, None]:
        rows = part * width + jnp.arange(width)
        batch = jax.tree.map(lambda a: a[jnp.minimum(rows, num_rows - 1)], task.validation)
        key = jax.random.fold_in(task.validation_key, part)
        losses = task.metric(params, task.rest, split_batch(batch, mesh), key)
        return total + jnp.where(rows < num_rows, losses, 0).sum(), None

    total, _ = jax.lax.scan(add_part, jnp.zeros_like(task.decay), jnp.arange(num_parts))
    return total / num_rows


def parts(num_rows: int, mesh: Mesh) -> tuple[int, int]:
    """Into how many parts validation data are split, and how many rows each has."""
    num_parts = -(-num_rows // EVALUATION_ROWS)
    width = -(-num_rows // num_parts)
    return num_parts, width + -width % mesh.shape["data"]

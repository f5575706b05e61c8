"""One training loop for every objective: steps run inside a compiled loop, in chunks."""

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm.auto import tqdm

Objective = Callable[[Any, Any, jax.Array], jax.Array]
"""Maps (module, batch, key) to the per-example losses [batch]."""

SECONDS_PER_CHUNK = 0.3  # how long the compiled loop runs before the host looks in
EVALUATION_ROWS = 4096  # rows evaluated at once
MAX_STREAK = 20  # steps in a row that may fail before the run is stopped


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What a run of `train` leaves behind.

    Attributes:
        module: The trained module: the best on validation, or the last without validation.
        history: "train" and "validation" loss of each epoch (the latter empty without validation).
        losses: Training loss of every step; NaN or inf where a step was skipped.
        stop_reason: "finished", "patience" or "interrupted".
        num_skipped: Number of steps skipped because their loss or gradient was not finite.
    """

    module: Any
    history: dict[str, np.ndarray]
    losses: np.ndarray
    stop_reason: str
    num_skipped: int


class NonFiniteError(FloatingPointError):
    """Step after step had a non-finite loss or gradient.

    Attributes:
        module: The best module so far.
    """

    def __init__(self, message: str, module: Any):
        super().__init__(message)
        self.module = module


class _State(NamedTuple):
    params: Any
    opt_state: Any
    losses: jax.Array  # of the steps of this epoch
    num_skipped: jax.Array
    streak: jax.Array  # steps skipped since the last good one


def train(
    module: nnx.Module,
    objective: Objective,
    data: Any = None,
    *,
    validation: Any = None,
    key: jax.Array,
    optimizer: optax.GradientTransformation,
    batch_size: int = 1,
    num_steps: int,
    patience: int | None = None,
    progress: bool = True,
    description: str = "train",
) -> TrainingResult:
    """Minimises the mean of `objective` over the `nnx.Param`s of a module.

    Steps run in a compiled loop, in chunks of a fraction of a second. A second call with arguments
    of the same shapes, the same objective function and the same optimizer object does not
    recompile. Ctrl-C ends the run and keeps the best module so far.

    Args:
        module: What is trained; it is left unchanged, a new module is returned.
        objective: Per-example loss: a plain function, or a callable that is a pytree, whose arrays
            are then traced rather than compiled in.
        data: Pytree of arrays with equal leading axes, drawn in shuffled batches; or None.
        validation: Like `data`; evaluated after each epoch.
        key: Random key.
        optimizer: Any optax optimizer that needs no more than gradients and the loss.
        batch_size: Rows in a batch; each epoch leaves out the remainder of its shuffle.
        num_steps: Largest number of steps. Without `data` they make one epoch.
        patience: Stop after this many epochs without a better validation loss; None for never.
        progress: Whether to show a bar (only where stderr is a terminal).
        description: What to call the run on the bar.

    Raises:
        NonFiniteError: 20 steps in a row, or all there were, failed; the exception carries the
            best module.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be an optax optimizer, got {optimizer!r}.")
    steps = num_steps if data is None else len(jax.tree.leaves(data)[0]) // batch_size
    num_epochs = -(-num_steps // steps)
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]
    if jax.tree_util.all_leaves([objective]):
        objective = jax.tree_util.Partial(objective)
    run = functools.partial(_run, optimizer=optimizer, batch_size=batch_size)
    zero = jnp.zeros((), int)
    state = _State(params, optimizer.init(params), jnp.full(steps, jnp.nan), zero, zero)
    best, best_loss, since_best = None, np.inf, 0
    losses: list[np.ndarray] = []
    history: dict[str, list[float]] = {"train": [], "validation": []}
    stop_reason = "finished"

    def finished_module():
        chosen = state.params if best is None else best
        return nnx.merge(graphdef, chosen, rest)

    chunk, num_skipped, start = 10, 0, 0
    bar = tqdm(total=num_steps, desc=description, disable=None if progress else True, unit="step")
    try:
        for epoch in range(num_epochs):
            epoch_key = jax.random.fold_in(key, epoch)
            order = None if data is None else _shuffle(epoch_key, data)
            start, end = 0, min(steps, num_steps - epoch * steps)
            while start < end:
                stop, clock = min(start + chunk, end), time.monotonic()
                state = run(state, start, stop, graphdef, rest, objective, data, order, epoch_key)
                num_skipped = int(state.num_skipped)  # waits for the chunk
                streak = int(state.streak)
                if streak >= MAX_STREAK or num_skipped == num_steps:
                    raise NonFiniteError(
                        f"The loss or its gradient was not finite in {streak} steps in a row, up "
                        f"to step {stop} of epoch {epoch}. Look for extreme values in the data or "
                        "the target, or lower the learning rate; the exception's .module holds "
                        "the best so far.",
                        finished_module(),
                    )
                rate = (stop - start) / max(time.monotonic() - clock, 1e-6)
                bar.update(stop - start)
                start, chunk = stop, max(1, int(SECONDS_PER_CHUNK * rate))
            losses.append(np.asarray(state.losses)[:end])
            history["train"].append(float(np.mean(losses[-1], where=np.isfinite(losses[-1]))))
            shown = {"train": f"{history['train'][-1]:.4f}"}
            if validation is not None:
                loss = float(_evaluate(graphdef, state.params, rest, objective, validation, key))
                history["validation"].append(loss)
                shown["validation"] = f"{loss:.4f}"
                since_best += 1
                if loss < best_loss:
                    best, best_loss, since_best = state.params, loss, 0
            bar.set_postfix(shown, refresh=False)
            if patience is not None and since_best >= patience:
                stop_reason = "patience"
                break
    except KeyboardInterrupt:
        stop_reason = "interrupted"
        if len(losses) == len(history["train"]):  # keep what the cut epoch has done
            losses.append(np.asarray(state.losses)[:start])
    finally:
        bar.close()
    if num_skipped:
        warnings.warn(
            f"{num_skipped} training steps had a non-finite loss or gradient and were skipped.",
            stacklevel=3,
        )
    num_bad = int(np.sum(~np.isfinite(history["validation"])))
    if num_bad:
        warnings.warn(
            f"The validation loss was not finite in {num_bad} of {len(history['validation'])} "
            "epochs; these were passed over. Look for extreme values in the validation data.",
            stacklevel=3,
        )
    return TrainingResult(
        finished_module(),
        {name: np.asarray(values) for name, values in history.items()},
        np.concatenate(losses) if losses else np.zeros(0),
        stop_reason,
        num_skipped,
    )


@functools.partial(jax.jit, static_argnames=("optimizer", "batch_size"))
def _run(
    state, start, stop, graphdef, rest, objective, data, order, key, *, optimizer, batch_size
) -> _State:
    """Runs steps start .. stop-1 of an epoch; their number is traced, so that any will do."""

    def step(i: jax.Array, state: _State) -> _State:
        batch = None
        if data is not None:
            rows = jax.lax.dynamic_slice_in_dim(order, i * batch_size, batch_size)
            batch = jax.tree.map(lambda array: array[rows], data)

        def mean_loss(params):
            module = nnx.merge(graphdef, params, rest)
            return objective(module, batch, jax.random.fold_in(key, i)).mean()

        loss, grads = jax.value_and_grad(mean_loss)(state.params)
        update = optax.with_extra_args_support(optimizer).update
        updates, opt_state = update(grads, state.opt_state, state.params, value=loss)
        new = (optax.apply_updates(state.params, updates), opt_state)
        ok = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))
        params, opt_state = jax.tree.map(
            functools.partial(jnp.where, ok), new, (state.params, state.opt_state)
        )
        losses = state.losses.at[i].set(loss)
        streak = jnp.where(ok, 0, state.streak + 1)
        return _State(params, opt_state, losses, state.num_skipped + ~ok, streak)

    return jax.lax.fori_loop(start, stop, step, state)


@jax.jit
def _shuffle(key: jax.Array, data: Any) -> jax.Array:
    return jax.random.permutation(key, len(jax.tree.leaves(data)[0]))


@jax.jit
def _evaluate(graphdef, params, rest, objective, data, key) -> jax.Array:
    module = nnx.merge(graphdef, params, rest)

    def loss_of_row(row):
        return objective(module, jax.tree.map(lambda a: a[None], row), key)[0]

    return jax.lax.map(loss_of_row, data, batch_size=EVALUATION_ROWS).mean()

"""A run in progress: its state on the devices, its history on the host."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from flows.training import on_device, sharding
from flows.training.checkpoints import Checkpoints, as_it_was, checksum, describe
from flows.training.on_device import Task
from flows.training.optimizers import with_num_steps
from flows.training.program import Program, trace
from flows.training.sources import Source


class Run:
    """A run in progress.

    Args:
        graphdef: The structure of the module.
        task: What is to be done.
        params: The parameters to start from.
        optimizer: Any optax optimizer.
        averaged: Whether to keep a moving average of the parameters.
        mesh: The devices.

    Attributes:
        step: Steps done.
        losses: Loss of every step.
        validation: Validation loss of every epoch that ended.
    """

    def __init__(
        self, graphdef: Any, task: Task, params: Any, optimizer: Any, averaged: bool, mesh: Mesh
    ):
        self.graphdef, self.task, self.mesh = graphdef, task, mesh
        self.state = on_device.start(params, optimizer, averaged, task.validation is not None)
        self.update = _traced_update(optimizer, self.state)
        self.step = 0
        self.losses = np.zeros(0)
        self.validation = np.zeros(0)

    def place(self) -> None:
        """Puts everything on its devices."""
        self.task = sharding.replicate(self.task, self.mesh)
        self.state = sharding.place(self.state, self.mesh)

    def advance(self, until: int, block: Any) -> None:
        """Steps on to step `until`, or to where a rule ends the run."""
        self.state, log = on_device.run(
            self.state, jnp.int32(until), self.task, block, self.update, mesh=self.mesh
        )
        first, self.step = self.step, int(self.state.step)  # waits
        losses, validation = np.asarray(log.losses), np.asarray(log.validation)
        self.losses = np.append(self.losses, losses[: self.step - first])
        self.validation = np.append(self.validation, validation[: int(log.num_epochs)])

    @property
    def num_steps(self) -> int:
        return int(self.task.num_steps)

    @property
    def num_epochs(self) -> int:
        return self.step // int(self.task.steps_per_epoch)

    @property
    def num_skipped(self) -> int:
        return int(self.state.num_skipped)

    @property
    def never_improved(self) -> bool:
        """Whether validation liked none of its epochs better than the start."""
        never = 0 < len(self.validation) <= int(self.state.since_best)
        return never and bool(np.isfinite(self.state.best_loss))

    def why_stopped(self) -> str | None:
        """The rule that has ended the run, or None."""
        reasons = on_device.reasons(self.state, self.task)
        return next((name for name, holds in reasons.items() if holds), None)

    def best_module(self) -> Any:
        """The best on validation; without one so far, the average or the last."""
        state = self.state
        chosen = state.params if state.average is None else state.average
        if len(self.validation) and np.isfinite(state.best_loss):
            chosen = state.best
        parts = sharding.gather((chosen, self.task.rest), self.mesh)
        return nnx.merge(self.graphdef, *parts)

    def conclude(self) -> None:
        """Validates the steps after the last whole epoch of a run that ended before its time."""
        if self.task.validation is None or int(self.state.validated) >= self.step:
            return
        self.state, loss = on_device.validate(self.state, self.task, mesh=self.mesh)
        self.validation = np.append(self.validation, float(loss))

    def by_epoch(self) -> dict[str, np.ndarray]:
        """Mean training loss (of the steps not skipped) and validation loss of each epoch.

        The last epoch may be one that was not finished.
        """
        length = int(self.task.steps_per_epoch)
        epochs = [self.losses[i : i + length] for i in range(0, len(self.losses), length)]
        return {"train": np.array([finite_mean(e) for e in epochs]), "validation": self.validation}

    def identity(self, batches: Source, batch_size: int) -> dict[str, str]:
        """What makes this run the one it is: a checkpoint with anything else is of another.

        The number of steps is no part of it: a run can be lengthened.
        """
        task, state, data = self.task, self.state, batches.fingerprint()
        optimizer = with_num_steps(state.opt_state, self.num_steps, 0), self.update
        rule = task.patience, task.stop_at_plateau, task.decay
        return {
            "flow": describe((self.graphdef, state.params, task.rest)),
            "shape of the data": describe((data, task.validation)),
            "batch_size": str(batch_size),
            "optimizer": describe(optimizer),
            "objective": describe((task.objective, task.metric)),
            "initial flow": checksum((state.params, task.rest)),
            "data": checksum((data, task.validation, task.objective, task.metric)),
            "key": checksum(jax.random.key_data(task.key)),
            "steps_per_epoch": str(batches.steps_per_epoch),
            "learning rate": checksum(optimizer),
            "rule for stopping or averaging": " ".join(map(str, rule)),
        }

    def save(self, checkpoints: Checkpoints) -> None:
        state = jax.tree.leaves(sharding.gather(self.state, self.mesh))
        history = [self.losses, self.validation]
        planned = {"num_steps": self.num_steps}
        checkpoints.save(self.step, {"state": state, "history": history, "planned": planned})

    def restore(self, checkpoints: Checkpoints) -> None:
        """Goes back to the newest checkpoint, if there is one, and on for more steps if asked to.

        Raises:
            ValueError: The run there has more steps.
        """
        saved = checkpoints.restore()
        if saved is None:
            return
        [planned] = map(int, saved["planned"])
        if planned > self.num_steps:
            raise ValueError(
                f"checkpoint_dir {checkpoints.directory} holds a run planned for {planned} steps, "
                f"more than the {self.num_steps} asked for: it can be lengthened, not shortened."
            )
        fresh, tree = jax.tree.flatten(self.state)
        self.state = jax.tree.unflatten(tree, map(as_it_was, saved["state"], fresh))
        self.losses, self.validation = saved["history"]
        self.step = int(self.state.step)
        if planned < self.num_steps:
            self._lengthen(planned)

    def _lengthen(self, planned: int) -> None:
        """Prepares for more steps than were planned; an epoch that was cut short is not counted."""
        state = self.state
        cut_short = len(self.validation) > self.num_epochs
        self.validation = self.validation[: self.num_epochs]
        self.state = state._replace(
            opt_state=with_num_steps(state.opt_state, planned, self.num_steps),
            since_best=jnp.maximum(state.since_best - cut_short, 0),
        )


def finite_mean(losses: np.ndarray) -> float:
    """Mean of the finite ones; NaN if there are none."""
    finite = losses[np.isfinite(losses)]
    return float(finite.mean()) if len(finite) else float("nan")


def _traced_update(optimizer: Any, state: on_device.State) -> Program:
    """The optimizer's update as (grads, opt_state, params, loss) -> (updates, opt_state)."""
    update = optax.with_extra_args_support(optimizer).update
    return trace(
        lambda grads, opt_state, params, loss: update(grads, opt_state, params, value=loss),
        state.params, state.opt_state, state.params, state.best_loss,
    )  # fmt: skip

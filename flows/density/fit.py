"""Density fitting by maximum likelihood."""

import dataclasses
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from flows import _checks
from flows.density.objective import MaximumLikelihood
from flows.density.rows import prepare
from flows.distributions import Ensemble, Flow, require_flow
from flows.training import Outcome, TrainingState, adam_unless_given, train

LEARNING_RATE = 6e-3  # by the trials of benchmarks/density.md
EMA_DECAY = 0.99
FAR = 100.0  # nats for each coordinate: data 14 standard deviations out


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitResult(Outcome):
    """A fitted flow, and how it went: see also `flows.training.Outcome`.

    Attributes:
        flow: The flow with the lowest validation loss (the last one without validation); of
            `fit_ensemble` an `Ensemble`.
        losses: The mean negative log-likelihood in nats of each step's batch.
        history: {"train": ..., "validation": ...}, that of each epoch (of the steps not skipped).
        held_out: The rows that were validated on, not trained on: (x, context or None, weights or
            None); None without validation.
    """

    flow: Flow | Ensemble = dataclasses.field(repr=False)
    held_out: tuple[jax.Array, jax.Array | None, jax.Array | None] | None = dataclasses.field(
        repr=False
    )


def fit(
    flow: Flow,
    x: Any,
    *,
    context: Any = None,
    weights: Any = None,
    validation: Any = "auto",
    key: jax.Array,
    learning_rate: float | None = None,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    max_epochs: int = 100,
    steps_per_epoch: int | None = None,
    patience: int | None = 10,
    ema_decay: float | str | None = "auto",
    dequantize: Any = None,
    jitter: float | None = None,
    compute_dtype: Any = None,
    mesh: Mesh | None = None,
    checkpoint_dir: str | os.PathLike | None = None,
    callback: Callable[[TrainingState], Any] | None = None,
    progress: bool = True,
) -> FitResult:
    r"""Fits a flow by maximum likelihood: minimises -sum_n w_n log p(x_n | c_n) / sum_n w_n.

    Args:
        flow: The flow to start from; it is not changed.
        x: Finite floating-point data [N, event_size], or a pandas or polars frame, inside the
            support of the flow; where that has integers, integers too. A `numpy.memmap` is read
            from disk as it is needed, in the same order as an array would be. An iterable of
            batches (a list is an array), such as a grain loader, gives x, (x, context) or
            (x, context, weights), of equal numbers of rows and weights of mean one; it is begun
            again when it is exhausted.
        context: Context of each row [N, context_size], for a conditional flow.
        weights: Non-negative weight of each row [N]; their scale does not matter.
        validation: What to choose the best epoch on: a fraction of the rows to hold out (with
            their weights; of a memmap 100,000 rows at most), an array like `x`, a pair
            (x, context) (both unweighted), or None. "auto" is 0.1, or None for an iterable, which
            has no rows to hold out.
        key: Random key for shuffling and for the held-out split.
        learning_rate: Peak of the default optimizer's learning rate, 6e-3 by default.
        optimizer: An optax optimizer; by default Adam with warm-up, cosine decay to zero
            over `max_epochs`, and clipping to five times the running median of the gradient's norm.
        batch_size: Rows in a batch; by default 256, or all training rows where there are fewer.
        max_epochs: Largest number of passes over the data.
        steps_per_epoch: Batches in an epoch of an iterable: by default its length, or 100 where it
            has none.
        patience: Stop after so many epochs without a better validation loss; None for never.
        ema_decay: Of an exponential moving average of the parameters, which is kept and validated
            beside them; the better of the two is returned. (Of fewer than 10 / (1 - ema_decay)
            steps the last tenth is averaged.) None for none. "auto" is 0.99 where there are rows
            to validate on, and None otherwise: it never loses there, and small tables gain much
            (`benchmarks/small_tables.md`).
        dequantize: For columns that take few values, such as counts: the width of the uniform
            noise to add to each column, a number or one for each; True for the smallest step
            between values in the columns that need it. `log_prob` is then that of x + u, u
            uniform on [0, w_i) in column i, and bounds the log-probability of a row of values,
            log P(x) >= E_u[log_prob(x + u)] + sum_i log w_i (Theis et al. 2016,
            arXiv:1511.01844). Where w_i is 0, column i is left out of the sum, and P remains a
            density in it. The history's losses lack the sum.
        jitter: Standard deviation of normal noise added to the rows in each step, in standard
            deviations of the columns (of what they are on the real line that supports are mapped
            to): 0.1, say, so that a small table is not learnt by heart (Rothfuss et al. 2019,
            arXiv:1907.08982). Validation does without.
        compute_dtype: In which the conditioners' matrix products are made while training, e.g.
            `jax.numpy.bfloat16`, for accelerators. Parameters, log-determinants, inverses,
            validation and the flow returned are not affected.
        mesh: Devices to split batches over, by its axis "data"; an axis "model" splits large
            weights. Without one it takes ALL devices, if they can share the batch equally.
        checkpoint_dir: Where to save the fit now and then. The same call, after the process was
            killed, goes on from there, and ends with the same flow and history to the last bit.
            With more epochs the run there is lengthened, unless `patience` ended it.
        callback: Called a few times a second with a `flows.training.TrainingState`.
        progress: Whether to show a bar, or in a log file a line now and then.

    Returns:
        A `FitResult`. Ctrl-C ends the fit and returns the best flow so far.

    Raises:
        TypeError: An argument is of the wrong type, e.g. integer data or a raw distrax container,
            whose parameters nnx cannot see.
        ValueError: NaN or inf in the data, wrong sizes, missing or unwanted context, a checkpoint
            of another fit, and so on; the error names the argument.
        flows.training.NonFiniteError: The optimisation diverged. This and whatever the callback
            or an iterable raises carries the best flow so far as `.module`.

    Cost: one `log_prob` and its gradient a step; for `flows.iaf` two to three times that of
    `flows.maf`.

    Examples:
        >>> import flows, jax
        >>> from flax import nnx
        >>> x = 3.0 + jax.random.normal(jax.random.key(0), (500, 2))
        >>> flow = flows.maf(2, num_layers=2, rngs=nnx.Rngs(0))
        >>> result = flows.fit(flow, x, key=jax.random.key(1), max_epochs=5, progress=False)
        >>> len(result.history["validation"])
        5
    """
    require_flow("flow", flow)
    if flow.batch_shape:
        raise ValueError(
            f"flow must have no batch shape, got {flow.batch_shape}: fit the conditional flow "
            "itself, before .condition(context), and pass context=..."
        )
    if not jax.tree.leaves(nnx.state(flow, nnx.Param)):
        raise ValueError("flow has no nnx.Param: there is nothing to train.")
    key = _checks.prng_key("key", key)
    split_key, train_key = jax.random.split(key)
    rows = prepare(
        flow, x, context, weights, validation, dequantize, jitter, batch_size, steps_per_epoch,
        split_key,
    )  # fmt: skip
    num_steps = _checks.positive_int("max_epochs", max_epochs) * rows.steps_per_epoch
    if patience is not None:
        _checks.positive_int("patience", patience)
    result = train(
        flow,
        MaximumLikelihood(rows.noise, rows.jitter, compute_dtype),
        rows.training,
        validation=rows.held_out,
        metric=MaximumLikelihood(rows.noise),
        key=train_key,
        optimizer=adam_unless_given(optimizer, learning_rate, num_steps, LEARNING_RATE),
        batch_size=rows.batch_size,
        num_steps=num_steps,
        patience=patience if rows.held_out is not None else None,
        ema_decay=_ema_decay(ema_decay, rows.held_out is not None),
        mesh=mesh,
        checkpoint_dir=checkpoint_dir,
        callback=callback,
        progress=progress,
        description="fit",
    )
    if len(result.losses) and result.losses[0] > FAR * flow.event_size:
        data = "x" if rows.noise is None else "x + noise of the widths of dequantize"
        warnings.warn(
            f"The flow started far from the data, at {result.losses[0]:.3g} nats a row: build it "
            f"with standardize_with={data}, or rescale x.",
            stacklevel=2,
        )
    return FitResult(
        flow=result.module,
        losses=result.losses,
        history=result.history,
        held_out=rows.held_out,
        stop_reason=result.stop_reason,
        num_skipped=result.num_skipped,
    )


def _ema_decay(given: Any, validated: bool) -> float | None:
    """The decay that stands for "auto"."""
    if isinstance(given, str):
        _checks.one_of("ema_decay", given, ("auto",))
        return EMA_DECAY if validated else None
    return given

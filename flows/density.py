"""Density fitting by maximum likelihood."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flows import _checks
from flows.distributions import Flow, require_flow
from flows.training import adam, train


@dataclasses.dataclass(frozen=True)
class FitResult:
    """A fitted flow.

    Attributes:
        flow: The flow with the lowest validation loss (the last one without validation).
        history: {"train": ..., "validation": ...}, the mean negative log-likelihood in nats of
            each epoch.
        stop_reason: "finished" (all epochs run), "patience" or "interrupted" (Ctrl-C).
        num_skipped: Steps skipped because their loss or gradient was not finite.
    """

    flow: Flow
    history: dict[str, np.ndarray]
    stop_reason: str
    num_skipped: int


def fit(
    flow: Flow,
    x: Any,
    *,
    context: Any = None,
    weights: Any = None,
    validation: Any = 0.1,
    key: jax.Array,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int = 256,
    max_epochs: int = 100,
    patience: int | None = 10,
    progress: bool = True,
) -> FitResult:
    r"""Fits a flow by maximum likelihood: minimises -sum_n w_n log p(x_n | c_n) / sum_n w_n.

    Args:
        flow: The flow to start from; it is not changed.
        x: Finite floating-point data [N, event_size].
        context: Context of each row [N, context_size], for a conditional flow.
        weights: Non-negative weight of each row [N]; their scale does not matter.
        validation: What to choose the best epoch on: a fraction of the rows to hold out (with
            their weights), an array like `x`, a pair (x, context) (both unweighted), or None.
        key: Random key for shuffling and for the held-out split.
        optimizer: An optax optimizer; by default Adam with warm-up to 3e-3, cosine decay to zero
            over `max_epochs`, and gradient-norm clipping.
        batch_size: Rows in a batch; at most the number of training rows.
        max_epochs: Largest number of passes over the data.
        patience: Stop after so many epochs without a better validation loss; None for never.
        progress: Whether to show a progress bar (only on a terminal).

    Returns:
        A `FitResult`. Ctrl-C ends the fit and returns the best flow so far.

    Raises:
        TypeError: An argument is of the wrong type, e.g. integer data or a raw distrax container,
            whose parameters nnx cannot see.
        ValueError: NaN or inf in the data, wrong sizes, missing or unwanted context, and so on;
            the error names the argument.
        flows.training.NonFiniteError: The optimisation diverged; `.module` is the best flow so far.

    Cost: one `log_prob` and its gradient a step; for `flows.iaf` two to three times that of
    `flows.maf`.

    Example:
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
    key = _checks.prng_key("key", key)
    split_key, train_key = jax.random.split(key)
    data = _dataset("", flow, x, context, weights)
    data, held_out = map(_with_mean_weight_one, _split(flow, data, validation, split_key))
    num_rows = len(data[0])
    _checks.not_constant("x", data[0])
    if _checks.positive_int("batch_size", batch_size) > num_rows:
        raise ValueError(f"batch_size is {batch_size}, more than the {num_rows} training rows.")
    _checks.positive_int("max_epochs", max_epochs)
    if patience is not None:
        _checks.positive_int("patience", patience)
    num_steps = max_epochs * (num_rows // batch_size)
    result = train(
        flow,
        negative_log_likelihood,
        data,
        validation=held_out,
        key=train_key,
        optimizer=optimizer or adam(num_steps, 3e-3),
        batch_size=batch_size,
        num_steps=num_steps,
        patience=patience if held_out is not None else None,
        progress=progress,
        description="fit",
    )
    return FitResult(result.module, result.history, result.stop_reason, result.num_skipped)


def negative_log_likelihood(flow: Flow, batch: Any, key: jax.Array) -> jax.Array:
    """The objective of `fit`: -w log p(x | c) for a batch (x, c or None, w or None)."""
    del key
    x, context, weights = batch
    loss = -(flow if context is None else flow.condition(context)).log_prob(x)
    return loss if weights is None else weights * loss


def _dataset(prefix: str, flow: Flow, x: Any, context: Any, weights: Any = None):
    """Checks and returns (x, context or None, weights or None)."""
    x = _checks.table(f"{prefix}x", x, flow.event_size)
    _checks.context_wanted(f"{prefix}context", context is not None, flow.context_size)
    if context is not None:
        context = _checks.table(f"{prefix}context", context, flow.context_size, integers=True)
        _checks.same_length(f"{prefix}context", context, f"{prefix}x", x)
    if weights is not None:
        weights = np.asarray(weights, dtype=float)
        if weights.ndim != 1:
            raise ValueError(f"weights must have shape [rows], got shape {weights.shape}.")
        _checks.same_length("weights", weights, "x", x)
        _checks.finite("weights", weights)
        if (weights < 0).any() or not weights.sum() > 0:
            raise ValueError(
                f"weights must not be negative and not all zero, got {(weights < 0).sum()} "
                f"negative values and a sum of {weights.sum():g}."
            )
        weights = jnp.asarray(weights, x.dtype)
    return x, context, weights


def _with_mean_weight_one(data: Any) -> Any:
    """Scales the weights, so that a plain mean over rows is the weighted mean."""
    if data is None or data[2] is None:
        return data
    x, context, weights = data
    if not weights.sum() > 0:
        raise ValueError(
            f"weights are all zero in the {len(x)} rows of the training or the held-out part: "
            "pass more rows of positive weight, or validation=None."
        )
    return x, context, weights / weights.mean()


def _split(flow: Flow, data: Any, validation: Any, key: jax.Array):
    """Returns the training rows and the validation rows (or None)."""
    if validation is None:
        return data, None
    if np.ndim(validation[0] if isinstance(validation, tuple) else validation):
        x, context = _checks.pair("validation", validation)
        return data, _dataset("validation ", flow, x, context)
    num_rows = len(data[0])
    if not 0 < validation < 1:
        raise ValueError(f"validation as a fraction must lie between 0 and 1, got {validation}.")
    num_held_out = max(1, round(validation * num_rows))
    if num_held_out >= num_rows:
        raise ValueError(
            f"x has {num_rows} rows, too few to hold out a fraction of {validation}: "
            "pass validation=None or more rows."
        )
    order = jax.random.permutation(key, num_rows)
    pick = lambda rows: jax.tree.map(lambda array: array[rows], data)
    return pick(order[num_held_out:]), pick(order[:num_held_out])

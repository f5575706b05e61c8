"""What of the target a posterior has lost: looked for, and named by the target's parameters."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows._structures import names_of
from flows.variational.diagnostics import NUM_DRAWS
from flows.variational.laplace import LaplaceFits
from flows.variational.modes import LostMode, lost_modes
from flows.variational.posterior import Posterior
from flows.variational.tempering import lost_regions
from flows.variational.weights import weighted_draws

NUM_NAMED = 256  # draws of q, beside which parameters are far


def with_lost(
    posterior: Posterior,
    fits: LaplaceFits | None,
    *,
    regions: bool,
    batch_size: int,
    key: jax.Array,
) -> Posterior:
    """The posterior, with the modes or the region that it has lost; it is not lost by looking."""
    flow, log_density = posterior.flow, posterior.target.log_density
    diagnostics = posterior.diagnostics
    log_evidence = float(diagnostics.log_evidence.value)
    draws_key, tempering_key = jax.random.split(jax.random.fold_in(key, 1))

    def of_tempering() -> tuple[LostMode, ...] | None:
        draws = weighted_draws(flow, log_density, draws_key, 2 * NUM_DRAWS, batch_size)
        own = np.asarray(draws.x)[:NUM_DRAWS]
        return lost_regions(flow, log_density, own, log_evidence, tempering_key)

    modes = _looked(
        lambda: lost_modes(flow, log_density, fits, log_evidence, diagnostics.spread, key)
    )
    found = _looked(of_tempering) if regions and not modes else None
    lost = {"lost_modes": modes, "lost_regions": found}
    try:
        lost = {kind: _named(posterior, each, draws_key) for kind, each in lost.items()}
    except (Exception, KeyboardInterrupt) as error:
        warnings.warn(f"What was lost is not named by parameters: {error!r}", stacklevel=2)
    changed = dataclasses.replace(diagnostics, **lost)
    return dataclasses.replace(posterior, diagnostics=changed)


def _named(posterior: Posterior, lost: Any, key: jax.Array) -> Any:
    """What was lost, in the parameters of a target that has some: first what is furthest from q."""
    target = posterior.target
    if not lost or target.forward is None:
        return lost
    names = names_of(target.parameters)
    own = target.table(posterior.flow.sample(seed=key, sample_shape=(NUM_NAMED,)))
    values = target.table(jnp.stack([one.location for one in lost]))
    deviation = np.where(own.std(axis=0) > 0, own.std(axis=0), np.inf)
    orders = np.argsort(-np.abs(values - own.mean(axis=0)) / deviation, axis=1, kind="stable")
    return tuple(
        dataclasses.replace(one, parameters={names[i]: float(row[i]) for i in order})
        for one, row, order in zip(lost, values, orders, strict=True)
    )


def _looked(look: Callable[[], Any]) -> Any:
    """What a search returns; None, and a warning, where it fails or is interrupted."""
    try:
        return look()
    except (Exception, KeyboardInterrupt) as error:
        warn_of_modes(error)
        return None


def warn_of_modes(error: BaseException) -> None:
    """Says that a search failed, or was interrupted."""
    warnings.warn(
        "Modes that the posterior may have lost were not looked for: "
        f"{type(error).__name__}: {error}",
        stacklevel=3,
    )

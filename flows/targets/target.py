"""A log density on R^D, and the parameters that its points stand for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from flows import _checks
from flows._structures import batched, columns_of, names_of, require_names, selected
from flows.training import Program, trace


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A log density on R^D, up to a constant, for `flows.fit_posterior`.

    Its points u [D] stand for the parameters of a model, a pytree of arrays that lie in their
    supports: `from_log_density`, `from_tfp` and `from_numpyro` make one. Called with a point it
    gives the log density, log-Jacobian included.

    Attributes:
        log_density: log p(u) of one point [D].
        event_size: D.
        forward: Maps one point to the parameters, and what the model computes of them; None where
            points are the parameters.
        inverse: Maps parameters to their point, and gives log|det du/dparameters|.
        parameters: The shapes of the parameters, a pytree of `jax.ShapeDtypeStruct`.
        predict: Draws what the model predicts: (key, parameters [n, ..], *args, **kwargs) -> pytree
            [n, ..]; None where the model is known by its log density alone.
        data: Rows that the likelihood is a product over, a pytree of arrays [N, ..]; None where
            the log density cannot be told from a part of them.
        on_rows: An unbiased estimate of log p(u) from some rows: (u, rows [n, ..]) -> scalar.
    """

    log_density: Program
    event_size: int
    forward: Program | None = None
    inverse: Program | None = None
    parameters: Any = None
    predict: Callable[..., Any] | None = None
    data: Any = None
    on_rows: Callable[[jax.Array, Any], jax.Array] | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the data that each log density is made from; 0 where they are not known."""
        return 0 if self.data is None else len(jax.tree.leaves(self.data)[0])

    def given(self, rows: Any) -> Callable[[jax.Array], jax.Array]:
        """The log density; if there are rows of the data, its estimate from them."""
        if rows is None:
            return self.log_density
        on_rows = self.on_rows
        assert on_rows is not None
        return lambda u: on_rows(u, rows)

    def __call__(self, u: jax.Array) -> jax.Array:
        """Log p(u) of one point [D]."""
        return self.log_density(u)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each number of `constrain(u)`, such as "mu" and "theta[0]"."""
        point = jax.ShapeDtypeStruct((self.event_size,), jnp.result_type(float))
        return names_of(jax.eval_shape(self.constrain, point))

    def constrain(self, u: jax.Array) -> Any:
        """The parameters of points.

        Args:
            u: Points [..., D].

        Returns:
            A pytree of arrays [..., *shape], in the supports of the parameters.
        """
        if self.forward is None:
            return u
        u = _checks.floats(u, "u")
        if u.shape[-1:] != (self.event_size,):
            raise ValueError(f"u must have shape [..., {self.event_size}], got {u.shape}.")
        return _batched(self.forward, u)

    def table(self, u: jax.Array) -> np.ndarray:
        """The parameters of points [n, D] as columns [n, K], without what the model makes of them.

        Their names are those of `parameters`; of points that stand for nothing it is the points.
        """
        return columns_of(selected(self.constrain(u), self.parameters) if self.forward else u)

    def unconstrain(self, parameters: Any) -> tuple[jax.Array, jax.Array | float]:
        """The points of parameters, and the change of volume: the inverse of `constrain`.

        Args:
            parameters: A pytree of arrays [..., *shape], as `constrain` returns it; what the model
                computed of them may be there or not.

        Returns:
            u [..., D], and log|det du/dparameters| [...]: -inf outside of a support. Simplexes and
            Cholesky factors of correlations count by their free coordinates, all but the last, and
            those below the diagonal, as in TFP and numpyro.

        Raises:
            ValueError: A parameter is missing, or has another shape.
        """
        if self.inverse is None:
            return parameters, 0.0
        parameters, batch = batched(parameters, self.parameters)
        assert self.forward is not None
        u, log_det = _batched_inverse(self.inverse, self.forward, parameters)
        return u.reshape(*batch, self.event_size), log_det.reshape(batch)


def as_target(target: Any, event_size: int | None) -> Target:
    """The target itself, or that of a function of one point [event_size].

    Raises:
        TypeError: It is neither.
        ValueError: Sizes do not agree, or the function does not return a scalar.
    """
    if isinstance(target, Target):
        if event_size not in (None, target.event_size):
            raise ValueError(f"event_size is {event_size}, and that of target {target.event_size}.")
        return target
    if not callable(target):
        raise TypeError(
            "target must be a callable log density or of flows.targets, such as "
            f"flows.targets.from_tfp(joint, y=y), got {target!r}."
        )
    if event_size is None:
        raise ValueError(
            "event_size is needed for a function of one point [D]: pass event_size=D, or a flow. "
            "Models go in by flows.targets.from_numpyro, from_tfp or from_log_density."
        )
    _checks.positive_int("event_size", event_size)
    return Target(
        _scalar("target", f"a point [{event_size}]", target, _point(event_size)), event_size
    )


def structured(
    unconstrained: Any,
    log_density: Callable[..., jax.Array],
    forward: Callable[[Any], Any],
    inverse: Callable[[Any], tuple[Any, jax.Array]],
    parameters: Any,
    predict: Callable[..., Any] | None = None,
    data: Any = None,
) -> Target:
    """The target of a model whose unconstrained parameters are a pytree of arrays.

    Args:
        unconstrained: Shapes of the unconstrained parameters, a pytree of `jax.ShapeDtypeStruct`.
        log_density: Their log density, log-Jacobian included; with data its estimate from rows
            [n, ..] of them, a second argument, which of all of them is exact.
        forward: Maps them to the parameters.
        inverse: Maps parameters to them, and gives log|det dunconstrained/dparameters|.
        parameters: Shapes of the parameters.
        predict: See `Target`.
        data: See `Target`.

    Raises:
        ValueError: There are no parameters, or the log density is no scalar.
    """
    require_names(parameters)
    zeros = jax.tree.map(lambda of: jnp.zeros(of.shape, jnp.result_type(float)), unconstrained)
    flat, unravel = ravel_pytree(zeros)
    if not flat.size:
        raise ValueError(
            "The model has no parameters to infer: nothing is left once data are given."
        )
    point = _point(flat.size)

    def to_point(parameters: Any) -> tuple[jax.Array, jax.Array]:
        u, log_det = inverse(parameters)
        return ravel_pytree(u)[0], log_det

    of_all = () if data is None else (data,)
    return Target(
        _scalar("log_density", "the parameters", lambda u: log_density(unravel(u), *of_all), point),
        flat.size,
        trace(lambda u: forward(unravel(u)), point),
        trace(to_point, parameters),
        parameters,
        predict,
        data,
        None if data is None else lambda u, rows: log_density(unravel(u), rows),
    )


def _point(event_size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((event_size,), jnp.result_type(float))


def _scalar(name: str, of: str, function: Callable, point: jax.ShapeDtypeStruct) -> Program:
    """A log density as a pytree: the same operations on other data do not compile again."""
    out = jax.eval_shape(function, point)
    if getattr(out, "shape", None) != ():
        raise ValueError(f"{name} must map {of} to a scalar log density, got {out}.")
    return trace(function, point)


@jax.jit
def _batched(forward: Program, u: jax.Array) -> Any:
    mapped = jax.vmap(forward)(u.reshape(-1, u.shape[-1]))
    return jax.tree.map(lambda leaf: leaf.reshape(*u.shape[:-1], *leaf.shape[1:]), mapped)


@jax.jit
def _batched_inverse(
    inverse: Program, forward: Program, parameters: Any
) -> tuple[jax.Array, jax.Array]:
    """Of parameters [n, ..]; what does not come back from there and back is outside.

    It comes back but for rounding, which is that of its size, and of how far it moves with u.
    """

    def one(parameters: Any) -> tuple[jax.Array, jax.Array]:
        u, log_det = inverse(parameters)
        around = [selected(forward(u + step), parameters) for step in (0.0, -1.0, 1.0)]
        ok, unknown = jnp.array(True), jnp.array(False)
        for leaf, *others in zip(*map(jax.tree.leaves, [parameters, *around]), strict=True):
            back, below, above = others
            size, moved = (jnp.abs(of).max(initial=0.0) for of in (leaf, above - below))
            ok &= (jnp.abs(leaf - back) <= 1e-3 * size + 1e-4 * moved).all()
            unknown |= jnp.isnan(leaf).any()
        u = jnp.where(unknown, jnp.nan, jnp.where(ok, u, 0.0))
        return u, jnp.where(ok, log_det, -jnp.inf)

    return jax.vmap(one)(parameters)

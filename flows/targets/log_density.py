"""Targets from a log density of named, constrained parameters."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flows._structures import path_name
from flows.supports import Support, VectorSupport, from_real, real, to_real
from flows.targets.target import Target, structured


def from_log_density(
    log_density: Callable[[Any], jax.Array], example: Any, supports: Any = None
) -> Target:
    """The target of a log density of parameters in their own supports.

    It is that of p(parameters), log-Jacobian added: do not add one yourself.

    Args:
        log_density: log prior + log likelihood of the parameters, up to a constant: a JAX function
            of a pytree like `example`, that can be differentiated.
        example: The parameters, any pytree of numbers and arrays; of which shapes are used alone.
        supports: Where they lie: a pytree like `example` of `flows.supports` (`real`, `positive`,
            `interval(a, b)`, `simplex`, `ordered`, `correlation_cholesky`), or one for all of a
            part. Names left out of a dictionary are real.

    Returns:
        A `Target` for `flows.fit_posterior`.

    Raises:
        TypeError: `supports` has what is no support.
        ValueError: It has names or a shape that the example does not have, or one of integers or
            angles; the log density is no scalar; there are no parameters.

    Example:
        >>> import flows, jax.numpy as jnp
        >>> target = flows.targets.from_log_density(
        ...     lambda p: -p["scale"] - 0.5 * jnp.sum((p["x"] / p["scale"]) ** 2),
        ...     example={"scale": 1.0, "x": jnp.zeros(2)},
        ...     supports={"scale": flows.supports.positive})
        >>> target.event_size, target.names
        (3, ('scale', 'x[0]', 'x[1]'))
    """
    if not callable(log_density):
        raise TypeError(f"log_density must be a function of the parameters, got {log_density!r}.")
    leaves, treedef = jax.tree_util.tree_flatten_with_path(example)
    structure: Any = treedef
    _known_names("supports", supports, example)
    parts = [_part(path, np.shape(leaf), _support_at(supports, path)) for path, leaf in leaves]

    def forward(u: list[jax.Array]) -> tuple[Any, jax.Array]:
        mapped = [part.forward(block) for part, block in zip(parts, u, strict=True)]
        return structure.unflatten([x for x, _ in mapped]), _total(mapped)

    def inverse(parameters: Any) -> tuple[list[jax.Array], jax.Array]:
        leaves = structure.flatten_up_to(parameters)
        mapped = [part.inverse(leaf) for part, leaf in zip(parts, leaves, strict=True)]
        return [u for u, _ in mapped], _total(mapped)

    def of_real(u: list[jax.Array]) -> jax.Array:
        parameters, log_det = forward(u)
        log_p = jnp.asarray(log_density(parameters))
        if log_p.shape:
            raise ValueError(f"log_density must return a scalar, got shape {log_p.shape}.")
        return log_p + log_det

    dtype = jnp.result_type(float)
    return structured(
        [jax.ShapeDtypeStruct((part.size,), dtype) for part in parts],
        of_real,
        lambda u: forward(u)[0],
        inverse,
        structure.unflatten([jax.ShapeDtypeStruct(np.shape(leaf), dtype) for _, leaf in leaves]),
    )


def _total(mapped: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    return jnp.stack([log_det for _, log_det in mapped]).sum()


class Part(NamedTuple):
    """The map of one parameter from real numbers [size], with its log|det|, and back."""

    size: int
    forward: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    inverse: Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def _part(path: tuple[Any, ...], shape: tuple[int, ...], support: Any) -> Part:
    name = path_name(path)
    if isinstance(support, VectorSupport):
        return _vectors(name, shape, support)
    if not isinstance(support, Support):
        raise TypeError(
            f"The support of {name} must be one of flows.supports, such as "
            f"flows.supports.positive, got {support!r}."
        )
    if support.kind != "continuous":
        raise ValueError(
            f"The support of {name} is {support}, and parameters must be real numbers: sum over "
            "integers in the log density, and give angles as (cos, sin) of two real numbers."
        )
    columns = (support,)

    def forward(u: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, log_det = from_real(columns, u[:, None])
        return x.reshape(shape), log_det.sum()

    def inverse(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        u, log_det = to_real(columns, x.reshape(-1, 1))
        return u[:, 0], log_det.sum()

    return Part(int(np.prod(shape)), forward, inverse)


def _vectors(name: str, shape: tuple[int, ...], support: VectorSupport) -> Part:
    """Of vectors or matrices, the last axes of an array."""
    rank = support.rank
    if len(shape) < rank or shape[-1] < 2 or (rank == 2 and shape[-2] != shape[-1]):
        kind = ("a vector [..., K]", "a square matrix [..., K, K]")[rank - 1]
        raise ValueError(f"{name} must be {kind}, K > 1, for the support {support}, got {shape}.")
    bijector = support.make()
    inner = bijector.inverse_event_shape(shape)

    def forward(u: jax.Array) -> tuple[jax.Array, jax.Array]:
        u = u.reshape(inner)
        log_det = bijector.forward_log_det_jacobian(u, event_ndims=1)
        return bijector.forward(u), log_det.sum()

    def inverse(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_det = bijector.inverse_log_det_jacobian(x, event_ndims=rank)
        return bijector.inverse(x).reshape(-1), log_det.sum()

    return Part(int(np.prod(inner)), forward, inverse)


def _support_at(supports: Any, path: tuple[Any, ...]) -> Any:
    """The support of the leaf at a path; that of a part is that of all its leaves."""
    for entry in path:
        if supports is None or isinstance(supports, Support | VectorSupport):
            break
        key = next(getattr(entry, name) for name in ("key", "idx", "name") if hasattr(entry, name))
        if isinstance(supports, Mapping):
            supports = supports.get(key)
        elif hasattr(entry, "name"):
            supports = getattr(supports, key)
        else:
            supports = supports[key]
    return real if supports is None else supports


def _known_names(name: str, supports: Any, example: Any) -> None:
    """Raises if dictionaries of supports have names that the example does not have."""
    if not isinstance(supports, Mapping):
        return
    known = list(example) if isinstance(example, Mapping) else []
    for key, part in supports.items():
        if key not in known:
            raise ValueError(f"{name} has {key!r}, and example has {known or type(example)}.")
        _known_names(f"{name}[{key!r}]", part, example[key])

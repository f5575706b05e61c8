"""Targets from a log density of named, constrained parameters."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flows import _checks
from flows._structures import key_of, part_at, path_name
from flows.supports import Support, VectorSupport, from_real, real, to_real
from flows.targets.target import Target, structured

BLOCK = 4096  # rows whose likelihood is computed at once


def from_log_density(
    log_density: Callable[[Any], jax.Array],
    example: Any,
    supports: Any = None,
    *,
    log_likelihood: Callable[[Any, Any], jax.Array] | None = None,
    data: Any = None,
) -> Target:
    """The target of a log density of parameters in their own supports.

    It is that of p(parameters), log-Jacobian added: do not add one yourself.

    Args:
        log_density: log prior + log likelihood of the parameters, up to a constant: a JAX function
            of a pytree like `example`, that can be differentiated. With `log_likelihood`, the log
            prior alone.
        example: The parameters, any pytree of numbers and arrays; of which shapes are used alone.
        supports: Where they lie: a pytree like `example` of `flows.supports` (`real`, `positive`,
            `interval(a, b)`, `simplex`, `ordered`, `correlation_cholesky`), or one for all of a
            part. Names left out of a dictionary are real.
        log_likelihood: Log likelihood of one row of `data`, (parameters, row) -> scalar, where
            rows are independent given the parameters: `flows.fit_posterior` can then train on
            batches of them, `batch_size=`, scaled by N / batch_size.
        data: The rows, arrays [N, ..] or a pytree of them.

    Returns:
        A `Target` for `flows.fit_posterior`.

    Raises:
        TypeError: `supports` has what is no support; `log_likelihood` or `data` is missing.
        ValueError: `supports` has names or a shape that the example does not have, or integers or
            angles; the log density is no scalar; there are no parameters.

    Examples:
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
    if (log_likelihood is None) != (data is None):
        raise TypeError("log_likelihood and data belong together: one of them is missing.")
    num_rows = 0 if data is None else _checks.num_rows("data", data)
    data = jax.tree.map(_exact, data)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(example)
    structure: Any = treedef
    for path, leaf in leaves:
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if not np.issubdtype(dtype, np.number):
            raise TypeError(f"{path_name(path)} must be a number or an array, got {leaf!r}.")
    _known_names("supports", supports, example)
    parts = [_part(path, np.shape(leaf), _support_at(supports, path)) for path, leaf in leaves]

    def forward(u: list[jax.Array]) -> tuple[Any, jax.Array]:
        mapped = [part.forward(block) for part, block in zip(parts, u, strict=True)]
        return structure.unflatten([x for x, _ in mapped]), _total(mapped)

    def inverse(parameters: Any) -> tuple[list[jax.Array], jax.Array]:
        leaves = structure.flatten_up_to(parameters)
        mapped = [part.inverse(leaf) for part, leaf in zip(parts, leaves, strict=True)]
        return [u for u, _ in mapped], _total(mapped)

    def of_real(u: list[jax.Array], rows: Any = None) -> jax.Array:
        parameters, log_det = forward(u)
        log_p = _scalar("log_density", log_density(parameters)) + log_det
        if log_likelihood is None:
            return log_p
        of_row = lambda row: _scalar("log_likelihood", log_likelihood(parameters, row))
        share = num_rows / len(jax.tree.leaves(rows)[0])
        return log_p + share * jax.lax.map(jax.checkpoint(of_row), rows, batch_size=BLOCK).sum()

    dtype = jnp.result_type(float)
    return structured(
        [jax.ShapeDtypeStruct((part.size,), dtype) for part in parts],
        of_real,
        lambda u: forward(u)[0],
        inverse,
        structure.unflatten([jax.ShapeDtypeStruct(np.shape(leaf), dtype) for _, leaf in leaves]),
        data=data,
    )


def _exact(rows: Any) -> jax.Array:
    """An array of the data on the device; integers that it cannot hold are refused."""
    if not isinstance(rows, jax.Array):
        rows = np.asarray(rows)
        if np.issubdtype(rows.dtype, np.floating):
            _checks.warn_of_lost_digits("data", rows.reshape(len(rows), -1))
    array = jnp.asarray(rows)
    if np.issubdtype(array.dtype, np.integer) and (np.asarray(array) != np.asarray(rows)).any():
        raise ValueError(f"data holds integers that do not fit {array.dtype}: subtract an offset.")
    return array


def _scalar(name: str, value: Any) -> jax.Array:
    value = jnp.asarray(value)
    if value.shape:
        raise ValueError(f"{name} must return a scalar, got shape {value.shape}.")
    return value


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
    if len(shape) < rank or shape[-1] < 2 or 0 in shape or (rank == 2 and shape[-2] != shape[-1]):
        kind = ("a vector [..., K]", "a square matrix [..., K, K]")[rank - 1]
        raise ValueError(f"{name} must be {kind}, K > 1, for the support {support}, got {shape}.")
    inner = (*shape[:-rank], support.num_free(shape[-1]))

    def forward(u: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, log_det = support.from_real(u.reshape(inner))
        return x, log_det.sum()

    def inverse(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        u, log_det = support.to_real(x)
        return u.reshape(-1), log_det.sum()

    return Part(int(np.prod(inner)), forward, inverse)


def _support_at(supports: Any, path: tuple[Any, ...]) -> Any:
    """The support of the leaf at a path; that of a part is that of all its leaves."""
    for entry in path:
        if supports is None or isinstance(supports, Support | VectorSupport):
            break
        if isinstance(supports, Mapping):
            supports = supports.get(key_of(entry))
        else:
            supports = part_at(supports, (entry,))
    return real if supports is None else supports


def _known_names(name: str, supports: Any, example: Any) -> None:
    """Raises if supports have names that the example does not have, or another length."""
    if isinstance(supports, list | tuple):
        if not isinstance(example, list | tuple) or len(supports) != len(example):
            raise ValueError(f"{name} must be as long as that of the example, got {supports!r}.")
        for i, part in enumerate(supports):
            _known_names(f"{name}[{i}]", part, example[i])
    if not isinstance(supports, Mapping):
        return
    known = list(example) if isinstance(example, Mapping) else []
    for key, part in supports.items():
        if key not in known:
            raise ValueError(f"{name} has {key!r}, and example has {known or type(example)}.")
        _known_names(f"{name}[{key!r}]", part, example[key])

"""The contract of univariate maps y_i = T(x_i; theta_i).

A new flow family is a new transformer: a monotone map of one coordinate, its inverse, and the
number of parameters it wants for each coordinate. At parameters 0 it is the identity.
"""

import abc
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flows._recipes import Recorded

NUM_NODES = 16


class Reference(NamedTuple):
    """The noise that divergences of transformers are of: nodes, weights, log density (+ const)."""

    nodes: np.ndarray
    weights: np.ndarray
    log_density: Callable[[jax.Array], jax.Array]


_nodes, _weights = np.polynomial.hermite_e.hermegauss(NUM_NODES)
NORMAL = Reference(_nodes, _weights / _weights.sum(), lambda z: -0.5 * z**2)
CIRCLE = Reference(
    2 * np.pi * (np.arange(NUM_NODES) + 0.5) / NUM_NODES - np.pi,
    np.full(NUM_NODES, 1 / NUM_NODES),
    lambda z: jnp.zeros_like(z),
)


class Transformer(Recorded):
    """A monotone elementwise map with parameters [..., num_params] for x [...].

    Both maps return the mapped array and the elementwise log-derivatives, shaped like x. They act
    on each coordinate by its own parameters and keep no arrays of a given number of coordinates:
    the inverse of an autoregressive layer calls them on one coordinate at a time.
    """

    reference = NORMAL

    @property
    def is_affine(self) -> bool:
        """Whether T is affine in x."""
        return False

    @property
    @abc.abstractmethod
    def num_params(self) -> int:
        """The number of parameters for each coordinate."""

    @abc.abstractmethod
    def forward_and_log_det(self, x: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes y = T(x; params) and log dy/dx."""

    @abc.abstractmethod
    def inverse_and_log_det(self, y: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes x = T^-1(y; params) and log dx/dy."""

    def divergence(self, p: jax.Array, q: jax.Array) -> jax.Array:
        r"""Jeffreys divergence, KL(P || Q) + KL(Q || P), of T(z; p) and T(z; q), z ~ N(0, 1).

        On the circle z is uniform. With r = log p(x) - log q(x) it is the mean of 2 r tanh(r / 2)
        over (P + Q) / 2, here by quadrature: no term is negative, and none grows faster than r.

        Args:
            p: Parameters [..., num_params].
            q: Others of the same shape.

        Returns:
            Divergences [...] in nats; 0 for p = q.

        Cost: T and its inverse for p and for q, at NUM_NODES points each.
        """

        def half(p: jax.Array, q: jax.Array) -> jax.Array:
            z = jnp.asarray(nodes, p.dtype)
            x, log_det = self.forward_and_log_det(z, p)
            z_q, log_det_q = self.inverse_and_log_det(x, q)
            log_ratio = log_density(z) - log_density(z_q) - log_det - log_det_q
            return (log_ratio * jnp.tanh(log_ratio / 2)) @ jnp.asarray(weights, p.dtype)

        nodes, weights, log_density = self.reference
        p, q = p[..., None, :], q[..., None, :]
        return half(p, q) + half(q, p)

    def inverted(self) -> "Transformer":
        """The inverse map, with the same parameters."""
        return Inverted(self)


class Inverted(Transformer):
    """The inverse map of a transformer, with the same parameters.

    Args:
        transformer: The map to invert.
    """

    def __init__(self, transformer: Transformer):
        require_transformer("transformer", transformer)
        self.transformer = transformer

    @property
    def num_params(self) -> int:
        return self.transformer.num_params

    @property
    def is_affine(self) -> bool:
        return self.transformer.is_affine

    @property
    def reference(self) -> Reference:  # type: ignore[override]
        return self.transformer.reference

    def inverted(self) -> Transformer:
        return self.transformer

    def forward_and_log_det(self, x: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.transformer.inverse_and_log_det(x, params)

    def inverse_and_log_det(self, y: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.transformer.forward_and_log_det(y, params)


def soft_clip(raw: jax.Array, limit: float | jax.Array) -> jax.Array:
    """A smooth map onto (-limit, limit), with slope 1 at 0."""
    return raw / (1 + jnp.abs(raw) / limit)


def by_parameter(params: jax.Array, x: jax.Array) -> jax.Array:
    """Parameters [num_params, ...], each of which broadcasts against x: loops over long rows."""
    missing = max(0, jnp.ndim(x) + 1 - params.ndim)
    return jnp.moveaxis(params.reshape((1,) * missing + params.shape), -1, 0)


def by_coordinate(made: jax.Array, shape: tuple[int, ...], layer: str) -> jax.Array:
    """What the network of a layer made [..., K P], as parameters [..., K, P] for K coordinates."""
    size = math.prod(shape)
    if made.shape[-1:] != (size,):
        raise ValueError(
            f"conditioner must give parameters [..., {size}] for {layer}, got shape {made.shape}."
        )
    return made.reshape(*made.shape[:-1], *shape)


def require_transformer(name: str, value: object) -> None:
    """Raises unless `value` is a `Transformer`."""
    if not isinstance(value, Transformer):
        raise TypeError(
            f"{name} must be a flows.bijectors.Transformer such as flows.bijectors.Affine(), "
            f"got {value!r}."
        )

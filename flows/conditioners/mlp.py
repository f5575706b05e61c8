"""The plain multilayer perceptron: the conditioner of couplings."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flows import _checks
from flows._programs import normals
from flows._recipes import Recorded
from flows.conditioners.features import compressed

ACTIVATIONS = {"relu": jax.nn.relu, "gelu": jax.nn.gelu, "silu": jax.nn.silu, "tanh": jnp.tanh}

_compute_dtype: contextvars.ContextVar[Any] = contextvars.ContextVar("compute_dtype", default=None)


@contextlib.contextmanager
def compute_in(dtype: Any) -> Iterator[None]:
    """Within it networks make their products in this dtype (None: that of their parameters).

    It counts when a function is traced: inside the function given to `jax.jit`, not around it.
    """
    token = _compute_dtype.set(dtype)
    try:
        yield
    finally:
        _compute_dtype.reset(token)


def compute_dtype() -> Any:
    """The dtype that `compute_in` has set, or None."""
    return _compute_dtype.get()


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The product x @ kernel, made in the dtype of `compute_in` and accumulated in that of x."""
    dtype = compute_dtype()
    if dtype is None:
        return x @ kernel
    return jnp.matmul(x.astype(dtype), kernel.astype(dtype), preferred_element_type=x.dtype)


class Linear(nnx.Module):
    """An affine map x W + b.

    Args:
        in_size: Size of the last axis of the input; 0 leaves just the bias.
        out_size: Size of the last axis of the output.
        scale: Gain of the initial weights, which have variance `scale**2 / in_size`.
        use_bias: Whether to add b, which starts at 0.
        rngs: Source of the initial weights.
    """

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        scale: float = 1.0,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        stddev = scale / np.sqrt(max(in_size, 1))
        kernel, bias = _initial(rngs.params(), stddev, (in_size, out_size))
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(bias) if use_bias else None

    def offset(self) -> jax.Array:
        """b, or zeros where there is none."""
        return (
            jnp.zeros(self.kernel.shape[-1], self.kernel.dtype)
            if self.bias is None
            else self.bias[...]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return product(x, self.kernel[...]) + self.offset()


def _initial(key: jax.Array, stddev: float, shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """A kernel and a bias."""
    kernel = float(stddev) * normals(key, shape)
    if not isinstance(kernel, np.ndarray):
        return kernel, jnp.zeros(shape[1], kernel.dtype)
    return jax.device_put(kernel), jax.device_put(np.zeros(shape[1], kernel.dtype))


class MLP(Recorded):
    """A multilayer perceptron [..., in_size] -> [..., out_size] that may also see a context.

    The last layer starts small, so that the bijector it steers starts near the identity.

    Args:
        in_size: Size of the input; 0 is allowed (the output then depends on the context alone).
        out_size: Size of the output.
        hidden_sizes: Width of each hidden layer.
        context_size: Size of the context, or None for no context.
        features: How the network sees each coordinate of the input: a map of x [...] to [..., F],
            such as `flows.conditioners.circle` for angles.
        embed: Makes the network through which the context reaches the first hidden layer, from
            its sizes in and out and `rngs`: by default a linear map, or for example
            `functools.partial(flows.conditioners.MLP, hidden_sizes=(32,))`.
        residual: Each hidden layer after the first adds to its input, h + W a(h), instead of
            replacing it (needs equal hidden sizes; He et al. 2016, arXiv:1603.05027).
        activation: "relu", "gelu", "silu", "tanh" or an elementwise function, such as
            `jax.nn.softplus`.
        rngs: Source of the initial weights.

    Cost: one pass, parallel over the batch.
    """

    def __init__(
        self,
        in_size: int,
        out_size: int,
        hidden_sizes: Sequence[int] = (64, 64),
        *,
        context_size: int | None = None,
        features: Callable[[jax.Array], jax.Array] = compressed,
        embed: Callable[..., Any] | None = None,
        residual: bool = False,
        activation: str | Callable[[jax.Array], jax.Array] = "silu",
        rngs: nnx.Rngs,
    ):
        if not isinstance(hidden_sizes, Sequence):
            raise TypeError(f"hidden_sizes must be a sequence of ints, got {hidden_sizes!r}.")
        sizes = tuple(_checks.positive_int("hidden_sizes", size) for size in hidden_sizes)
        if not sizes:
            raise ValueError("hidden_sizes must name at least one hidden layer, got none.")
        if residual and len(set(sizes)) > 1:
            raise ValueError(f"residual=True needs equal hidden_sizes, got {sizes}.")
        self.in_size = in_size
        self.out_size = out_size
        self.hidden_sizes = sizes
        self.context_size = context_size
        self.residual = residual
        if not callable(activation):
            _checks.one_of("activation", activation, ACTIVATIONS)
        self.activation = activation
        self.features = features
        self.num_features = _num_features(features)
        num_seen = in_size * self.num_features
        self.layers = nnx.List(
            Linear(fan_in, fan_out, scale=gain, rngs=rngs)
            for fan_in, fan_out, gain in zip(
                (num_seen, *sizes), (*sizes, out_size), (*[1.0] * len(sizes), 1e-2), strict=True
            )
        )
        make_embedding = embed or functools.partial(Linear, use_bias=False)
        self.embed = make_embedding(context_size, sizes[0], rngs=rngs) if context_size else None

    @property
    def activate(self) -> Callable[[jax.Array], jax.Array]:
        """The activation function."""
        return self.activation if callable(self.activation) else ACTIVATIONS[self.activation]

    def linear(self, layer: int, x: jax.Array) -> jax.Array:
        """Applies the affine map of one layer."""
        return self.layers[layer](x)

    def hidden(self, x: jax.Array, context: jax.Array | None = None) -> list[jax.Array]:
        """The values [..., width] of each hidden layer before its activation."""
        seen = self.features(x)
        h = self.linear(0, seen.reshape(*x.shape[:-1], x.shape[-1] * self.num_features))
        if self.embed is not None and context is not None:
            h = h + self.embed(context)
        values = [h]
        for layer in range(1, len(self.hidden_sizes)):
            update = self.linear(layer, self.activate(h))
            h = h + update if self.residual else update
            values.append(h)
        return values

    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        """Maps x [..., in_size] (and context [..., context_size]) to [..., out_size]."""
        last = self.activate(self.hidden(x, context)[-1])
        return self.linear(len(self.hidden_sizes), last)


def _num_features(features: Callable[[jax.Array], jax.Array]) -> int:
    """F, where `features` maps x [...] to [..., F]."""
    if not callable(features):
        raise TypeError(f"features must be a function of x, got {features!r}.")
    shape = jax.eval_shape(features, jax.ShapeDtypeStruct((2, 3), jnp.result_type(float))).shape
    if len(shape) != 3 or shape[:2] != (2, 3):
        raise ValueError(f"features must map x [...] to [..., F], got {shape} for [2, 3].")
    return shape[2]

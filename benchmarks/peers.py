"""Masked autoregressive flows of equal size in this library and in others.

Each function makes a MAF with `num_layers` layers, two hidden layers of `width` ReLU units and
affine maps, and returns what to time: calls without arguments that block until they are done.
"log_prob" is the parallel direction, "sample" the sequential one, "gradient" and "sample gradient"
are gradients in all weights through the two.
"""

import contextlib
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import flows
from flows.bijectors import Chain, Inverse, Inverted, MaskedAutoregressive, Reverse, Stack

Calls = dict[str, Callable[[], Any]]


class NaiveAutoregressive(MaskedAutoregressive):
    """The layer as others invert it: a full network pass for each coordinate."""

    def _inverse_and_log_det(self, y, context):
        def solve_next(x, i):
            x_i, log_det_i = self.transformer.inverse_and_log_det(
                y[..., i], self.conditioner(x, context)[..., i, :]
            )
            return x.at[..., i].set(x_i), log_det_i

        x, log_det = jax.lax.scan(solve_next, jnp.zeros_like(y), jnp.arange(self.event_size))
        return x, log_det.sum(0)


def our_flow(size: int, width: int, num_layers: int, layer=MaskedAutoregressive, **options):
    """Our MAF, with weights large enough that it is not near the identity."""

    def make_layer(rngs):
        made = layer(
            size, hidden_sizes=(width, width), transformer=Inverted(flows.bijectors.Affine()),
            activation="relu", rngs=rngs, **options,
        )  # fmt: skip
        last = made.conditioner.layers[-1].kernel
        last[...] = 50 * last[...]
        return Chain([Inverse(made), Reverse(size)])

    return flows.Flow(flows.StandardNormal(size), Stack(make_layer, num_layers, rngs=nnx.Rngs(0)))


class Compiled:
    """A jitted call, compiled at once; knows what that took and the memory it needs.

    Plain arrays go in and come out: taking models apart, in Python, is not timed.
    """

    def __init__(self, function, *arguments):
        self.leaves, tree = jax.tree.flatten(arguments)
        start = time.perf_counter()
        flat = jax.jit(lambda *a: jax.tree.leaves(function(*jax.tree.unflatten(tree, a))))
        self.compiled = flat.lower(*self.leaves).compile()
        self.compile_s = time.perf_counter() - start
        self.temporary_mb = self.compiled.memory_analysis().temp_size_in_bytes / 1e6

    def __call__(self):
        return jax.block_until_ready(self.compiled(*self.leaves))


def ours(
    flow, batch: int, x: np.ndarray, only=("log_prob", "gradient", "sample", "sample gradient")
):
    """Calls of one of our flows."""
    key, shape = jax.random.key(0), (batch,)
    functions = {
        "log_prob": (lambda flow, x: flow.log_prob(x), x),
        "gradient": (jax.grad(lambda flow, x: flow.log_prob(x).mean()), x),
        "sample": (lambda flow, key: flow.sample(seed=key, sample_shape=shape), key),
        "sample gradient": (
            jax.grad(lambda flow, key: (flow.sample(seed=key, sample_shape=shape) ** 2).mean()),
            key,
        ),
    }
    return {name: Compiled(functions[name][0], flow, functions[name][1]) for name in only}


@contextlib.contextmanager
def through_the_substitution() -> Iterator[None]:
    """What is compiled within this context differentiates the forward substitution step by step."""
    from flows.bijectors import autoregressive

    plain = autoregressive.inverse_parameters.fun
    jax.clear_caches()  # of what was traced before, and then of what was traced within
    with mock.patch.object(autoregressive, "inverse_parameters", plain):
        yield
    jax.clear_caches()


def floor(size: int, width: int, num_layers: int, x: np.ndarray) -> Calls:
    """The same products with no masks, and nothing else: what a dense network costs."""
    rng = np.random.default_rng(0)
    sizes = (size, width), (width, width), (width, 2 * size)
    weights = [
        jnp.asarray(rng.normal(size=(num_layers, *s)) / np.sqrt(s[0]), jnp.float32) for s in sizes
    ]

    def log_prob(weights, x):
        def layer(x, weights):
            first, second, last = weights
            shift, log_scale = jnp.split(jax.nn.relu(jax.nn.relu(x @ first) @ second) @ last, 2, -1)
            return (x - shift) * jnp.exp(-jnp.tanh(log_scale)), log_scale.sum(-1)

        x, log_dets = jax.lax.scan(layer, x, weights)
        return log_dets.sum(0) - (x**2).sum(-1) / 2

    gradient = jax.grad(lambda weights, x: log_prob(weights, x).mean())
    return {"log_prob": Compiled(log_prob, weights, x), "gradient": Compiled(gradient, weights, x)}


def flowjax(size: int, width: int, num_layers: int, batch: int, x: np.ndarray) -> Calls:
    """FlowJAX, https://github.com/danielward27/flowjax."""
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow

    flow = masked_autoregressive_flow(
        jax.random.key(0), base_dist=Normal(jnp.zeros(size)), flow_layers=num_layers,
        nn_width=width, nn_depth=2,
    )  # fmt: skip
    return flowjax_calls(flow, batch, x)


def flowjax_calls(flow: Any, batch: int, x: np.ndarray) -> Calls:
    """Calls of one of FlowJAX's flows."""
    import equinox as eqx

    arrays, static = eqx.partition(flow, eqx.is_inexact_array)
    join = lambda arrays: eqx.combine(arrays, static)
    key, shape = jax.random.key(0), (batch,)
    return {
        "log_prob": Compiled(lambda a, x: join(a).log_prob(x), arrays, x),
        "gradient": Compiled(jax.grad(lambda a, x: join(a).log_prob(x).mean()), arrays, x),
        "sample": Compiled(lambda a, key: join(a).sample(key, shape), arrays, key),
        "sample gradient": Compiled(
            jax.grad(lambda a, key: (join(a).sample(key, shape) ** 2).mean()), arrays, key
        ),
    }


def zuko(size: int, width: int, num_layers: int, batch: int, x: np.ndarray) -> Calls:
    """zuko, https://github.com/probabilists/zuko."""
    from zuko.flows import MAF

    flow = MAF(size, transforms=num_layers, hidden_features=(width, width))
    return zuko_calls(flow, batch, x)


def zuko_calls(flow: Any, batch: int, x: np.ndarray) -> Calls:
    """Calls of one of zuko's flows."""
    import torch

    return _torch_calls(
        flow,
        lambda: flow().log_prob(torch.from_numpy(x)),
        lambda: flow().rsample((batch,)),
    )


def nflows(size: int, width: int, num_layers: int, batch: int, x: np.ndarray) -> Calls:
    """nflows, https://github.com/bayesiains/nflows."""
    import torch
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import (
        CompositeTransform,
        MaskedAffineAutoregressiveTransform,
        ReversePermutation,
    )

    layer = lambda: MaskedAffineAutoregressiveTransform(
        size, width, num_blocks=1, use_residual_blocks=False
    )
    layers = [part for _ in range(num_layers) for part in (ReversePermutation(size), layer())]
    flow = Flow(CompositeTransform(layers), StandardNormal([size]))
    return _torch_calls(
        flow, lambda: flow.log_prob(torch.from_numpy(x)), lambda: flow.sample(batch)
    )


def normflows(size: int, width: int, num_layers: int, batch: int, x: np.ndarray) -> Calls:
    """normflows, https://github.com/VincentStimper/normflows.

    Its own `log_prob` is the sequential direction; "log_prob" here is what it computes in parallel,
    the log-determinants alone.
    """
    import torch
    from normflows import NormalizingFlow
    from normflows.distributions import DiagGaussian
    from normflows.flows import MaskedAffineAutoregressive, Permute

    layer = lambda: MaskedAffineAutoregressive(size, width, num_blocks=1, use_residual_blocks=False)
    layers = [part for _ in range(num_layers) for part in (layer(), Permute(size, mode="swap"))]
    flow = NormalizingFlow(DiagGaussian(size), layers)
    x = torch.from_numpy(x)
    return _torch_calls(
        flow, lambda: flow.forward_and_log_det(x)[1], lambda: flow.inverse_and_log_det(x)[0]
    )


def _torch_calls(module, log_prob: Callable, sample: Callable) -> Calls:
    import torch

    @torch.no_grad
    def value(function):
        return function()

    def gradient(loss):
        module.zero_grad(set_to_none=True)
        loss().backward()

    return {
        "log_prob": lambda: value(log_prob),
        "gradient": lambda: gradient(lambda: log_prob().mean()),
        "sample": lambda: value(sample),
        "sample gradient": lambda: gradient(lambda: (sample() ** 2).mean()),
    }


PEERS = {
    name: make
    for name, make in [
        ("FlowJAX", flowjax), ("zuko", zuko), ("nflows", nflows), ("normflows", normflows)
    ]
    if importlib.util.find_spec(make.__name__)
    and (make is flowjax or jax.default_backend() == "cpu")  # those on torch run on the CPU here
}  # fmt: skip
warnings.filterwarnings("ignore", module="|".join(name.lower() for name in PEERS) or "none")

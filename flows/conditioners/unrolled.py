"""Passes of a network over its own output: the conditioner of IAF layers that copy MAF layers."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from flows import _checks
from flows._buffers import Buffer
from flows._recipes import Recorded
from flows.conditioners.masked import MaskedMLP


class Unrolled(Recorded):
    r"""Parameters theta(z), from a guess that a network of the output corrects pass by pass.

    A MAF layer, y_i = T(z_i; theta_i), reads its parameters off its output, theta = network(y): to
    draw y from z is to solve this for theta, in D steps in turn. Here the solution is guessed by a
    network of z, and improved by a few parallel passes,

        theta_0 = guess(z),    theta_k = network(T(z; theta_{k-1})),

    of which each makes one coordinate more exact (those before i decide theta_i), and the error of
    the others smaller. So an IAF layer comes near a MAF layer with that layer's own network, which
    is not trained, and a guess that may be rough; after D passes it is that layer.

    Args:
        event_size: D, the number of coordinates.
        num_params: P, the number of parameters for each coordinate.
        transformer: The univariate map T of the layer, from z to y.
        num_passes: Passes of the network after the guess.
        guess: Makes the network of z, as a `conditioner` of `flows.bijectors.MaskedAutoregressive`
            is made.
        context_size: Size of the context, or None for no context.
        rngs: Source of the initial weights.
        **network: Options of the network of y, those of `MaskedMLP`.

    Cost: one pass of the guess and `num_passes` of the network, each parallel over batch and
    coordinates.

    Examples:
        >>> import flows
        >>> from flax import nnx
        >>> teacher = flows.maf(3, num_layers=2, rngs=nnx.Rngs(0))
        >>> student = flows.iaf_like(teacher, num_passes=3, rngs=nnx.Rngs(1))
        >>> type(student.bijector.layers.bijectors[0].conditioner).__name__
        'Unrolled'
    """

    def __init__(
        self,
        event_size: int,
        num_params: int,
        *,
        transformer: Any,
        num_passes: int = 2,
        guess: Callable[..., Any] = MaskedMLP,
        context_size: int | None = None,
        rngs: nnx.Rngs,
        **network: Any,
    ):
        sizes = event_size, num_params
        self.guess = guess(*sizes, context_size=context_size, rngs=rngs)
        self.network = frozen(MaskedMLP(*sizes, context_size=context_size, rngs=rngs, **network))
        self.transformer = transformer
        self.num_passes = _checks.positive_int("num_passes", num_passes)

    def attempts(self, z: jax.Array, context: jax.Array | None) -> list[jax.Array]:
        """The guess [..., D, P], and what each pass makes of it."""
        network = jax.lax.stop_gradient(self.network)
        params = [self.guess(z, context)]
        for _ in range(self.num_passes):
            y, _ = self.transformer.forward_and_log_det(z, params[-1])
            params.append(network(y, context))
        return params

    def start_of_inverse(self, y: jax.Array, context: jax.Array | None) -> jax.Array:
        """The parameters [..., D, P] of the MAF layer for its output y, close to those for z."""
        return self.network(y, context)

    def __call__(self, z: jax.Array, context: jax.Array | None = None) -> jax.Array:
        """Maps z [..., D] (and context [..., context_size]) to parameters [..., D, P]."""
        return self.attempts(z, context)[-1]


def frozen(network: MaskedMLP) -> MaskedMLP:
    """A copy whose weights are constants."""
    is_weight = lambda leaf: isinstance(leaf, nnx.Param)
    return jax.tree.map(lambda weight: Buffer(weight[...]), network, is_leaf=is_weight)

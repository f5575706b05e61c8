"""Neural spline flows."""

from typing import Any

from flax import nnx

from flows.architectures.autoregressive import maf
from flows.architectures.coupling import real_nvp
from flows.bijectors import Affine, Composed, RationalQuadraticSpline, Transformer
from flows.distributions import Flow


def nsf(
    event_size: int,
    *,
    autoregressive: bool = False,
    num_bins: int = 8,
    bound: float = 5.0,
    rngs: nnx.Rngs,
    **options: Any,
) -> Flow:
    r"""Neural spline flow: `real_nvp`, or `maf`, with T a rational-quadratic spline of a + b x.

    The affine map, of the network as well, moves and scales what the spline sees: alone, as in the
    source, it is bound to [-bound, bound], and loses up to two nats (`benchmarks/density.md`).

    Source: Durkan et al. 2019, arXiv:1906.04032.

    Cost: that of `real_nvp` (both directions parallel) or of `maf`, with 3 num_bins + 1 parameters
    for each coordinate instead of two.

    Args:
        event_size: Size of the vectors. 1 is allowed: the density of a number, which may depend on
            the context.
        autoregressive: Whether the layers are those of `maf` instead of `real_nvp`.
        num_bins: Pieces of each spline.
        bound: Where the splines end, beyond which T is a + b x, in units of a layer's output: give
            `standardize_with`, or data of about unit scale.
        rngs: Source of the initial weights, e.g. `nnx.Rngs(0)`.
        **options: All others of `real_nvp` or `maf`: `num_layers`, `context_size`,
            `standardize_with`, `hidden_sizes` and so on.

    Examples:
        >>> import flows, jax
        >>> from flax import nnx
        >>> flow = flows.nsf(3, num_layers=2, rngs=nnx.Rngs(0))
        >>> flow.sample(seed=jax.random.key(0), sample_shape=(5,)).shape
        (5, 3)
    """
    architecture = maf if autoregressive else real_nvp
    transformer = affine_spline(num_bins, bound)
    return architecture(event_size, transformer=transformer, rngs=rngs, **options)


def affine_spline(num_bins: int = 8, bound: float = 5.0) -> Transformer:
    """A spline of a + b x."""
    return Composed([RationalQuadraticSpline(num_bins, bound), Affine()])

"""The flow that posteriors are fitted by."""

from typing import Any

from flax import nnx

from flows.architectures.coupling import real_nvp
from flows.architectures.splines import nsf
from flows.distributions import Flow


def posterior_flow(event_size: int, rngs: nnx.Rngs, **options: Any) -> Flow:
    """Affine couplings; splines in one dimension, where affine maps make nothing but normals."""
    architecture = nsf if event_size == 1 else real_nvp
    return architecture(event_size, rngs=rngs, **options)

"""The flow that posteriors are fitted by."""

from flax import nnx

from flows.architectures.coupling import real_nvp
from flows.architectures.splines import nsf
from flows.distributions import Flow


def posterior_flow(event_size: int, rngs: nnx.Rngs) -> Flow:
    """Affine couplings; splines in one dimension, where affine maps make nothing but normals."""
    return nsf(1, rngs=rngs) if event_size == 1 else real_nvp(event_size, rngs=rngs)

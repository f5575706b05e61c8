"""Flows as numpyro distributions, and their supports and bijectors as its constraints and maps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from flax import nnx
from numpyro import distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform
from numpyro.distributions.util import validate_sample

from flows import supports
from flows.adapters._flows import can_be_latent, require_bound
from flows.bijectors import Bijector
from flows.distributions import Distribution, Flow, require_flow


class FlowDistribution(dist.Distribution):
    """A flow at a sample site of a numpyro model: a prior, or a likelihood.

    It can be latent, where HMC and guides move in the space that its support is mapped from, or
    observed; stand under a plate; and be one of a batch of conditional flows. Pass parameters that
    are to be learnt by SVI through `flow_param`, or they stay as they are.

    Args:
        flow: A `flows.Flow` without a context, or with one bound by `flow.condition(context)`,
            whose batch shape is then that of the distribution. (Any `flows.distributions`.)
        validate_args: Whether numpyro checks that values lie in the support.

    Raises:
        TypeError: It is no flow.
        ValueError: The flow waits for a context.

    Examples:
        >>> import flows, jax
        >>> from flax import nnx
        >>> prior = flows.adapters.numpyro.FlowDistribution(flows.maf(2, rngs=nnx.Rngs(0)))
        >>> prior.sample(jax.random.key(0), (3,)).shape, prior.event_shape
        ((3, 2), (2,))
    """

    pytree_data_fields = ("flow",)

    def __init__(self, flow: Distribution, *, validate_args: bool | None = None):
        if not isinstance(flow, Distribution):
            require_flow("flow", flow)
        require_bound(flow)
        self.flow = flow
        super().__init__(flow.batch_shape, (flow.event_size,), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        columns = getattr(self.flow, "support", None)
        return constraints.real_vector if columns is None else InColumns(columns)

    @property
    def has_rsample(self) -> bool:
        return self.flow.is_reparameterized

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        return self.flow.sample(seed=key, sample_shape=sample_shape)

    @validate_sample
    def log_prob(self, value: jax.Array) -> jax.Array:
        return self.flow.log_prob(value)


def flow_param(name: str, flow: Flow) -> Flow:
    """The flow, with its parameters registered as a `numpyro.param` that SVI learns.

    Args:
        name: Name of the parameter, a pytree of arrays.
        flow: The flow as it is at the start.

    Raises:
        TypeError: It is no flow.
    """
    require_flow("flow", flow)
    graphdef, params, rest = nnx.split(flow, nnx.Param, ...)  # type: ignore[misc]
    values = numpyro.param(name, nnx.to_pure_dict(params))
    nnx.replace_by_pure_dict(params, values)
    return nnx.merge(graphdef, params, rest)


class FlowTransform(Transform):
    """A bijector, or the layers of a flow, as a numpyro transform.

    Args:
        bijector: A bijector without a context.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __init__(self, bijector: Bijector):
        self.bijector = bijector

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bijector.forward(x)

    def _inverse(self, y: jax.Array) -> jax.Array:
        return self.bijector.inverse(y)

    def call_with_intermediates(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.bijector.forward_and_log_det(x)

    def log_abs_det_jacobian(
        self, x: jax.Array, y: jax.Array, intermediates: jax.Array | None = None
    ) -> jax.Array:
        return self.bijector.forward_and_log_det(x)[1] if intermediates is None else intermediates

    def tree_flatten(self) -> tuple[tuple, tuple]:
        return (self.bijector,), (("bijector",), {})


class InColumns(constraints.Constraint):
    """Vectors whose coordinates lie in supports of `flows.supports`.

    Args:
        columns: The support of each coordinate.
    """

    event_dim = 1

    def __init__(self, columns: supports.Columns):
        self.columns = columns

    @property
    def is_discrete(self) -> bool:
        return bool(supports.of_kind(self.columns, "integers").any())

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.asarray(x, float)
        return ~(supports.outside(self.columns, x) | jnp.isnan(x)).any(axis=-1)

    def feasible_like(self, prototype: jax.Array) -> jax.Array:
        return supports.from_real(self.columns, jnp.zeros_like(prototype))[0]

    def tree_flatten(self) -> tuple[tuple, tuple]:
        return (), ((), {"columns": self.columns})

    def eq(self, other: object, static: bool = False) -> Any:
        return isinstance(other, InColumns) and self.columns == other.columns


class OntoColumns(Transform):
    """The map of real numbers onto `InColumns`.

    Args:
        columns: The support of each coordinate.
    """

    domain = constraints.real_vector

    def __init__(self, columns: supports.Columns):
        self.columns = columns

    @property
    def codomain(self) -> constraints.Constraint:
        return InColumns(self.columns)

    def __call__(self, x: jax.Array) -> jax.Array:
        return supports.from_real(self.columns, x)[0]

    def _inverse(self, y: jax.Array) -> jax.Array:
        return supports.to_real(self.columns, y)[0]

    def log_abs_det_jacobian(
        self, x: jax.Array, y: jax.Array, intermediates: None = None
    ) -> jax.Array:
        return supports.from_real(self.columns, x)[1]

    def tree_flatten(self) -> tuple[tuple, tuple]:
        return (), ((), {"columns": self.columns})

    def eq(self, other: object, static: bool = False) -> Any:
        return isinstance(other, OntoColumns) and self.columns == other.columns


@dist.biject_to.register(InColumns)
def _onto(constraint: InColumns) -> Transform:
    if not can_be_latent(constraint.columns):
        raise NotImplementedError(
            "A flow over integers or angles cannot be latent: no map of real numbers is one-to-one."
        )
    return OntoColumns(constraint.columns)

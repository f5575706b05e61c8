"""Flows as TFP distributions."""

from typing import Any

import jax
import jax.numpy as jnp
from tensorflow_probability.substrates.jax import bijectors as tfb
from tensorflow_probability.substrates.jax import distributions as tfd

from flows import supports
from flows.adapters._flows import can_be_latent, require_bound
from flows.distributions import Flow, require_flow


def as_distribution(flow: Flow) -> tfd.Distribution:
    """A flow as a TFP distribution, such as a part of a joint distribution.

    Args:
        flow: A `flows.Flow` without a context, or with one bound by `flow.condition(context)`,
            whose batch shape is then that of the distribution.

    Raises:
        TypeError: It is no flow.
        ValueError: The flow waits for a context.

    Examples:
        >>> import flows, jax
        >>> from flax import nnx
        >>> from flows.adapters.tfp import as_distribution
        >>> prior = as_distribution(flows.maf(2, rngs=nnx.Rngs(0)))
        >>> prior.sample(3, seed=jax.random.key(0)).shape
        (3, 2)
    """
    require_flow("flow", flow)
    require_bound(flow)
    return FlowDistribution(flow)


class FlowDistribution(tfd.Distribution):
    """What `as_distribution` makes.

    Args:
        flow: The flow.
        name: As of TFP's distributions.
    """

    def __init__(self, flow: Flow, name: str = "Flow"):
        parameters = {"flow": flow, "name": name}
        self.flow = flow
        reparameterized = flow.is_reparameterized
        super().__init__(
            dtype=jnp.result_type(float),
            reparameterization_type=(
                tfd.FULLY_REPARAMETERIZED if reparameterized else tfd.NOT_REPARAMETERIZED
            ),
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )

    def __getitem__(self, slices: Any) -> tfd.Distribution:
        raise NotImplementedError("Index the contexts instead, flow.condition(contexts[..]).")

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: Any = None) -> dict[str, Any]:
        return {}

    def _batch_shape(self) -> tuple[int, ...]:
        return self.flow.batch_shape

    def _event_shape(self) -> tuple[int, ...]:
        return (self.flow.event_size,)

    def _sample_n(self, n: int, seed: jax.Array) -> jax.Array:
        return self.flow.sample(seed=seed, sample_shape=(n,))

    def _log_prob(self, value: jax.Array) -> jax.Array:
        return self.flow.log_prob(value)

    def _default_event_space_bijector(self) -> tfb.Bijector | None:
        columns = self.flow.support
        if columns is None:
            return tfb.Identity()
        return OntoColumns(columns) if can_be_latent(columns) else None


jax.tree_util.register_pytree_node(
    FlowDistribution,
    lambda of: ((of.flow,), of.name),
    lambda name, flow: FlowDistribution(*flow, name),
)


class OntoColumns(tfb.Bijector):
    """The map of real numbers onto the supports of columns.

    Args:
        columns: The support of each coordinate.
    """

    def __init__(self, columns: supports.Columns):
        self.columns = columns
        super().__init__(forward_min_event_ndims=1, name="onto_columns", parameters={})

    def _forward(self, x: jax.Array) -> jax.Array:
        return supports.from_real(self.columns, x)[0]

    def _inverse(self, y: jax.Array) -> jax.Array:
        return supports.to_real(self.columns, y)[0]

    def _forward_log_det_jacobian(self, x: jax.Array) -> jax.Array:
        return supports.from_real(self.columns, x)[1]

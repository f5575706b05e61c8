"""Flows as numpyro guides."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from flax import nnx
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.distributions.transforms import AffineTransform, IndependentTransform
from numpyro.infer import init_to_uniform
from numpyro.infer.autoguide import AutoContinuous
from numpyro.primitives import Messenger

from flows.adapters.numpyro.distributions import FlowDistribution, FlowTransform, flow_param
from flows.adapters.numpyro.models import require_continuous
from flows.architectures import nsf, real_nvp
from flows.bijectors import Affine, Chain, TriangularAffine
from flows.distributions import Flow, require_flow, require_single

NUM_DRAWS = 10_000  # of which medians and quantiles are
SCALE = 0.1  # of the default guide at its start, as of numpyro's own
# Larger or less bounded ones may diverge at constant rates of 0.01: benchmarks/guides.md.
NETWORK: dict[str, Any] = {
    "hidden_sizes": (32, 32),
    "transformer": Affine(max_log_scale=1.0),
}


class AutoFlow(AutoContinuous):
    """A guide of a numpyro model that is a flow, for SVI, `Predictive` and NeuTra.

    q(u) is a flow over the unconstrained latent sites. `flows.fit_posterior` with a target of
    `flows.targets.from_numpyro` gets closer with less to choose, and says whether to trust the
    answer; this is for SVI of one's own, with parameters or minibatches in the model.

    Args:
        model: A numpyro model of continuous latent sites.
        flow: The flow q starts from, unconditional and on all of R^D, D the number of
            unconstrained coordinates; its base has no parameters. By default affine couplings
            (in one dimension splines) behind an affine map that starts at `init_loc_fn` with scale
            0.1: couplings that are small and bounded, and do not diverge at the constant learning
            rates of SVI. Let it take several draws a step, as by `Trace_ELBO(num_particles=8)`.
        prefix: Before the names of its sites and of its parameters, `{prefix}_flow` and, by
            default, `{prefix}_loc`.
        init_loc_fn: As of numpyro's guides.
        **kwargs: Those of `numpyro.infer.autoguide.AutoContinuous`.

    Raises:
        TypeError: `flow` is no flow.
        ValueError: It has a support, a context, or a base with parameters. At the first call: it
            has another event size, or the model has a discrete latent site.

    Examples:
        >>> import flows, jax, numpyro, numpyro.distributions as dist, optax
        >>> from numpyro.infer import SVI, Trace_ELBO
        >>> model = lambda: numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
        >>> guide = flows.adapters.numpyro.AutoFlow(model)
        >>> svi = SVI(model, guide, optax.adam(1e-3), Trace_ELBO())
        >>> params = svi.run(jax.random.key(0), 10, progress_bar=False).params
        >>> guide.sample_posterior(jax.random.key(1), params, sample_shape=(5,))["x"].shape
        (5, 2)
    """

    model: Callable[..., Any]

    def __init__(
        self,
        model: Callable[..., Any],
        flow: Flow | None = None,
        *,
        prefix: str = "auto",
        init_loc_fn: Callable[..., Any] = init_to_uniform,
        **kwargs: Any,
    ):
        if flow is not None:
            require_flow("flow", flow)
            require_single("flow", flow)
            if flow.support is not None:
                raise ValueError("flow must be on all of R^D, and has a support.")
            if jax.tree.leaves(nnx.state(flow.base, nnx.Param)):
                raise ValueError("flow must have a base without parameters, as StandardNormal is.")
        self.flow: Any = flow  # of the default the event size is not known yet
        self._located = False
        super().__init__(model, prefix=prefix, init_loc_fn=init_loc_fn, **kwargs)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        model, self.model = self.model, _Continuous(self.model)
        try:
            super()._setup_prototype(*args, **kwargs)
        finally:
            self.model = model
        if self.flow is None:
            with jax.ensure_compile_time_eval():  # also where SVI is started under jit
                self.flow = self._default()
        if self.flow.event_size != self.latent_dim:
            raise ValueError(
                f"flow has event size {self.flow.event_size}, and the model {self.latent_dim} "
                "unconstrained coordinates."
            )

    def _default(self) -> Flow:
        self._located = True
        size, rngs = self.latent_dim, nnx.Rngs(0)
        if size == 1:
            network = nsf(1, num_layers=2, rngs=rngs)
        else:
            network = real_nvp(size, **NETWORK, rngs=rngs)
        affine = TriangularAffine(jnp.zeros(size), SCALE * jnp.eye(size))
        return Flow(network.base, Chain([affine, network.bijector]))

    def _get_posterior(self) -> dist.TransformedDistribution:
        flow = flow_param(f"{self.prefix}_flow", self.flow)
        transforms = [FlowTransform(flow.bijector)]
        if self._located:
            loc = numpyro.param(f"{self.prefix}_loc", self._init_latent)
            transforms.append(IndependentTransform(AffineTransform(loc, 1.0), 1))
        return dist.TransformedDistribution(self.get_base_dist(), transforms)

    def get_base_dist(self) -> dist.Distribution:
        return FlowDistribution(self.flow.base)

    def _unpack_and_constrain(self, latent_sample: jax.Array, params: dict[str, Any]) -> Any:
        """As numpyro's, which takes the model's own parameters for unconstrained ones."""
        sites = self.prototype_trace
        own = {k: v for k, v in params.items() if k in sites and sites[k]["type"] == "param"}
        rest = {k: v for k, v in params.items() if k not in own}
        with handlers.substitute(data=own):
            return super()._unpack_and_constrain(latent_sample, rest)

    def median(self, params: dict[str, Any]) -> dict[str, jax.Array]:
        """Medians of each latent variable, of 10,000 draws."""
        return self.quantiles(params, 0.5)

    def quantiles(self, params: dict[str, Any], quantiles: Any) -> dict[str, jax.Array]:
        """Quantiles [*quantiles.shape, ..] of each latent variable, of 10,000 draws."""
        draws = self.sample_posterior(jax.random.key(0), params, sample_shape=(NUM_DRAWS,))
        return jax.tree.map(lambda x: jnp.quantile(x, jnp.asarray(quantiles), axis=0), draws)


class _Continuous(Messenger):
    """A model that raises at discrete latent sites."""

    def process_message(self, site: dict[str, Any]) -> None:
        if site["type"] == "sample":
            require_continuous(site)

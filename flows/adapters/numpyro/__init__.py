"""numpyro: models as targets, flows as guides and as distributions at sample sites.

    AutoFlow            a guide, for SVI, Predictive and NeuTra
    FlowDistribution    a flow at a sample site, latent or observed
    flow_param          a flow whose parameters SVI learns

Models become targets by `flows.targets.from_numpyro`. Needs the extra `numpyro`.
"""

try:
    import numpyro
except ImportError as error:
    raise ImportError(
        'flows.adapters.numpyro needs numpyro: pip install "flows-jax[numpyro]".'
    ) from error

from flows.adapters.numpyro.distributions import FlowDistribution, FlowTransform, flow_param
from flows.adapters.numpyro.guides import AutoFlow
from flows.adapters.numpyro.models import Model

__all__ = ["AutoFlow", "FlowDistribution", "FlowTransform", "Model", "flow_param"]

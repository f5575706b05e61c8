"""numpyro: models as targets, flows as guides and as distributions at sample sites."""

from flows.adapters.numpyro.models import Model, latent

__all__ = ["Model", "latent"]

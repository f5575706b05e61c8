"""numpyro models as log densities of unconstrained parameters."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions import ImproperUniform, MaskedDistribution, biject_to
from numpyro.infer import Predictive, init_to_feasible
from numpyro.infer.util import constrain_fn, get_transforms, potential_energy, transform_fn
from numpyro.primitives import Messenger


class Model:
    """A numpyro model and its arguments.

    Args:
        model: The model.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Attributes:
        parameters: Shapes of the latent sites, a dictionary by their names.
        unconstrained: Those of the unconstrained parameters.

    Raises:
        ValueError: It has sites that are no real numbers with a proper prior, or no latent ones.
    """

    def __init__(self, model: Callable[..., Any], args: tuple, kwargs: dict[str, Any]):
        checked = handlers.substitute(handlers.seed(model, 0), substitute_fn=_feasible)
        trace = handlers.trace(checked).get_trace(*args, **kwargs)
        example = {name: jnp.asarray(site["value"]) for name, site in trace.items() if latent(site)}
        params = {name: site["value"] for name, site in trace.items() if site["type"] == "param"}
        for name in params:  # those of random modules are given priors, site by site
            if not any(site.startswith(name.removesuffix("$params") + "/") for site in example):
                raise ValueError(
                    f"Site {name!r} is a numpyro.param, which has no posterior: give it a prior by "
                    "numpyro.sample, or learn it by SVI with flows.adapters.numpyro.AutoFlow."
                )
        if not example:
            raise ValueError("The model has no latent sites: there is nothing to infer.")
        self.model = handlers.substitute(model, data=params)
        self.arguments = _DefaultKey(self.model), args, kwargs
        self.parameters = jax.eval_shape(lambda: example)
        self.unconstrained = jax.eval_shape(lambda x: self.unconstrain(x)[0], example)

    def log_density(self, u: dict[str, jax.Array]) -> jax.Array:
        """Log density of unconstrained parameters, with the log-Jacobian."""
        return -potential_energy(*self.arguments, u)

    def constrain(self, u: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The latent sites, and the deterministic ones."""
        return constrain_fn(*self.arguments, u, return_deterministic=True)

    def unconstrain(self, x: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], jax.Array]:
        """The inverse, and log|det du/dx|: the product over sites, whatever depends on which."""
        transforms = get_transforms(*self.arguments, x)
        u = transform_fn(transforms, x, invert=True)
        log_det = [transforms[name].log_abs_det_jacobian(u[name], x[name]).sum() for name in x]
        return u, -functools.reduce(jnp.add, log_det)

    def predict(self, key: jax.Array, parameters: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Draws of the sites that are neither parameters nor observed, for other arguments."""
        trace = handlers.trace(handlers.seed(self.model, 0)).get_trace(*args, **kwargs)
        sites = [
            name
            for name, site in trace.items()
            if name not in self.parameters and (latent(site) or site["type"] == "deterministic")
        ]
        if not any(latent(trace[name]) for name in sites):
            raise ValueError("Nothing is left to predict: pass None in place of the data.")
        latent_sites = {name: parameters[name] for name in self.parameters}
        return Predictive(self.model, latent_sites, return_sites=sites)(key, *args, **kwargs)


class _DefaultKey(Messenger):
    """Gives a key to models that ask for one, as numpyro's MCMC does."""

    def process_message(self, site: dict[str, Any]) -> None:
        if site["type"] == "prng_key" and site["value"] is None:
            site["value"] = jax.random.key(0)


def latent(site: dict[str, Any]) -> bool:
    """Whether a site of a trace is to be inferred."""
    return site["type"] == "sample" and not site["is_observed"]


def require_continuous(site: dict[str, Any]) -> None:
    """Raises at a latent site that is discrete."""
    if latent(site) and site["fn"].support.is_discrete:
        kind = type(_layers(site["fn"])[-1]).__name__
        raise ValueError(
            f"Site {site['name']!r} is discrete ({kind}) and not observed: pass its data or, if it "
            "is latent, sum over it, as mixtures do."
        )


def _feasible(site: dict[str, Any]) -> Any:
    """A value for a latent site, in place of a draw; raises unless it has a proper posterior."""
    _require_proper(site)
    return init_to_feasible(site) if latent(site) and site["value"] is None else None


def _require_proper(site: dict[str, Any]) -> None:
    """Raises unless a site has a posterior on real numbers."""
    name = site["name"]
    if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
        size, part = site["args"]
        raise ValueError(
            f"Plate {name!r} takes {part} of {size} rows, anew at each call, and a posterior is of "
            "all data: leave subsample_size out, or use SVI with flows.adapters.numpyro.AutoFlow."
        )
    if not latent(site):
        return
    layers = _layers(site["fn"])
    if site["scale"] is not None or any(map(_hides_entries, layers)):
        raise ValueError(
            f"Site {name!r} is masked or scaled, so that its prior is not proper: leave missing "
            "data out, and put handlers.mask and handlers.scale around observed sites alone."
        )
    improper = isinstance(layers[-1], ImproperUniform)
    if improper:
        raise ValueError(f"Site {name!r} is ImproperUniform, and evidence needs a proper prior.")
    require_continuous(site)
    support = site["fn"].support
    try:
        biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"Site {name!r} has support {support}, which numpyro cannot map real numbers to."
        ) from error


def _layers(prior: Any) -> list[Any]:
    """A distribution, what it is made of, and so on."""
    layers = [prior]
    while hasattr(layers[-1], "base_dist"):
        layers.append(layers[-1].base_dist)
    return layers


def _hides_entries(prior: Any) -> bool:
    return isinstance(prior, MaskedDistribution) and not np.all(np.asarray(prior._mask))

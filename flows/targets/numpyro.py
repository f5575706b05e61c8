"""Targets from numpyro models."""

from collections.abc import Callable
from typing import Any

from flows.targets.target import Target, structured


def from_numpyro(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Target:
    """The posterior of a numpyro model, given its arguments, data among them.

    Args:
        model: A numpyro model, as `numpyro.infer.MCMC` takes it.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        A `Target` whose parameters are a dictionary, by the names of the latent sites; draws hold
        the deterministic sites too. It predicts all other sites, given arguments with None for the
        data.

    Raises:
        ImportError: numpyro is not installed: `pip install "flows-jax[numpyro]"`.
        TypeError: `model` is not callable.
        ValueError: The site named is discrete, of an unknown support or an improper prior (masked
            or scaled ones, too, as of missing data), a `numpyro.param`, or of a plate that draws a
            part of its data anew at each call; or there is no latent site.

    Examples:
        >>> import flows, numpyro, numpyro.distributions as dist
        >>> def model(y):
        ...     scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        ...     numpyro.sample("y", dist.Normal(0.0, scale), obs=y)
        >>> flows.targets.from_numpyro(model, 0.3).names
        ('scale',)
    """
    from flows.adapters.numpyro.models import Model  # numpyro is an extra, and slow to import

    if not callable(model):
        raise TypeError(f"model must be a numpyro model, got {model!r}.")
    of = Model(model, args, kwargs)
    return structured(
        of.unconstrained, of.log_density, of.constrain, of.unconstrain, of.parameters, of.predict
    )

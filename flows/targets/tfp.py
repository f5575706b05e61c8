"""Targets from joint distributions of TFP."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from tensorflow_probability.substrates.jax import distributions as tfd

from flows._structures import path_name
from flows.targets.target import Target, structured


def from_tfp(joint: Any, **pinned: Any) -> Target:
    """The posterior of a TFP joint distribution, given the values of some of its parts.

    Args:
        joint: A joint distribution of `tensorflow_probability.substrates.jax`, of one draw: one of
            the `AutoBatched` kinds, or with `Independent` around what is a vector.
        **pinned: Values of the observed parts, by name.

    Returns:
        A `Target` whose parameters are the parts that are left, as `joint.sample` gives them (of a
        joint distribution in sequence a dictionary, by the names that it resolves), and which
        predicts the pinned ones.

    Raises:
        TypeError: `joint` is no joint distribution.
        ValueError: A name is not among its parts, a part that is left is discrete or of a support
            that TFP has no bijector for, the log density is no scalar, or no part is left.

    Examples:
        >>> import flows
        >>> from tensorflow_probability.substrates.jax import distributions as tfd
        >>> joint = tfd.JointDistributionNamedAutoBatched(dict(
        ...     scale=tfd.HalfNormal(1.0), y=lambda scale: tfd.Normal(0.0, scale)))
        >>> flows.targets.from_tfp(joint, y=0.3).names
        ('scale',)
    """
    if not hasattr(joint, "experimental_pin"):
        raise TypeError(f"joint must be a TFP joint distribution, got {type(joint).__name__}.")
    if not pinned:
        raise ValueError(
            "Nothing is pinned: give the observed parts by name, from_tfp(joint, y=y)."
        )
    model = joint.experimental_pin(**pinned)
    named, listed = _names(joint, model, pinned)
    _require_bijectors(joint, pinned)
    bijector = model.experimental_default_event_space_bijector()
    dtype = jnp.result_type(float)
    unconstrained = named(
        jax.tree.map(
            lambda shape: jax.ShapeDtypeStruct(tuple(shape), dtype),
            bijector.inverse_event_shape(model.event_shape),
        )
    )

    def forward(u: Any) -> Any:
        return named(bijector.forward(listed(u)))

    def log_density(u: Any) -> jax.Array:
        u = listed(u)
        log_det = bijector.forward_log_det_jacobian(u, event_ndims=jax.tree.map(jnp.ndim, u))
        log_p = model.unnormalized_log_prob(bijector.forward(u))
        if log_p.shape:
            raise ValueError(
                f"The log density of joint must be a scalar, got shape {log_p.shape}: take an "
                "AutoBatched joint distribution, or put tfd.Independent around vectors."
            )
        return log_p + log_det

    def inverse(parameters: Any) -> tuple[Any, jax.Array]:
        parameters = listed(parameters)
        ranks = jax.tree.map(jnp.ndim, parameters)
        log_det = bijector.inverse_log_det_jacobian(parameters, event_ndims=ranks)
        return named(bijector.inverse(parameters)), log_det

    def predict(key: jax.Array, parameters: Any) -> Any:
        def one(key: jax.Array, parameters: Any) -> dict[str, Any]:
            draw = _by_name(joint, joint.sample(seed=key, **_by_name(joint, parameters)))
            return {name: draw[name] for name in pinned}

        number = len(jax.tree.leaves(parameters)[0])
        return jax.vmap(one)(jax.random.split(key, number), parameters)

    return structured(
        unconstrained,
        log_density,
        forward,
        inverse,
        jax.eval_shape(forward, unconstrained),
        predict,
    )


def _names(
    joint: Any, model: Any, pinned: dict[str, Any]
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Maps of the parts that are left: from TFP's structure to names, and back.

    A joint distribution in sequence has lists of parts, and a dictionary by name here.
    """
    sequence = type(model.event_shape)
    if sequence not in (list, tuple):
        return lambda parts: parts, lambda parts: parts
    left = [name for name, _ in joint.resolve_graph() if name not in pinned]
    return (
        lambda parts: dict(zip(left, parts, strict=True)),
        lambda parts: sequence(parts[name] for name in left),
    )


def _by_name(joint: Any, parts: Any) -> dict[str, Any]:
    """All parts of a joint distribution, or those that are left where they have names."""
    if hasattr(parts, "_asdict"):
        return parts._asdict()
    if isinstance(parts, dict):
        return parts
    return dict(zip((name for name, _ in joint.resolve_graph()), parts, strict=True))


def _require_bijectors(joint: Any, pinned: dict[str, Any]) -> None:
    """Raises unless every part that is left is mapped from real numbers."""
    is_part = lambda value: isinstance(value, tfd.Distribution)

    def check(key: jax.Array) -> None:
        parts, _ = joint.sample_distributions(seed=key, **pinned)
        parts = _by_name(joint, parts)
        for path, part in jax.tree_util.tree_leaves_with_path(parts, is_leaf=is_part):
            if path_name(path) not in pinned and _bijector(part) is None:
                raise ValueError(
                    f"{path_name(path)} is {type(part).__name__}, which has no map from real "
                    "numbers: pin it, or sum over it if it is discrete."
                )

    jax.eval_shape(check, jax.random.key(0))  # nothing is drawn


def _bijector(part: tfd.Distribution) -> Any:
    try:
        return part.experimental_default_event_space_bijector()
    except NotImplementedError:
        return None

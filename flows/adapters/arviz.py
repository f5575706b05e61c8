"""Draws as ArviZ data trees. Needs the extra `arviz`."""

from typing import Any

import jax
import numpy as np

from flows import __version__
from flows._structures import path_name

try:
    import arviz_base
except ImportError as error:
    raise ImportError(
        'flows.adapters.arviz needs arviz-base: pip install "flows-jax[arviz]".'
    ) from error


def to_inference_data(
    draws: Any, sample_stats: dict[str, Any] | None = None, attrs: dict[str, Any] | None = None
) -> Any:
    """An `xarray.DataTree` of draws, for ArviZ: `Posterior.to_arviz` and `Chains.to_arviz` call it.

    Args:
        draws: A pytree of arrays [num_chains, num_samples, ..].
        sample_stats: Arrays [num_chains, num_samples] by name, such as "lp".
        attrs: What to write beside them, by name.

    Raises:
        ValueError: Two arrays have one name (a "/" in it becomes a "."), or one that ArviZ uses.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flows.adapters.arviz import to_inference_data
        >>> tree = to_inference_data({"mu": jnp.zeros((4, 10)), "w": jnp.ones((4, 10, 3))})
        >>> dict(tree["posterior"].sizes)
        {'chain': 4, 'draw': 10, 'w_dim_0': 3}
    """
    leaves = jax.tree_util.tree_leaves_with_path(draws)
    named = {path_name(path).replace("/", "."): np.asarray(leaf) for path, leaf in leaves}
    if len(named) < len(leaves) or {"chain", "draw"} & set(named):
        raise ValueError(
            f"draws must have names that differ, and are not chain or draw, got {list(named)}."
        )
    data = {"posterior": named}
    if sample_stats is not None:
        data["sample_stats"] = {name: np.asarray(stat) for name, stat in sample_stats.items()}
    library = {"inference_library": "flows", "inference_library_version": __version__}
    return arviz_base.from_dict(data, attrs={"/": library | (attrs or {})})

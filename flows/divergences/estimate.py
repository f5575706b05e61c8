"""A number and its standard error."""

import dataclasses
import functools

import jax
import jax.numpy as jnp


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "standard_error"],
    meta_fields=["num_samples", "method"],
)
@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimated quantity.

    Attributes:
        value: The estimate, of the batch shape of what was estimated.
        standard_error: Its standard error; 0 for a closed form.
        num_samples: The number of draws it rests on; 0 for a closed form.
        method: "closed_form" or "monte_carlo".
    """

    value: jax.Array
    standard_error: jax.Array
    num_samples: int
    method: str

    @classmethod
    def from_draws(cls, draws: jax.Array) -> "Estimate":
        """The mean of independent draws [n, ...], and its standard error."""
        n = len(draws)
        error = jnp.std(draws, axis=0, ddof=1) / jnp.sqrt(n)
        return cls(jnp.mean(draws, axis=0), error, n, "monte_carlo")

    def __str__(self) -> str:
        if jnp.ndim(self.value):
            return f"{self.value} +- {self.standard_error}"
        return f"{float(self.value):.4g} +- {float(self.standard_error):.2g}"

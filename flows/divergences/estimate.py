"""A number and its standard error."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "standard_error", "p_value"],
    meta_fields=["num_samples", "method"],
)
@dataclasses.dataclass(frozen=True)
class Estimate:
    """A quantity, and how well it is known.

    Attributes:
        value: The number, of the batch shape of what was compared.
        standard_error: Its standard error; 0 for closed forms and for bounds, whose own value is
            exact; NaN for an approximation, whose error nobody knows.
        num_samples: The number of draws it rests on; 0 for none.
        method: What was computed: "closed_form", "monte_carlo", "variational_upper_bound", ...;
            "guarded_control_variate" is either of two means (see `kl`).
        p_value: Of a two-sample test, else None.
    """

    value: jax.Array
    standard_error: jax.Array
    num_samples: int
    method: str
    p_value: jax.Array | None = None

    @classmethod
    def from_draws(cls, draws: jax.Array, method: str = "monte_carlo", groups: int = 0):
        """The mean of draws [n, ...] and its standard error; inf where the mean is.

        Args:
            draws: Draws, in so many `groups` of equal size, one after the other, of which the
                means are independent; 0 where the draws themselves are.
            method: What to call it.
            groups: Number of groups.
        """
        value, error = _mean_and_error(draws, groups or len(draws))
        return cls(value, error, len(draws), method)

    @classmethod
    def exact(cls, value: jax.Array, method: str = "closed_form") -> "Estimate":
        """A number without an error: a closed form, or a bound."""
        return cls(value, jnp.zeros_like(value), 0, method)

    def __add__(self, other: "Estimate") -> "Estimate":
        """The sum of two independent estimates."""
        return Estimate(
            self.value + other.value,
            jnp.hypot(self.standard_error, other.standard_error),
            self.num_samples + other.num_samples,
            self.method if self.method == other.method else f"{self.method} + {other.method}",
        )

    def transform(self, function, slope) -> "Estimate":
        """function(value), with the error |slope(value)| times as large (the delta method)."""
        value, certain = function(self.value), self.standard_error == 0
        error = jnp.abs(slope(self.value)) * jnp.where(certain, 1.0, self.standard_error)
        error = jnp.where(jnp.isinf(value), jnp.inf, error)
        return dataclasses.replace(self, value=value, standard_error=jnp.where(certain, 0.0, error))

    def __str__(self) -> str:
        if jnp.ndim(self.value):
            return f"{self.value} +- {self.standard_error}"
        value, error = float(self.value), float(self.standard_error)
        return f"{value:.{_digits(value, error)}g} +- {error:.2g}"


def _digits(value: float, error: float) -> int:
    """Significant digits of a value that is known to two digits of its error.

    Examples:
        >>> from flows.divergences.estimate import _digits
        >>> _digits(-112.85142, 0.0015), _digits(9.5532, 0.034), _digits(1e-9, 2e-7)
        (7, 4, 1)
    """
    if not (0 < error < math.inf) or value == 0 or not math.isfinite(value):
        return 4
    places = math.floor(math.log10(abs(value))) - math.floor(math.log10(error))
    return min(max(places + 2, 1), 9)


@functools.partial(jax.jit, static_argnames="groups")
def _mean_and_error(draws: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """The mean of draws [n, ...] and its standard error, from the means of so many groups."""
    means = draws.reshape(groups, -1, *draws.shape[1:]).mean(axis=1)
    value = means.mean(axis=0)
    infinite = jnp.isinf(value)
    centred = jnp.where(infinite, 0.0, means) - jnp.where(infinite, 0.0, value)
    scale = jax.lax.stop_gradient(jnp.abs(centred).max(axis=0))
    scale = jnp.where(scale > 0, scale, 1.0)  # taken out: squares overflow
    variance = ((centred / scale) ** 2).sum(axis=0) / (groups - 1)
    error = scale * jnp.sqrt(variance / groups)
    return value, jnp.where(infinite, jnp.inf, error)

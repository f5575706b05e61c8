"""A normalizing flow: a base distribution pushed through a bijector."""

from typing import Any

import distrax
import jax
import jax.numpy as jnp
from tensorflow_probability.substrates.jax import distributions as tfd

from flows import _checks, supports
from flows.bijectors.base import Bijector, require_bijector
from flows.bijectors.compiled import compiled
from flows.bijectors.contexts import Conditioned
from flows.distributions.bases import Distribution
from flows.distributions.conditionals import normal_conditionals
from flows.divergences import kl


class Flow(Distribution):
    r"""The distribution of x = f(z), z ~ base.

    log p(x) = log p_base(f^-1(x)) + log|det J(f^-1)(x)|.

    With a `support`, f ends in the map from the real line of each column onto it: there is no mass
    outside. With integer columns the flow is one of x + u, u uniform on [0, 1) in these columns;
    its draws are rounded down, and `log_prob` is the bound E_u[log p(x + u)] of the log-probability
    of a row, from below (Theis et al. 2016, arXiv:1511.01844), with the mean taken over
    `flows.supports.NUM_CELL_POINTS` points of the cell.

    A flow is a `distrax.Distribution`, an `nnx.Module` and a pytree: give it to `jax.jit`,
    `jax.vmap` and `jax.grad` as an argument, or to `nnx.split`. It is no `distrax.Transformed`: the
    `kl_divergence` of these takes flows of one architecture for equal, and `jit` retraces them.

    Args:
        base: A `flows.distributions.Distribution` over noise, without a context.
        bijector: Maps noise to data in its forward direction.
        support: Where the columns of data may lie, one of `flows.supports` for all of them or one
            for each; all real numbers by default.

    Cost: `log_prob` is one inverse of the bijector, with integer columns NUM_CELL_POINTS of them;
    `sample` is one forward.

    Examples:
        >>> import flows, jax
        >>> flow = flows.Flow(flows.StandardNormal(2), flows.bijectors.Reverse(2))
        >>> flow.sample(seed=jax.random.key(0), sample_shape=(3,)).shape
        (3, 2)
    """

    def __init__(self, base: Distribution, bijector: Bijector, support: Any = None):
        if not isinstance(base, Distribution):
            raise TypeError(
                "base must be a flows.distributions.Distribution such as flows.StandardNormal(D), "
                f"got {type(base).__module__}.{type(base).__name__}: nnx cannot see the "
                "parameters of raw distrax distributions, and copies of them drift apart."
            )
        require_bijector("bijector", bijector)
        if base.event_size != bijector.event_size:
            raise ValueError(
                f"base has event size {base.event_size} and bijector {bijector.event_size}; "
                "they must be equal."
            )
        if isinstance(base, Flow):
            require_single("base", base)
        super().__init__(bijector.event_size)
        self.base = base
        self.bijector = bijector
        columns = supports.of_columns(support, self.event_size)
        self.support = supports.above_base(columns, base.space, self.event_size)

    def _recorded(self, name: str, value: Any) -> Any:
        return self.support if name == "support" else value

    @property
    def context_size(self) -> int | None:
        """Size of the context the flow waits for, or None."""
        return self.bijector.context_size

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """() or, with a context bound by `condition`, the batch shape of the context."""
        return self.bijector.batch_shape

    @property
    def space(self) -> Any:
        """What its events are: see `Distribution.space`."""
        return self.base.space if self.support is None else supports.space(self.support)

    @property
    def is_discrete(self) -> bool:
        """Whether there are integer columns."""
        return self.support is not None and bool(supports.of_kind(self.support, "integers").any())

    @property
    def is_reparameterized(self) -> bool:
        """Whether draws follow the parameters, so that they can be differentiated."""
        return self.base.is_reparameterized and not self.is_discrete

    def widened(self, factor: float) -> "Flow":
        return Flow(self.base.widened(factor), self.bijector, self.support)

    def unconstrained(self) -> "Flow":
        """The distribution on the real line that the support is the image of (see `supports`)."""
        return Flow(self.base, self.bijector)

    def dequantized(self) -> "Flow":
        """The density of x + u, with u uniform on [0, 1) in integer columns; itself without any."""
        if self.support is None or not self.is_discrete:
            return self
        return Flow(self.base, self.bijector, supports.dequantized(self.support))

    def condition(self, context: jax.Array) -> "Flow":
        """Binds a context.

        Args:
            context: Vectors [..., context_size].

        Returns:
            p(x | context), an ordinary distribution whose batch shape is `context.shape[:-1]`.

        Raises:
            ValueError: The flow takes no context, or the size is wrong.
        """
        return Flow(self.base, Conditioned(self.bijector, context), self.support)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density at points.

        Args:
            value: Points [..., event_size], broadcast against `batch_shape`.

        Returns:
            Log densities [...] in nats, -inf outside of the support. A NaN stays a NaN: nothing
            non-finite is hidden.

        Raises:
            ValueError: Wrong event size, or the flow waits for a context (see `condition`).
        """
        self._require_bound_context()
        return self._log_prob(self._points("value", value))

    @compiled
    def _log_prob(self, value: jax.Array) -> jax.Array:
        if self.support is not None and self.is_discrete:
            return self._log_prob_of_cells(value, self.support)
        if self.support is not None:
            u, log_det = supports.to_real(self.support, value)
            return self._log_prob_of_real(u) + log_det
        return self._log_prob_of_real(value)

    def _log_prob_of_real(self, u: jax.Array) -> jax.Array:
        z, log_det = self.bijector.inverse_and_log_det(u)
        return self.base.log_prob(z) + log_det

    def _log_prob_of_cells(self, value: jax.Array, columns: supports.Columns) -> jax.Array:
        outside = supports.outside(columns, value).any(axis=-1)
        density = self.dequantized()
        points = jnp.asarray(supports.cell_points(columns), value.dtype)
        log_probs = jax.lax.map(lambda point: density.log_prob(value + point), points)
        return jnp.where(outside, -jnp.inf, log_probs.mean(axis=0))

    def from_normals(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The draws that standard normals make, and their log densities.

        Args:
            noise: Standard normals [..., event_size], broadcast against `batch_shape`.

        Raises:
            NotImplementedError: The base does not make its draws from normals, or draws jump,
                because columns are integers.
            ValueError: Wrong event size, or the flow waits for a context.
        """
        self._require_bound_context()
        if self.is_discrete:
            raise NotImplementedError("Draws of integers do not follow normals.")
        return self._from_normals(self._points("noise", noise))

    @compiled
    def _from_normals(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.push(*self.base.from_normals(noise))

    def conditionals(self, value: jax.Array) -> distrax.Normal:
        """p(x_i | x_0 .. x_{i-1}) of each coordinate at points, where they are normal.

        They are where all layers are affine and autoregressive in the order of the coordinates, as
        in `flows.maf(..., num_layers=1)`; the noise may be permuted, and the data whitened.

        Args:
            value: Points [..., event_size], broadcast against `batch_shape`.

        Returns:
            Normals of batch shape [..., event_size], of which the log densities add up to
            `log_prob(value)`.

        Raises:
            NotImplementedError: Not known for these layers or this base.
            ValueError: Wrong event size, or the flow waits for a context.

        Cost: event_size derivatives of `log_prob`'s inverse pass, in turn.
        """
        self._require_bound_context()
        if self.support is not None:
            raise NotImplementedError("The conditionals of a flow with a support are not normal.")
        return distrax.Normal(*self._conditionals(self._points("value", value)))

    @compiled
    def _conditionals(self, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        return normal_conditionals(self.base, self.bijector, value)

    @compiled(static=(1,))
    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        return self._sample_n_and_log_prob(key, n)[0]

    def weighted_sample(
        self, *, seed: jax.Array, sample_shape: tuple[int, ...] = ()
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        self._require_bound_context()
        return self._weighted_sample(seed, (*sample_shape, *self.batch_shape))

    @compiled(static=(1,))
    def _weighted_sample(
        self, key: jax.Array, shape: tuple[int, ...]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        z, log_base, weight = self.base.weighted_sample(seed=key, sample_shape=shape)
        return (*self.push(z, log_base), weight)

    @compiled(static=(1,))
    def _sample_n_and_log_prob(self, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
        self._require_bound_context()
        z, log_base = self.base.sample_and_log_prob(seed=key, sample_shape=(n, *self.batch_shape))
        return self.push(z, log_base)

    def push(self, z: jax.Array, log_base: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What noise z of log density `log_base` becomes, and its log density."""
        u, log_det = self.bijector.forward_and_log_det(z)
        if self.support is None:
            return u, log_base - log_det
        x, log_det_support = supports.from_real(self.support, u)
        if self.is_discrete:
            x = supports.rounded(self.support, x)
            return x, self._log_prob(x)
        return x, log_base - log_det - log_det_support

    def _require_bound_context(self) -> None:
        if self.context_size is not None:
            raise ValueError(
                f"context is missing: this flow was built with context_size={self.context_size}; "
                "use flow.condition(context).log_prob(x) or .sample(...)."
            )

    def kl_divergence(self, other_dist: Any, **kwargs: Any) -> jax.Array:
        """KL(self || other_dist) in nats: the value of `flows.divergences.kl`, without its error.

        Args:
            other_dist: A distribution over the same events.
            **kwargs: Those of `flows.divergences.kl`, such as `key` and `num_samples`.

        Raises:
            ValueError: `key` is missing and there is no closed form.
        """
        return _kl(self, other_dist, **kwargs)


def require_flow(name: str, value: Any) -> None:
    """Raises unless `value` is a flow, whose parameters training can see."""
    for attribute in ("flow", "student"):
        if isinstance(getattr(value, attribute, None), Flow):
            raise TypeError(
                f"{name} must be a flows.Flow, got a {type(value).__name__}: pass "
                f"result.{attribute}."
            )
    if not isinstance(value, Flow):
        raise TypeError(
            f"{name} must be a flows.Flow, got {type(value).__module__}.{type(value).__name__}. "
            "Inside raw distrax objects nnx cannot see parameters and training would silently do "
            "nothing: use flows.Flow(base, bijector)."
        )


def require_single(name: str, flow: Flow) -> None:
    """Raises if a flow still waits for a context, or is a batch of conditional flows."""
    _checks.context_wanted(f"context of {name}", False, flow.context_size)
    if flow.batch_shape:
        raise ValueError(
            f"{name} must have no batch shape, got {flow.batch_shape}: it was bound to a batch of "
            "contexts by condition()."
        )


def _kl(p: Any, q: Any, name: str | None = None, **kwargs: Any) -> jax.Array:
    del name  # tfp passes it to every rule
    return kl(p, q, **kwargs).value


for _p, _q in [
    (Flow, Flow),
    *[(Flow, other) for other in (distrax.Distribution, tfd.Distribution)],
    *[(other, Flow) for other in (distrax.Distribution, tfd.Distribution)],
]:
    tfd.RegisterKL(_p, _q)(_kl)

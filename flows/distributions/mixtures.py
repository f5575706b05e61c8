"""A mixture of normals as a base: for data whose modes lie apart."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.scipy import stats

from flows import _checks
from flows.distributions.bases import Distribution, with_scales

START_SCALE = 0.6  # of the components, which together start near a standard normal


class MixtureOfNormals(Distribution):
    r"""A mixture of normals, x = m_k + s_k (I + T_k) e, with e ~ N(0, I).

    Learnable are `logits` [K], `loc` (m) and `log_scale` (log s) [K, D], and with full covariances
    `shear` (T) [K, D, D], of which what lies below the diagonal counts.

    A flow is continuous: on a normal base it leaves bridges of density between modes that lie
    apart. A component for each mode needs none.

    Draws may be differentiated in all parameters, the weights included: dx = -(dF/dx)^-1 dF, with
    F_i(x) the distribution function of x_i given x_0 .. x_{i-1}. Source: implicit
    reparameterisation, Figurnov et al. 2018, arXiv:1805.08498; Graves 2016, arXiv:1607.05690. The
    derivatives in the weights come from draws between the modes: where these lie more than about
    six standard deviations apart there are none. `flows.fit`, `flows.fit_posterior`,
    `flows.distill` and `flows.divergences` do not rely on them (`weighted_sample`).

    Args:
        event_size: Size of the vectors, D.
        num_components: Number of normals, K.
        full_covariance: Whether coordinates may correlate within a component.
        rngs: Source of the initial means; the same every time without.

    Cost: K D for each point, K D^2 with full covariances; D^2 K for each draw that is
    differentiated.

    Examples:
        >>> import flows, jax, jax.numpy as jnp
        >>> base = flows.MixtureOfNormals(2, num_components=3)
        >>> base.sample(seed=jax.random.key(0), sample_shape=(5,)).shape
        (5, 2)
    """

    def __init__(
        self,
        event_size: int,
        num_components: int,
        *,
        full_covariance: bool = False,
        rngs: nnx.Rngs | None = None,
    ):
        super().__init__(event_size)
        self.num_components = _checks.positive_int("num_components", num_components)
        key = jax.random.key(0) if rngs is None else rngs.params()
        shape = (self.num_components, event_size)
        spread = (1 - START_SCALE**2) ** 0.5 if num_components > 1 else 0.0
        scale = START_SCALE if num_components > 1 else 1.0
        self.logits = nnx.Param(jnp.zeros(self.num_components))
        self.loc = nnx.Param(spread * jax.random.normal(key, shape))
        self.log_scale = nnx.Param(jnp.full(shape, jnp.log(scale)))
        self.shear = nnx.Param(jnp.zeros((*shape, event_size))) if full_covariance else None

    def widened(self, factor: float) -> Distribution:
        """The components stay where they are, each with deviations so many times as large."""
        return with_scales(self, factor)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density at value [..., event_size]."""
        log_joint = self._log_joint(self._points("value", value)).sum(axis=-1)
        return jax.nn.logsumexp(log_joint + jax.nn.log_softmax(self.logits[...]), axis=-1)

    def _log_joint(self, value: jax.Array) -> jax.Array:
        """Log density of component k in x_i, given x_0 .. x_{i-1} [..., K, D]."""
        return stats.norm.logpdf(self._noise(value)) - self.log_scale[...]

    def _noise(self, value: jax.Array) -> jax.Array:
        """What e of each component gives the value [..., K, D]."""
        noise = (value[..., None, :] - self.loc[...]) / jnp.exp(self.log_scale[...])
        if self.shear is None:
            return noise
        eye = jnp.eye(self.event_size, dtype=noise.dtype)
        inverse = jax.vmap(
            lambda shear: jax.scipy.linalg.solve_triangular(
                shear, eye, lower=True, unit_diagonal=True
            )
        )(self.shear[...])
        return jnp.einsum("kde,...ke->...kd", inverse, noise, precision="highest")

    def _draw(self, key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """Draws [*shape, D], and the components [*shape] that they follow."""
        choice_key, noise_key = jax.random.split(key)
        which = jax.random.categorical(choice_key, self.logits[...], shape=shape)
        noise = jax.random.normal(noise_key, (*shape, self.event_size), self.dtype)
        if self.shear is not None:
            below = jnp.tril(self.shear[...], -1)
            of_each = jnp.einsum("kde,...e->...kd", below, noise, precision="highest")
            noise += jnp.take_along_axis(of_each, which[..., None, None], axis=-2)[..., 0, :]
        return self.loc[...][which] + jnp.exp(self.log_scale[...][which]) * noise, which

    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        x, _ = self._draw(key, (n,))
        return jax.vmap(_follow, (None, 0))(self, jax.lax.stop_gradient(x))

    def weighted_sample(
        self, *, seed: jax.Array, sample_shape: tuple[int, ...] = ()
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Draws follow their component, and weights are w_k / w_k, of which one is fixed."""
        x, which = self._draw(seed, sample_shape)
        log_share = jax.nn.log_softmax(self.logits[...])[which]
        weight = jnp.exp(log_share - jax.lax.stop_gradient(log_share))
        return x, self.log_prob(x), weight

    def _distribution_functions(self, x: jax.Array) -> jax.Array:
        """F_i(x) = P(X_i <= x_i | x_0 .. x_{i-1}) [D] at one point x [D]."""
        log_joint = self._log_joint(x)  # [K, D]
        before = jnp.cumsum(log_joint, axis=1) - log_joint
        share = jax.nn.softmax(self.logits[...][:, None] + before, axis=0)
        below = stats.norm.cdf(self._noise(x))
        return (share * below).sum(axis=0)


@jax.custom_jvp
def _follow(mixture: MixtureOfNormals, x: jax.Array) -> jax.Array:
    """A draw x [D], with the derivative that draws have in the parameters."""
    return x


@_follow.defjvp
def _follow_jvp(primals, tangents):
    mixture, x = primals
    x = _follow(mixture, x)  # for derivatives of derivatives
    functions = lambda mixture: mixture._distribution_functions(x)
    _, moved = jax.jvp(functions, (mixture,), tangents[:1])
    jacobian = jax.jacfwd(mixture._distribution_functions)(x)
    density = jnp.maximum(jnp.diagonal(jacobian), jnp.finfo(x.dtype).tiny)  # it scales the rows
    step = jax.scipy.linalg.solve_triangular(
        jacobian / density[:, None], moved / density, lower=True, unit_diagonal=True
    )
    return x, -step

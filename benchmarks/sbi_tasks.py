"""Four tasks of simulation-based inference, of sbibm 1.1.0 (Lueckmann et al. 2021).

The observations and 10,000 draws of the posterior of each, made there, are not ours to copy, so the
folder is not in the repository. It holds NAME.npz of each task, with `observations` [10, dx],
`true_parameters` [10, dp] and `reference` [10, 10000, dp].
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import flows

FOLDER = str(Path(__file__).parents[2] / "shared" / "data" / "sbi")


class Task(NamedTuple):
    """A prior and a simulator; both are given a `numpy.random.Generator` first."""

    prior: Callable[[np.random.Generator, int], np.ndarray]  # theta [N, dp]
    simulate: Callable[[np.random.Generator, np.ndarray], np.ndarray]  # x [N, dx] of theta
    support: flows.supports.Support  # of the prior

    def simulations(self, rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws of theta and x, in float32."""
        theta = self.prior(rng, number)
        return theta.astype(np.float32), self.simulate(rng, theta).astype(np.float32)


def uniform(bound: float, size: int, simulate: Callable[..., np.ndarray]) -> Task:
    """A task whose parameters are uniform on [-bound, bound]."""
    prior = lambda rng, number: rng.uniform(-bound, bound, (number, size))
    return Task(prior, simulate, flows.supports.interval(-bound, bound))


def two_moons(rng: np.random.Generator, theta: np.ndarray) -> np.ndarray:
    """A crescent, moved by |t1 + t2|: two of them are the posterior."""
    angle = rng.uniform(-np.pi / 2, np.pi / 2, len(theta))
    radius = rng.normal(0.1, 0.01, len(theta))
    crescent = np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1)
    moved = np.stack([-abs(theta.sum(axis=1)), theta[:, 1] - theta[:, 0]], axis=1)
    return crescent + moved / 2**0.5


def gaussian_mixture(rng: np.random.Generator, theta: np.ndarray) -> np.ndarray:
    """Theta with noise of deviation 1 or 0.1, as a coin falls."""
    scale = np.where(rng.random((len(theta), 1)) < 0.5, 1.0, 0.1)
    return theta + scale * rng.normal(size=theta.shape)


def slcp(rng: np.random.Generator, theta: np.ndarray) -> np.ndarray:
    """Four points of a bivariate normal: simple likelihood, complex posterior."""
    noise = rng.normal(size=(len(theta), 4, 2))
    scale, rho = theta[:, None, 2:4] ** 2, np.tanh(theta[:, None, 4])
    second = rho * noise[..., 0] + np.sqrt(1 - rho**2) * noise[..., 1]
    points = theta[:, None, :2] + scale * np.stack([noise[..., 0], second], axis=-1)
    return points.reshape(-1, 8)


def gaussian_linear(rng: np.random.Generator, theta: np.ndarray) -> np.ndarray:
    """Theta with noise."""
    return theta + rng.normal(0.0, 0.1**0.5, theta.shape)


TASKS = {
    "two_moons": uniform(1.0, 2, two_moons),
    "slcp": uniform(3.0, 5, slcp),
    "gaussian_mixture": uniform(10.0, 2, gaussian_mixture),
    "gaussian_linear": Task(
        lambda rng, number: rng.normal(0.0, 0.1**0.5, (number, 10)), gaussian_linear,
        flows.supports.real,
    ),
}  # fmt: skip

"""Densities with a known evidence, and draws of them: what is hard for posteriors, one by one."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats
from jax.scipy.special import logsumexp


@dataclasses.dataclass(frozen=True)
class Target:
    """A log density of one point [D], its log evidence, and how to draw from it."""

    event_size: int
    log_density: Callable[[jax.Array], jax.Array]
    log_evidence: float
    draw: Callable[[np.random.Generator, int], np.ndarray]


def mixture(locs, scales, shares):
    """Round normals: locs [K, D], scales [K], shares [K]."""
    locs, scales, shares = (np.asarray(a, float) for a in (locs, scales, shares))
    event_size = locs.shape[1]

    def log_density(x):
        each = stats.norm.logpdf(x, locs, scales[:, None]).sum(axis=1)
        return logsumexp(each + np.log(shares))

    def draw(rng, n):
        k = rng.choice(len(shares), n, p=shares)
        return locs[k] + scales[k, None] * rng.normal(size=(n, event_size))

    return Target(event_size, log_density, 0.0, draw)


def apart(event_size, distance, shares=(0.5, 0.5)):
    """Two unit normals, some standard deviations apart."""
    step = distance / event_size**0.5 * np.ones(event_size)
    return mixture([-step / 2, step / 2], [1, 1], shares)


def four_scales(event_size=10):
    """Four modes, of standard deviations 0.3 to 2."""
    locs = 6 * np.random.default_rng(1).normal(size=(4, event_size))
    return mixture(locs, [0.3, 0.6, 1.0, 2.0], [0.25] * 4)


def forty(event_size=2):
    """The forty modes of fab-jax: locations uniform in [-40, 40], scales softplus(1)."""
    locs = 80 * (np.random.default_rng(0).random((40, event_size)) - 0.5)
    return mixture(locs, [np.log1p(np.e)] * 40, [1 / 40] * 40)


def transformed(event_size, to_x, log_density, log_evidence=0.0):
    """A target whose draws are a function of normal noise."""
    draw = lambda rng, n: np.asarray(to_x(rng, rng.normal(size=(n, event_size))))
    return Target(event_size, log_density, log_evidence, draw)


def quadrature(log_density, low, high, n=200_001):
    """Log evidence of a density of one number, and draws from it."""
    grid = np.linspace(low, high, n)
    values = np.asarray(jax.vmap(log_density)(grid), float)
    weights = np.exp(values - values.max())
    distribution = np.cumsum(weights) / weights.sum()
    draw = lambda rng, shape: np.interp(rng.random(shape), distribution, grid)
    return float(np.log(weights.sum() * (grid[1] - grid[0])) + values.max()), draw


def many_well(event_size):
    """Two wells in each other coordinate: 2^(D/2) modes (fab-jax)."""
    well = lambda a: -(a**4) + 6 * a**2 + 0.5 * a
    of_one, draw_one = quadrature(well, -4, 4)
    pairs = event_size // 2

    def draw(rng, n):
        both = np.stack([draw_one(rng, (n, pairs)), rng.normal(size=(n, pairs))], axis=2)
        return both.reshape(n, event_size)

    return Target(
        event_size,
        lambda x: well(x[::2]).sum() - 0.5 * (x[1::2] ** 2).sum(),
        pairs * (of_one + 0.5 * np.log(2 * np.pi)),
        draw,
    )


def ring(radius=5.0, width=0.5):
    """A ring in the plane."""
    of_one, draw_one = quadrature(
        lambda r: jnp.log(r) - 0.5 * ((r - radius) / width) ** 2, 1e-6, radius + 8 * width
    )

    def draw(rng, n):
        r, angle = draw_one(rng, n), 2 * np.pi * rng.random(n)
        return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1)

    density = lambda x: -0.5 * ((jnp.linalg.norm(x) - radius) / width) ** 2
    return Target(2, density, of_one + np.log(2 * np.pi), draw)


def label_switching(n=60):
    """Means of two equal components of a mixture, which data cannot tell apart."""
    rng = np.random.default_rng(2)
    y = np.where(rng.random(n) < 0.5, -1.5, 1.5) + rng.normal(size=n)

    def log_density(u):
        each = logsumexp(stats.norm.logpdf(y[:, None], u, 1.0), axis=1) - jnp.log(2.0)
        return each.sum() + stats.norm.logpdf(u, 0.0, 5.0).sum()

    grid = np.linspace(-6, 6, 601)
    a, b = np.meshgrid(grid, grid, indexing="ij")
    points = np.stack([a.ravel(), b.ravel()], axis=1)
    values = np.asarray(jax.lax.map(log_density, jnp.asarray(points), batch_size=5000), float)
    weights = np.exp(values - values.max())
    area = (grid[1] - grid[0]) ** 2
    evidence = float(np.log(weights.sum() * area) + values.max())

    def draw(rng, n):
        which = rng.choice(len(points), n, p=weights / weights.sum())
        return points[which] + (rng.random((n, 2)) - 0.5) * (grid[1] - grid[0])

    return Target(2, log_density, evidence, draw)


def banana(scale=0.1, unit=1.0):
    """x_1 = 1 - x_0^2 + scale e, in any units."""

    def log_density(x):
        x = x / unit
        first = stats.norm.logpdf(x[0])
        second = stats.norm.logpdf(x[1], 1 - x[0] ** 2, scale)
        return first + second - 2 * np.log(unit)

    to_x = lambda rng, e: unit * np.stack([e[:, 0], 1 - e[:, 0] ** 2 + scale * e[:, 1]], axis=1)
    return transformed(2, to_x, log_density)


def twice(target):
    """Two independent copies side by side."""
    d = target.event_size
    return Target(
        2 * d,
        lambda x: target.log_density(x[:d]) + target.log_density(x[d:]),
        2 * target.log_evidence,
        lambda rng, n: np.concatenate([target.draw(rng, n), target.draw(rng, n)], axis=1),
    )


def funnel(event_size=10):
    """Neal's: x_0 ~ N(0, 3), the others N(0, exp(x_0 / 2))."""

    def log_density(x):
        return stats.norm.logpdf(x[0], 0, 3) + stats.norm.logpdf(x[1:], 0, jnp.exp(x[0] / 2)).sum()

    def to_x(rng, e):
        return np.concatenate([3 * e[:, :1], np.exp(1.5 * e[:, :1]) * e[:, 1:]], axis=1)

    return transformed(event_size, to_x, log_density)


def student_t(event_size=5, df=2.5):
    """Independent Student-t coordinates."""

    def log_density(x):
        return stats.t.logpdf(x, df).sum()

    return transformed(
        event_size, lambda rng, e: rng.standard_t(df, size=e.shape), log_density
    )  # fmt: skip


def horseshoe(num=5):
    """Coefficients b_j = z_j tau lambda_j of half-Cauchy scales, on the log scale."""
    half_cauchy = lambda u: jnp.log(2 / jnp.pi) - jnp.log1p(jnp.exp(2 * u)) + u

    def log_density(x):
        return stats.norm.logpdf(x[:num]).sum() + half_cauchy(x[num:]).sum()

    def to_x(rng, e):
        return np.concatenate([e[:, :num], np.log(np.abs(rng.standard_cauchy((len(e), num))))], 1)

    return transformed(2 * num, to_x, log_density)


def correlated(event_size=100, condition=1e4):
    """A normal whose covariance has eigenvalues from 1 to `condition`."""
    rng = np.random.default_rng(3)
    axes = np.linalg.qr(rng.normal(size=(event_size, event_size)))[0]
    sds = np.sqrt(np.geomspace(1, condition, event_size))

    def log_density(x):
        return stats.norm.logpdf(axes.T @ x, 0, sds).sum()

    return transformed(event_size, lambda rng, e: (e * sds) @ axes.T, log_density)


TARGETS: dict[str, Callable[[], Target]] = {
    "two modes, 10 sd": lambda: apart(2, 10),
    "two modes, .9/.1": lambda: apart(2, 12, (0.9, 0.1)),
    "two modes, D = 10": lambda: apart(10, 10),
    "four scales, D = 10": four_scales,
    "three scales, D = 6": lambda: mixture(
        3 * np.random.default_rng(4).normal(size=(3, 6)), [0.3, 1, 2], [0.2, 0.5, 0.3]
    ),
    "two modes, 3,000 sd": lambda: mixture([[0, 0], [0, -3000]], [1, 1], [0.5, 0.5]),
    "narrow within wide, D = 3": lambda: mixture([[0, 0, 0], [0, 0, 3]], [30, 0.1], [0.7, 0.3]),
    "shoulder, D = 2": lambda: mixture(np.zeros((2, 2)), [1, 0.01], [0.5, 0.5]),
    "shoulder, D = 10": lambda: mixture(np.zeros((2, 10)), [1, 0.1], [0.5, 0.5]),
    "many-well, D = 8": lambda: many_well(8),
    "many-well, D = 32": lambda: many_well(32),
    "ring": ring,
    "label switching": label_switching,
    "forty modes": forty,
    "banana": banana,
    "banana, units of 1e-4": lambda: banana(unit=1e-4),
    "two bananas": lambda: twice(banana()),
    "funnel, D = 10": funnel,
    "Student-t 2.5, D = 5": student_t,
    "horseshoe, 5 + 5": horseshoe,
    "normal, D = 100": correlated,
}

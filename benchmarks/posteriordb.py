# ruff: noqa: D103  (each model is named as in posteriordb)
"""Sixteen posteriors of posteriordb (BSD-3), on the unconstrained scale, with reference draws.

The data lie in ../shared/data/posteriordb; the densities follow the notes there.
"""

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats
from jax.scipy.special import logsumexp

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "posteriordb"


def normal(x, loc, scale):
    return stats.norm.logpdf(x, loc, scale).sum()


def half_cauchy(x, scale):
    return -jnp.log1p((x / scale) ** 2).sum()


def positive(u):
    """exp(u), and the log-Jacobian."""
    return jnp.exp(u), u.sum()


def unit(u):
    """A number in (0, 1), and the log-Jacobian."""
    return jax.nn.sigmoid(u), (jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u)).sum()


def ordered(u):
    """u_0 < u_0 + exp(u_1), and the log-Jacobian."""
    return jnp.stack([u[0], u[0] + jnp.exp(u[1])]), u[1]


def positive_ordered(u):
    """0 < exp(u_0) < exp(u_0) + exp(u_1), and the log-Jacobian."""
    first, second = jnp.exp(u)
    return jnp.stack([first, first + second]), u.sum()


def regression(design, y, priors):
    """Normal regression on columns of a design: u = coefficients, log sd."""
    design, y = jnp.asarray(design, float), jnp.asarray(y, float)

    def constrain(u):
        return jnp.append(u[:-1], jnp.exp(u[-1]))

    def log_density(u):
        sigma, log_jacobian = positive(u[-1])
        return normal(y, design @ u[:-1], sigma) + priors(u[:-1], sigma) + log_jacobian

    return design.shape[1] + 1, log_density, constrain


def eight_schools(d, centered):
    y, sigma = jnp.asarray(d["y"], float), jnp.asarray(d["sigma"], float)

    def parts(u):
        mu, tau = u[8], jnp.exp(u[9])
        return (u[:8] if centered else mu + tau * u[:8]), mu, tau

    def constrain(u):
        theta, mu, tau = parts(u)
        return jnp.concatenate([theta, jnp.stack([mu, tau])])

    def log_density(u):
        theta, mu, tau = parts(u)
        effects = normal(theta, mu, tau) if centered else normal(u[:8], 0, 1)
        return normal(y, theta, sigma) + effects + normal(mu, 0, 5) + half_cauchy(tau, 5) + u[9]

    return 10, log_density, constrain


def kidiq(d, interaction):
    hs, iq = np.asarray(d["mom_hs"], float), np.asarray(d["mom_iq"], float)
    columns = [np.ones_like(hs), hs, iq] + [hs * iq] * interaction
    return regression(np.stack(columns, 1), d["kid_score"], lambda b, s: half_cauchy(s, 2.5))


def earnings(d):
    height, male = np.asarray(d["height"], float), np.asarray(d["male"], float)
    design = np.stack([np.ones_like(height), height, male, height * male], 1)
    return regression(design, np.log(d["earn"]), lambda b, s: 0.0)


def sblrc(d):
    return regression(d["X"], d["y"], lambda b, s: normal(b, 0, 10) + normal(s, 0, 10))


def mesquite(d):
    d1, d2, canopy, total, density, group, weight = (
        np.asarray(d[name], float)
        for name in (
            "diam1", "diam2", "canopy_height", "total_height", "density", "group", "weight"
        )
    )  # fmt: skip
    columns = [
        np.ones_like(d1), np.log(d1 * d2 * canopy), np.log(d1 * d2), np.log(d1 / d2),
        np.log(total), np.log(density), group,
    ]  # fmt: skip
    return regression(np.stack(columns, 1), np.log(weight), lambda b, s: 0.0)


def nes(d):
    age = np.asarray(d["age_discrete"])
    columns = [
        np.ones(len(age)), d["real_ideo"], d["race_adj"], age == 2, age == 3, age == 4,
        d["educ1"], d["gender"], d["income"],
    ]  # fmt: skip
    design = np.stack([np.asarray(c, float) for c in columns], 1)
    return regression(design, d["partyid7"], lambda b, s: 0.0)


def kilpisjarvi(d):
    design = np.stack([np.ones(d["N"]), d["x"]], 1)
    alpha = d["pmualpha"], d["psalpha"]
    beta = d["pmubeta"], d["psbeta"]
    return regression(
        design, d["y"], lambda b, s: normal(b[0], *alpha) + normal(b[1], *beta)
    )  # fmt: skip


def diamonds(d):
    x, y = np.asarray(d["X"], float)[:, 1:], jnp.asarray(d["Y"], float)
    x = jnp.asarray(x - x.mean(axis=0))

    def constrain(u):
        return jnp.append(u[:-1], jnp.exp(u[-1]))

    def log_density(u):
        b, intercept, sigma = u[:24], u[24], jnp.exp(u[25])
        priors = normal(b, 0, 1) + stats.t.logpdf(intercept, 3, 8, 10)
        priors += stats.t.logpdf(sigma, 3, 0, 10)
        return normal(y, intercept + x @ b, sigma) + priors + u[25]

    return 26, log_density, constrain


def autoregression(d):
    k, y = d["K"], np.asarray(d["y"], float)
    lags = [y[k - lag : len(y) - lag] for lag in range(1, k + 1)]
    return regression(
        np.stack([np.ones(len(y) - k), *lags], 1), y[k:],
        lambda b, s: normal(b, 0, 10) + half_cauchy(s, 2.5),
    )  # fmt: skip


def arma(d):
    y = jnp.asarray(d["y"], float)

    def constrain(u):
        return u.at[3].set(jnp.exp(u[3]))

    def log_density(u):
        mu, phi, theta = u[:3]
        sigma, log_jacobian = positive(u[3])

        def step(error, pair):
            before, now = pair
            error = now - (mu + phi * before + theta * error)
            return error, error

        first = y[0] - (mu + phi * mu)
        _, errors = jax.lax.scan(step, first, (y[:-1], y[1:]))
        likelihood = normal(first, 0, sigma) + normal(errors, 0, sigma)
        priors = normal(mu, 0, 10) + normal(u[1:3], 0, 2) + half_cauchy(sigma, 2.5)
        return likelihood + priors + log_jacobian

    return 4, log_density, constrain


def garch(d):
    y, first = jnp.asarray(d["y"], float), d["sigma1"] ** 2

    def parts(u):
        (a0, log_a0), (a1, log_a1), (share, log_b1) = positive(u[1]), unit(u[2]), unit(u[3])
        b1 = (1 - a1) * share
        return u[0], a0, a1, b1, log_a0 + log_a1 + log_b1 + jnp.log1p(-a1)

    def constrain(u):
        return jnp.stack(parts(u)[:4])

    def log_density(u):
        mu, a0, a1, b1, log_jacobian = parts(u)

        def step(variance, before):
            variance = a0 + a1 * (before - mu) ** 2 + b1 * variance
            return variance, variance

        _, rest = jax.lax.scan(step, jnp.asarray(first), y[:-1])
        return normal(y, mu, jnp.sqrt(jnp.append(jnp.asarray(first), rest))) + log_jacobian

    return 4, log_density, constrain


def gp(d):
    x, y = jnp.asarray(d["x"], float), jnp.asarray(d["y"], float)

    def log_density(u):
        (rho, alpha, sigma), log_jacobian = positive(u)
        k = alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x) / rho) ** 2) + sigma * jnp.eye(len(x))
        priors = stats.gamma.logpdf(rho, 25, scale=1 / 4) + normal(alpha, 0, 2)
        priors += normal(sigma, 0, 1)
        return stats.multivariate_normal.logpdf(y, jnp.zeros(len(y)), k) + priors + log_jacobian

    return 3, log_density, jnp.exp


def markov(transitions, log_likelihood):
    """Log-likelihood of a hidden Markov model of two states, without an initial-state factor."""

    def step(log_alpha, log_now):
        log_alpha = logsumexp(log_alpha[:, None] + jnp.log(transitions), axis=0) + log_now
        return log_alpha, None

    last, _ = jax.lax.scan(step, log_likelihood[0], log_likelihood[1:])
    return logsumexp(last)


def hmm_example(d):
    y = jnp.asarray(d["y"], float)

    def constrain(u):
        stay, mu = jax.nn.sigmoid(u[:2]), positive_ordered(u[2:])[0]
        return jnp.stack([stay[0], 1 - stay[0], stay[1], 1 - stay[1], mu[0], mu[1]])

    def log_density(u):
        rows, log_rows = unit(u[:2])
        mu, log_mu = positive_ordered(u[2:])
        transitions = jnp.stack([rows, 1 - rows], 1)
        likelihood = stats.norm.logpdf(y[:, None], mu, 1.0)
        priors = normal(mu[0], 3, 1) + normal(mu[1], 10, 1)
        return markov(transitions, likelihood) + priors + log_rows + log_mu

    return 4, log_density, constrain


def hmm_drive(d):
    u_data, v_data = jnp.asarray(d["u"], float), jnp.asarray(d["v"], float)
    alpha = jnp.asarray(d["alpha"], float)

    def constrain(u):
        rows = jax.nn.sigmoid(u[:2])
        phi, lam = positive_ordered(u[2:4])[0], positive_ordered(u[4:])[0]
        return jnp.concatenate([jnp.stack([rows, 1 - rows], 1).reshape(4), phi, lam])

    def log_density(u):
        rows, log_rows = unit(u[:2])
        (phi, log_phi), (lam, log_lam) = positive_ordered(u[2:4]), positive_ordered(u[4:])
        transitions = jnp.stack([rows, 1 - rows], 1)
        exponential = lambda x, rate: jnp.log(rate) - rate * x[:, None]
        likelihood = exponential(u_data, phi) + exponential(v_data, lam)
        priors = sum(normal(p[0], 0, 1) + normal(p[1], 3, 1) for p in (phi, lam))
        priors += ((alpha - 1) * jnp.log(transitions)).sum()
        return markov(transitions, likelihood) + priors + log_rows + log_phi + log_lam

    return 6, log_density, constrain


def gauss_mix(d):
    y = jnp.asarray(d["y"], float)

    def parts(u):
        (mu, log_mu), (s, log_s), (theta, log_theta) = ordered(u[:2]), positive(u[2:4]), unit(u[4])
        return mu, s, theta, log_mu + log_s + log_theta

    def constrain(u):
        mu, s, theta, _ = parts(u)
        return jnp.concatenate([mu, s, theta[None]])

    def log_density(u):
        mu, s, theta, log_jacobian = parts(u)
        shares = jnp.stack([jnp.log(theta), jnp.log1p(-theta)])
        likelihood = logsumexp(shares + stats.norm.logpdf(y[:, None], mu, s), axis=1).sum()
        priors = normal(mu, 0, 2) + normal(s, 0, 2) + stats.beta.logpdf(theta, 5, 5)
        return likelihood + priors + log_jacobian

    return 5, log_density, constrain


MODELS = {
    "eight_schools-eight_schools_noncentered": lambda d: eight_schools(d, centered=False),
    "eight_schools-eight_schools_centered": lambda d: eight_schools(d, centered=True),
    "kidiq-kidscore_momhsiq": lambda d: kidiq(d, interaction=False),
    "kidiq-kidscore_interaction": lambda d: kidiq(d, interaction=True),
    "earnings-logearn_interaction": earnings,
    "sblrc-blr": sblrc,
    "mesquite-logmesquite_logvas": mesquite,
    "nes2000-nes": nes,
    "kilpisjarvi_mod-kilpisjarvi": kilpisjarvi,
    "diamonds-diamonds": diamonds,
    "arK-arK": autoregression,
    "arma-arma11": arma,
    "garch-garch11": garch,
    "gp_pois_regr-gp_regr": gp,
    "hmm_example-hmm_example": hmm_example,
    "bball_drive_event_0-hmm_drive_0": hmm_drive,
    "low_dim_gauss_mix-low_dim_gauss_mix": gauss_mix,
}


def load(name):
    """D, the log density of u [D], the map to the model's parameters, and reference draws."""
    plain = FOLDER / f"{name}.data.json"
    with plain.open() if plain.exists() else gzip.open(f"{plain}.gz", "rt") as file:
        event_size, log_density, constrain = MODELS[name](json.load(file))
    stored = name.replace("_centered", "_noncentered")
    draws = np.load(FOLDER / f"{stored}.npz")["draws"]
    return event_size, log_density, constrain, draws.reshape(-1, draws.shape[-1])

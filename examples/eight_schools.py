"""Eight schools (Rubin 1981): a flow as the posterior of a hierarchical model.

Run as a program it prints the flow's moments beside posteriordb's reference; the tests and the
demo use the same functions.
"""

import jax
import jax.numpy as jnp
import numpy as np

import flows

EFFECTS = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
NAMES = [*(f"theta[{j}]" for j in range(1, 9)), "mu", "tau"]
# Means and standard deviations of posteriordb's 10,000 reference draws (BSD-3-Clause).
REFERENCE_MEAN = np.array([6.151, 4.94, 3.906, 4.796, 3.614, 4.051, 6.317, 4.884, 4.411, 3.602])
REFERENCE_SD = np.array([5.616, 4.645, 5.28, 4.771, 4.614, 4.796, 5.003, 5.317, 3.309, 3.198])


def log_density(u: jax.Array) -> jax.Array:
    """Log joint density of u = (eta_1 .. eta_8, mu, log tau), theta_j = mu + tau eta_j."""
    eta, mu, log_tau = u[:8], u[8], u[9]
    tau = jnp.exp(log_tau)
    prior = -0.5 * jnp.sum(eta**2) - 0.5 * (mu / 5) ** 2 - jnp.log1p((tau / 5) ** 2)
    likelihood = -0.5 * jnp.sum(((EFFECTS - mu - tau * eta) / ERRORS) ** 2)
    return prior + likelihood + log_tau  # the last term is the Jacobian of tau = exp(log tau)


def constrain(u: jax.Array) -> jax.Array:
    """Maps draws of u [n, 10] to (theta_1 .. theta_8, mu, tau)."""
    mu, tau = u[:, 8:9], jnp.exp(u[:, 9:10])
    return jnp.concatenate([mu + tau * u[:, :8], mu, tau], axis=1)


def main() -> None:
    """Fits the posterior and prints the comparison."""
    posterior = flows.fit_posterior(log_density, event_size=10, key=jax.random.key(0))
    draws = np.asarray(constrain(posterior.sample(seed=jax.random.key(1), sample_shape=(100_000,))))
    print(f"{'':10}{'mean':>8}{'ref.':>8}{'sd':>8}{'ref.':>8}")
    for row in zip(NAMES, draws.mean(0), REFERENCE_MEAN, draws.std(0), REFERENCE_SD, strict=True):
        print("{:10}{:8.2f}{:8.2f}{:8.2f}{:8.2f}".format(*row))
    worst_mean = np.max(np.abs(draws.mean(0) - REFERENCE_MEAN) / REFERENCE_SD)
    worst_sd = np.max(np.abs(draws.std(0) / REFERENCE_SD - 1))
    print(f"largest error: mean {worst_mean:.3f} reference sd, sd {worst_sd:.1%}")
    print(posterior.diagnostics)


if __name__ == "__main__":
    main()

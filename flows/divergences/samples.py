"""Distances between two sets of draws, where densities are not known, and a classifier's view."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flows import _checks
from flows.divergences import gaussians
from flows.divergences.estimate import Estimate
from flows.divergences.gaussians import Gaussian


def sliced_wasserstein(
    x: Any, y: Any, *, key: jax.Array, num_projections: int = 200, order: int = 2
) -> Estimate:
    """Sliced Wasserstein distance: the mean over directions of the W^order along them, its root.

    In one dimension the optimal transport sorts. Source: Bonneel et al. 2015, J. Math. Imaging
    Vis. 51.

    Args:
        x: Draws [N, D].
        y: Draws [M, D].
        key: Random key for the directions.
        num_projections: Number of directions.
        order: 1 or 2.

    Returns:
        An `Estimate` in the units of x. Its standard error is that of the choice of directions
        only, not of the draws.

    Raises:
        TypeError: x or y holds no floating-point numbers, or `key` is no random key.
        ValueError: Wrong shapes, fewer than 2 rows, or non-finite values.

    Cost: num_projections sorts of N + M numbers.

    Examples:
        >>> import flows, jax
        >>> x = jax.random.normal(jax.random.key(0), (500, 1))
        >>> shifted = flows.divergences.sliced_wasserstein(x, x + 3, key=jax.random.key(1))
        >>> round(float(shifted.value), 4)
        3.0
    """
    x, y = _checks.two_tables(x, y)
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}.")
    count = _checks.positive_int("num_projections", num_projections)
    directions = jax.random.normal(_checks.prng_key("key", key), (max(2, count), x.shape[1]))
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
    powers = _powers_of_wasserstein(x, y, directions, order)
    return Estimate.from_draws(powers, "sliced_wasserstein").transform(
        lambda v: v ** (1 / order), lambda v: v ** (1 / order - 1) / order
    )


def frechet_distance(x: Any, y: Any) -> Estimate:
    r"""Frechet distance |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^1/2) of two sets of features.

    The squared Wasserstein-2 distance of the Gaussians with their means and covariances; of
    Inception features it is the FID (Heusel et al. 2017, arXiv:1706.08500).

    Args:
        x: Features [N, D] with N > D.
        y: Features [M, D] with M > D.

    Returns:
        An `Estimate`. Covariances of finite sets bias it upwards, in proportion to 1/N: compare
        sets of one size only. The standard error is that of the draws, by linear response,
        without this bias.

    Raises:
        TypeError: x or y holds no floating-point numbers.
        ValueError: Wrong shapes, a covariance that is not positive definite (too few rows, or
            features that depend on each other), or non-finite values.

    Cost: N D^2 + M D^2 + D^3.

    Examples:
        >>> import flows, jax
        >>> x = jax.random.normal(jax.random.key(0), (1000, 3))
        >>> round(float(flows.divergences.frechet_distance(x, 2 + x).value), 3)
        12.0
    """
    x, y = _checks.two_tables(x, y)
    parts = []
    for name, points in (("x", x), ("y", y)):
        centred = points - points.mean(axis=0)
        q, r = jnp.linalg.qr(centred / (len(points) - 1) ** 0.5)
        sign = jnp.sign(jnp.diagonal(r))
        gaussian = Gaussian(points.mean(axis=0), (r * sign[:, None]).T, False)
        if len(points) <= points.shape[1]:
            raise ValueError(
                f"{name} must have more rows than columns for a covariance, got {points.shape}."
            )
        gaussians.require_positive(name, gaussian)
        parts.append((gaussian, centred, q * sign))

    def distance(locs: list[jax.Array], trils: list[jax.Array]) -> jax.Array:
        first, second = (Gaussian(m, s, False) for m, s in zip(locs, trils, strict=True))
        return gaussians.wasserstein2_squared(first, second)

    locs, trils = [g.loc for g, *_ in parts], [g.tril for g, *_ in parts]
    value, (by_loc, by_tril) = jax.value_and_grad(distance, argnums=(0, 1))(locs, trils)
    variance = jnp.zeros(())
    # A point c counts with c^T dW/dC c, and dW/dC L = (1/2) dW/dL with c = sqrt(n-1) L q.
    for (_, centred, q), d_loc, d_tril in zip(parts, by_loc, by_tril, strict=True):
        response = centred @ d_loc + 0.5 * len(q) ** 0.5 * ((q @ d_tril.T) * centred).sum(axis=-1)
        variance += response.var(ddof=1) / len(response)
    return Estimate(value, jnp.sqrt(variance), len(x) + len(y), "frechet_distance")


def knn_kl(x: Any, y: Any, *, num_neighbors: int = 5) -> Estimate:
    """KL(p || q) in nats from draws x of p and y of q, by distances to nearest neighbours.

    (D/N) sum_i log(nu_i / rho_i) + log(M / (N - 1)), with rho_i the distance of x_i to its k-th
    neighbour in x and nu_i in y. Source: Wang, Kulkarni & Verdu 2009, IEEE Trans. Inf. Theory 55.
    A sanity check: its bias falls slowly with N, and grows with D and where p and q differ much.

    Args:
        x: Draws [N, D] of p.
        y: Draws [M, D] of q.
        num_neighbors: k.

    Returns:
        An `Estimate`; the standard error is that of the mean over x, without the bias. inf if
        points of x coincide, as copies do.

    Raises:
        TypeError: x or y holds no floating-point numbers.
        ValueError: Wrong shapes, no more than k rows, or non-finite values.

    Cost: N log N + N log M in few dimensions, by `scipy.spatial.KDTree`; N M in many.

    Examples:
        >>> import flows, jax
        >>> x = jax.random.normal(jax.random.key(0), (4000, 1))
        >>> y = 1 + jax.random.normal(jax.random.key(1), (4000, 1))
        >>> abs(float(flows.divergences.knn_kl(x, y).value) - 0.5) < 0.1
        True
    """
    from scipy.spatial import KDTree

    x, y = (np.asarray(a) for a in _checks.two_tables(x, y))
    k = _checks.positive_int("num_neighbors", num_neighbors)
    if min(len(x) - 1, len(y)) < k:
        raise ValueError(f"num_neighbors is {k}, too many for {len(x)} and {len(y)} draws.")
    within = KDTree(x).query(x, [k + 1], workers=-1)[0][:, 0]  # itself is the first
    across = KDTree(y).query(x, [k], workers=-1)[0][:, 0]
    with np.errstate(divide="ignore"):
        ratios = np.where(within > 0, np.log(across) - np.log(within), np.inf)
    terms = x.shape[1] * ratios + np.log(len(y) / (len(x) - 1))
    return Estimate.from_draws(jnp.asarray(terms), "knn")


def c2st(x: Any, y: Any, *, seed: int = 0, classifier: Any = None, num_folds: int = 5) -> Estimate:
    """Classifier two-sample test: how often a classifier tells held-out draws of x and y apart.

    1/2 if they are equally distributed, 1 if they do not overlap; at most
    (1 + `total_variation`) / 2. Source: Lopez-Paz & Oquab 2017, arXiv:1610.06545.

    Args:
        x: Draws [N, D].
        y: Draws [M, D]; of the larger set the first rows are used.
        seed: Of the folds and the classifier.
        classifier: A scikit-learn classifier; by default a network of two hidden layers of 10 D
            units on standardised columns.
        num_folds: Folds of the cross-validation.

    Returns:
        The accuracy on held-out draws, an `Estimate` with the standard error sqrt(a (1-a) / n) and
        the p-value of 1/2 (normal approximation; folds share training data, which it ignores).

    Raises:
        ImportError: scikit-learn is missing: it comes with the extra "samples".
        TypeError: x or y holds no floating-point numbers.
        ValueError: Wrong shapes, fewer than 2 rows, or non-finite values.

    Cost: num_folds fits of the classifier.
    """
    try:
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise ImportError(
            "c2st needs scikit-learn: install flows with the extra 'samples', as in "
            "`pip install flows-jax[samples]`."
        ) from None
    x, y = (np.asarray(a) for a in _checks.two_tables(x, y))
    n = min(len(x), len(y))
    if classifier is None:
        width = 10 * x.shape[1]
        network = MLPClassifier((width, width), early_stopping=True, random_state=seed)
        classifier = make_pipeline(StandardScaler(), network)
    points, labels = np.concatenate([x[:n], y[:n]]), np.repeat([0, 1], n)
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    accuracy = jnp.asarray(cross_val_score(classifier, points, labels, cv=folds).mean())
    error = jnp.sqrt(accuracy * (1 - accuracy) / (2 * n))
    p_value = jax.scipy.stats.norm.sf((accuracy - 0.5) / (0.25 / (2 * n)) ** 0.5)
    return Estimate(accuracy, error, 2 * n, "c2st", p_value)


@functools.partial(jax.jit, static_argnames="order")
def _powers_of_wasserstein(
    x: jax.Array, y: jax.Array, directions: jax.Array, order: int
) -> jax.Array:
    """W^order along each of the directions [n, D]."""
    # The quantile functions of both are steps: their common pieces, and the middle of each.
    edges = np.union1d(np.arange(1, len(x) + 1) / len(x), np.arange(1, len(y) + 1) / len(y))
    widths = np.diff(edges, prepend=0.0)
    middles = edges - widths / 2

    def along(direction: jax.Array) -> jax.Array:
        first, second = (
            jnp.sort(points @ direction)[(middles * len(points)).astype(int)] for points in (x, y)
        )
        return (widths * jnp.abs(first - second) ** order).sum()

    return jax.lax.map(along, directions)

"""Importance weights: their smoothed tail, and its shape."""

import numpy as np


def pareto_smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights that sum to 1, the largest of them smoothed, and the shape of their tail.

    The largest are replaced by the quantiles of a generalised Pareto distribution of shape k-hat
    that is fitted to them. Source: Vehtari et al. 2024, arXiv:1507.02646.

    Args:
        log_weights: Logarithms of weights [n], up to a constant; those that are NaN or +inf count
            as none.

    Returns:
        The weights [n]; and k-hat: inf where a few draws carry all the weight, so that no tail can
        be fitted, and -inf where all weights are equal.

    Raises:
        ValueError: No weight, or one alone, is finite.
    """
    from arviz_stats.base import array_stats  # scipy.stats is slow to import

    log_weights = np.asarray(log_weights, np.float64)
    usable = log_weights < np.inf  # not NaN either
    log_weights = np.where(usable, log_weights, -np.inf)
    if usable.sum() < 2 or not np.isfinite(log_weights).any():
        raise ValueError(
            f"Of {len(log_weights)} log weights, none or one is finite: the target has no mass "
            "where the draws of the flow are."
        )
    top = log_weights.max()
    weights = np.exp(log_weights - top)
    tail = np.sort(log_weights)[-max(5, int(3 * np.sqrt(len(log_weights)))) :]
    if log_weights.min() > top - 1e-6:
        khat = -np.inf
    elif not np.isfinite(tail).all() or len(np.unique(tail)) < 5:
        khat = np.inf
    else:
        # psislw takes log-likelihoods, whose negatives are the log weights of leave-one-out, and
        # no weights of zero: below the tail it asks of weights only how many there are.
        least = log_weights[log_weights > -np.inf].min()
        with np.errstate(divide="ignore", invalid="ignore"):  # weights of almost no spread
            smooth, khat = array_stats.psislw(-np.maximum(log_weights, least))
        if np.isfinite(smooth).all() and not np.isnan(khat):
            weights = np.where(log_weights > -np.inf, np.exp(smooth), 0.0)
        else:  # they span more than a Pareto tail can be fitted to
            khat = np.inf
    return weights / weights.sum(), float(khat)

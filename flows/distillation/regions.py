"""Where a student has less mass than its teacher, region by region."""

import warnings
from collections.abc import Callable

import jax
import numpy as np
from scipy.cluster.vq import kmeans2, vq

NUM_REGIONS = 50
NUM_PARTED = 3_000  # draws of the teacher; the others are counted
NUM_COUNTED = 8_000  # draws of each, 7,000 and 10,000
LOST, CERTAIN = 0.5, 5.0  # of the teacher's share, and standard errors
NARROW, MOST_AXES = 0.1, 10  # share of the draws that tells a scale; directions that are looked at


def region_shares(of_teacher: jax.Array, of_student: jax.Array) -> np.ndarray:
    """The shares of the draws of each in regions around centres of the teacher's.

    The regions are those of k-means, so that modes, which flows join by bridges, have regions of
    their own (Richardson and Weiss 2018, arXiv:1805.12462), in the ten directions in which the
    teacher is widest beside its peaks. In hundreds of dimensions only large modes make one.

    Args:
        of_teacher: Draws [n, D], on the real line.
        of_student: Draws [m, D]; those that are not finite are in no region.

    Returns:
        Shares of the teacher and of the student [50, 2], the largest first; [0, 2] where few
        draws are finite.
    """
    x, y = (np.asarray(draws, np.float64) for draws in (of_teacher, of_student))
    x, y = (draws[np.isfinite(draws).all(axis=1)] for draws in (x, y))
    if len(x) <= NUM_PARTED or not len(y):
        return np.zeros((0, 2))
    features = _features(x[:NUM_PARTED])
    x, y = features(x), features(y)
    parted, x = np.split(x, [NUM_PARTED])
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # as of draws that are all equal
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        centres, _ = kmeans2(parted, NUM_REGIONS, minit="++", rng=0)
    shares = [
        np.bincount(vq(draws, centres)[0], minlength=NUM_REGIONS) / num_draws
        for draws, num_draws in ((x, len(x)), (y, len(of_student)))
    ]
    out = np.stack(shares, axis=1)
    return out[out[:, 0].argsort()[::-1]]


def _features(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Coordinates in which modes that lie apart do so by more than a mode's own width.

    Columns are scaled by the shortest interval with a tenth of the draws [n, D], a mode's or part
    of it, and far values drawn in.
    """
    centre, num = np.median(x, axis=0), round(NARROW * len(x))
    rows = np.sort(x, axis=0)
    width = (rows[num:] - rows[:-num]).min(axis=0)
    scale = np.where(width > 0, width / (2 * NARROW * 1.2533), x.std(axis=0)).clip(1e-30)
    scaled = lambda x: np.arcsinh((x - centre) / scale)
    _, axes = np.linalg.eigh(np.cov(scaled(x), rowvar=False).reshape(x.shape[1], x.shape[1]))
    return lambda x: scaled(x) @ axes[:, -MOST_AXES:]


def deviations(shares: np.ndarray) -> np.ndarray:
    """By how many standard errors the teacher's share is larger, in each region."""
    return (shares[:, 0] - shares[:, 1]) / (shares.sum(axis=1) / NUM_COUNTED + 1e-12) ** 0.5


def lost(shares: np.ndarray) -> np.ndarray:
    """The regions where the student has less than half of what the teacher has, beyond chance."""
    beyond = deviations(shares) > CERTAIN
    return shares[beyond & (shares[:, 1] < LOST * shares[:, 0])]

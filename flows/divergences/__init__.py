"""How far apart two distributions are, with the error of the answer.

`docs/divergences.md` says which function to use when.
"""

from flows.divergences.discrepancy import energy_distance, mmd
from flows.divergences.estimate import Estimate
from flows.divergences.gaussians import as_gaussian, wasserstein2
from flows.divergences.generalized_gaussians import generalized_gaussian_kl
from flows.divergences.histograms import histogram_js, histogram_kl, pairwise_kl
from flows.divergences.kl import cross_entropy, entropy, kl, reverse
from flows.divergences.mixtures import mixture_kl
from flows.divergences.samples import c2st, frechet_distance, knn_kl, sliced_wasserstein
from flows.divergences.symmetric import (
    alpha,
    bhattacharyya,
    hellinger,
    jeffreys,
    jensen_shannon,
    renyi,
    total_variation,
)

__all__ = [
    "Estimate",
    "alpha",
    "as_gaussian",
    "bhattacharyya",
    "c2st",
    "cross_entropy",
    "energy_distance",
    "entropy",
    "frechet_distance",
    "generalized_gaussian_kl",
    "hellinger",
    "histogram_js",
    "histogram_kl",
    "jeffreys",
    "jensen_shannon",
    "kl",
    "knn_kl",
    "mixture_kl",
    "mmd",
    "pairwise_kl",
    "renyi",
    "reverse",
    "sliced_wasserstein",
    "total_variation",
    "wasserstein2",
]

"""Distributions: flows and their bases, each an nnx module and a distrax distribution."""

from flows.distributions.bases import (
    CircularUniform,
    DiagonalNormal,
    Distribution,
    StandardNormal,
    StudentT,
)
from flows.distributions.ensemble import Ensemble
from flows.distributions.flow import Flow, require_flow, require_single
from flows.distributions.mixtures import MixtureOfNormals
from flows.distributions.product import Product

__all__ = [
    "CircularUniform",
    "DiagonalNormal",
    "Distribution",
    "Ensemble",
    "Flow",
    "MixtureOfNormals",
    "Product",
    "StandardNormal",
    "StudentT",
    "require_flow",
    "require_single",
]

"""flows: normalizing flows in JAX that are distrax distributions and flax.nnx modules."""

import importlib
from typing import Any

from flows import bijectors, conditioners, distributions, divergences, supports, targets, training
from flows._version import __version__
from flows.architectures import gaussianization, iaf, maf, ncsf, nsf, real_nvp
from flows.calibration import CalibrationReport, check_calibration
from flows.density import FitResult, fit, fit_ensemble
from flows.distillation import DistillReport, DistillResult, distill, iaf_like
from flows.distributions import (
    CircularUniform,
    DiagonalNormal,
    Ensemble,
    Flow,
    MixtureOfNormals,
    StandardNormal,
    StudentT,
)
from flows.frames import as_frame
from flows.serialization import load, save
from flows.variational import Posterior, fit_posterior

__all__ = [
    "CalibrationReport",
    "CircularUniform",
    "DiagonalNormal",
    "DistillReport",
    "DistillResult",
    "Ensemble",
    "FitResult",
    "Flow",
    "MixtureOfNormals",
    "Posterior",
    "StandardNormal",
    "StudentT",
    "__version__",
    "as_frame",
    "bijectors",
    "check_calibration",
    "conditioners",
    "distill",
    "distributions",
    "divergences",
    "fit",
    "fit_ensemble",
    "fit_posterior",
    "gaussianization",
    "iaf",
    "iaf_like",
    "load",
    "maf",
    "ncsf",
    "nsf",
    "real_nvp",
    "save",
    "supports",
    "targets",
    "training",
]


def __getattr__(name: str) -> Any:
    """Imports what needs other libraries when it is asked for."""
    if name in ("adapters", "plotting"):
        return importlib.import_module(f"flows.{name}")
    raise AttributeError(f"module 'flows' has no attribute {name!r}")

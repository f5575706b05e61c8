"""How far apart two distributions are, with the error of the answer."""

from flows.divergences.estimate import Estimate
from flows.divergences.kl import kl

__all__ = ["Estimate", "kl"]

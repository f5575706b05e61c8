"""Distillation of a slow-to-sample teacher into a fast-to-sample student."""

from flows.distillation.distill import DistillResult, distill
from flows.distillation.report import DistillReport

__all__ = ["DistillReport", "DistillResult", "distill"]

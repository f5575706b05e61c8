"""Distillation of a slow-to-sample teacher into a fast-to-sample student."""

from flows.distillation.distill import distill
from flows.distillation.measures import Timing
from flows.distillation.report import DistillReport
from flows.distillation.result import DistillResult
from flows.distillation.samples import SampleReport
from flows.distillation.students import iaf_like

__all__ = ["DistillReport", "DistillResult", "SampleReport", "Timing", "distill", "iaf_like"]

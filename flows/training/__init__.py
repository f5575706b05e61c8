"""The compiled training loop. It knows objectives, data and optax; nothing about flows."""

from flows.training.interrupts import attaching
from flows.training.on_host import train
from flows.training.optimizers import adam, adam_unless_given, clip_by_running_median
from flows.training.program import Program, trace
from flows.training.results import NonFiniteError, Outcome, TrainingResult, TrainingState
from flows.training.shuffle import shuffled
from flows.training.sources import NOTHING, Batches, Begun, OnDisk

__all__ = [
    "NOTHING",
    "Batches",
    "Begun",
    "NonFiniteError",
    "OnDisk",
    "Outcome",
    "Program",
    "TrainingResult",
    "TrainingState",
    "adam",
    "adam_unless_given",
    "attaching",
    "clip_by_running_median",
    "shuffled",
    "trace",
    "train",
]

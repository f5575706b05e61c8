"""The compiled training loop. It knows objectives, data and optax; nothing about flows."""

from flows.training.data import Batches, OnDisk
from flows.training.on_host import NonFiniteError, TrainingResult, TrainingState, train
from flows.training.optimizers import adam, adam_unless_given, clip_by_running_median
from flows.training.program import Program, trace
from flows.training.shuffle import shuffled
from flows.training.stream import NOTHING, Begun

__all__ = [
    "NOTHING",
    "Batches",
    "Begun",
    "NonFiniteError",
    "OnDisk",
    "Program",
    "TrainingResult",
    "TrainingState",
    "adam",
    "adam_unless_given",
    "clip_by_running_median",
    "shuffled",
    "trace",
    "train",
]

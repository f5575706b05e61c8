"""The compiled training loop. It knows objectives, data and optax; nothing about flows."""

from flows.training.loop import NonFiniteError, TrainingResult, train
from flows.training.optimizers import adam

__all__ = ["NonFiniteError", "TrainingResult", "adam", "train"]

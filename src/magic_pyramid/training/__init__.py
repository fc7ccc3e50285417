"""The stages that turn an encoder into a pyramid."""

from magic_pyramid.training.progress import show_progress
from magic_pyramid.training.record import StageReport, TrainEvent, TrainReport
from magic_pyramid.training.run import train
from magic_pyramid.training.stages import Stage, learning_rate_of, stages_of

__all__ = [
    "Stage",
    "StageReport",
    "TrainEvent",
    "TrainReport",
    "learning_rate_of",
    "show_progress",
    "stages_of",
    "train",
]

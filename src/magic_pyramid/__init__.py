"""Magic Pyramid: transformer classifiers that drop tokens, leave early, and say what each answer cost."""

from magic_pyramid.classifier import CALIBRATED, Classifier
from magic_pyramid.config import BackboneConfig, ExitConfig, ModelConfig, PruneConfig, TrainConfig
from magic_pyramid.data import Example, load_data
from magic_pyramid.demo import demo_data, demo_model_path
from magic_pyramid.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    MagicPyramidError,
    MissingExtraError,
    OverloadedError,
)
from magic_pyramid.fitting import fit
from magic_pyramid.hub import register
from magic_pyramid.predictions import Predictions
from magic_pyramid.presets import PRESETS
from magic_pyramid.report.trace import Trace

__version__ = "0.1.0"

__all__ = [
    "CALIBRATED",
    "PRESETS",
    "BackboneConfig",
    "CheckpointError",
    "Classifier",
    "ConfigError",
    "Example",
    "ExitConfig",
    "InputError",
    "MagicPyramidError",
    "MissingExtraError",
    "ModelConfig",
    "OverloadedError",
    "Predictions",
    "PruneConfig",
    "Trace",
    "TrainConfig",
    "demo_data",
    "demo_model_path",
    "fit",
    "load_data",
]

register()

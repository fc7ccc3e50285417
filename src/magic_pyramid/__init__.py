"""Magic Pyramid: transformer classifiers that drop tokens, leave early, and say what each answer cost."""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from magic_pyramid.errors import MissingExtraError

if TYPE_CHECKING:
    from magic_pyramid.classifier import Classifier
    from magic_pyramid.config import BackboneConfig, ExitConfig, ModelConfig, PruneConfig, TrainConfig
    from magic_pyramid.data import Example, load_data
    from magic_pyramid.demo import demo_data, demo_model_path
    from magic_pyramid.drift import DriftMonitor
    from magic_pyramid.errors import (
        CheckpointError,
        ConfigError,
        InputError,
        MagicPyramidError,
        OverloadedError,
    )
    from magic_pyramid.fitting import fit
    from magic_pyramid.predictions import Predictions
    from magic_pyramid.predictor import CALIBRATED, Predictor
    from magic_pyramid.presets import PRESETS
    from magic_pyramid.question_answering import QuestionAnswering
    from magic_pyramid.report.trace import Trace

__version__ = "0.1.0"

__all__ = [
    "CALIBRATED",
    "PRESETS",
    "BackboneConfig",
    "CheckpointError",
    "Classifier",
    "ConfigError",
    "DriftMonitor",
    "Example",
    "ExitConfig",
    "InputError",
    "MagicPyramidError",
    "MissingExtraError",
    "ModelConfig",
    "OverloadedError",
    "Predictions",
    "Predictor",
    "PruneConfig",
    "QuestionAnswering",
    "Trace",
    "TrainConfig",
    "demo_data",
    "demo_model_path",
    "fit",
    "load_data",
]

_HOMES = {
    "classifier": ("Classifier",),
    "config": (
        "BackboneConfig",
        "ExitConfig",
        "ModelConfig",
        "PruneConfig",
        "TrainConfig",
    ),
    "data": (
        "Example",
        "load_data",
    ),
    "demo": (
        "demo_data",
        "demo_model_path",
    ),
    "drift": ("DriftMonitor",),
    "errors": (
        "CheckpointError",
        "ConfigError",
        "InputError",
        "MagicPyramidError",
        "MissingExtraError",
        "OverloadedError",
    ),
    "fitting": ("fit",),
    "predictions": ("Predictions",),
    "predictor": (
        "CALIBRATED",
        "Predictor",
    ),
    "presets": ("PRESETS",),
    "question_answering": ("QuestionAnswering",),
    "report.trace": ("Trace",),
}
"""Where each public name lives; it is imported when it is first asked for."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            try:
                return getattr(importlib.import_module(f"magic_pyramid.{module}"), name)
            except ModuleNotFoundError as error:
                missing = MissingExtraError.for_import(name, error)
                if missing is None:
                    raise
                raise missing from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# A deployment with onnxruntime alone has no Auto classes to register with.
if find_spec("torch") is not None and find_spec("transformers") is not None:
    importlib.import_module("magic_pyramid.hub").register()

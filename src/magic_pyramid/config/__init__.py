"""Every setting, as frozen data: what a model is, how it prunes, how it exits, how it is trained.

The string under a field is its only description; ``--help``, the docs and the tests read it from here.
"""

from magic_pyramid.config.base import Config, field_docs
from magic_pyramid.config.model import (
    SPAN_LABELS,
    BackboneConfig,
    ExitConfig,
    ModelConfig,
    ProblemType,
    check_exit_layers,
    check_exit_threshold,
)
from magic_pyramid.config.prune import (
    PRUNE_KINDS,
    AnyPruneConfig,
    CascadeConfig,
    PruneConfig,
    RankBinsConfig,
    RankCountsConfig,
)
from magic_pyramid.config.span import SpanConfig
from magic_pyramid.config.train import STAGE_NAMES, StageName, TrainConfig

FORMAT_VERSION = 1
"""Version of the saved config; a folder with a larger one was written by a newer release."""

__all__ = [
    "FORMAT_VERSION",
    "PRUNE_KINDS",
    "SPAN_LABELS",
    "STAGE_NAMES",
    "AnyPruneConfig",
    "BackboneConfig",
    "CascadeConfig",
    "Config",
    "ExitConfig",
    "ModelConfig",
    "ProblemType",
    "PruneConfig",
    "RankBinsConfig",
    "RankCountsConfig",
    "SpanConfig",
    "StageName",
    "TrainConfig",
    "check_exit_layers",
    "check_exit_threshold",
    "field_docs",
]

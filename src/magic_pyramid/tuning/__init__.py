"""Fit a model folder to a machine: measure what layers and exit heads take, ask the heads that pay."""

from magic_pyramid.tuning.tune import Tuned, tune, undo

__all__ = ["Tuned", "tune", "undo"]

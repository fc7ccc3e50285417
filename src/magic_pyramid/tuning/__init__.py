"""Fit a model folder to held-out texts and to a machine: certified settings, and the exit heads that pay."""

from magic_pyramid.tuning.certified import certify_folder
from magic_pyramid.tuning.tune import Tuned, tune, undo

__all__ = ["Tuned", "certify_folder", "tune", "undo"]

"""Trained models for other runtimes: staged ONNX segments that keep the pruning and the exits."""

from magic_pyramid.export.folder import export_onnx
from magic_pyramid.export.verify import Differences, accept_export, differences, random_inputs

__all__ = ["Differences", "accept_export", "differences", "export_onnx", "random_inputs"]

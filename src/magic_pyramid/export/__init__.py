"""Trained models for other engines: staged ONNX segments, and weights for the native engine."""

from magic_pyramid.export.folder import export_onnx
from magic_pyramid.export.native import export_native, native_engine
from magic_pyramid.export.verify import Differences, accept_export, differences, random_inputs

__all__ = [
    "Differences",
    "accept_export",
    "differences",
    "export_native",
    "export_onnx",
    "native_engine",
    "random_inputs",
]

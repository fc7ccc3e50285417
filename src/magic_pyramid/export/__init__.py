"""Trained models for other engines: ONNX segments, one ONNX graph, and weights for the native engine."""

from magic_pyramid.export.folder import export_onnx
from magic_pyramid.export.native import export_native, native_engine
from magic_pyramid.export.single_folder import export_single_graph
from magic_pyramid.export.verify import Differences, accept_export, differences, random_inputs

__all__ = [
    "Differences",
    "accept_export",
    "differences",
    "export_native",
    "export_onnx",
    "export_single_graph",
    "native_engine",
    "random_inputs",
]

"""Which engine runs an exported folder."""

from pathlib import Path

from magic_pyramid.engine.graph_interface import INTERFACE_FILE
from magic_pyramid.engine.ort_engine import OrtEngine
from magic_pyramid.engine.segments import PLAN_FILE
from magic_pyramid.engine.single_engine import SingleGraphEngine

ExportedEngine = OrtEngine | SingleGraphEngine


def is_exported(folder: str | Path) -> bool:
    """Whether a folder holds an exported model of either kind."""
    return any((Path(folder) / file).is_file() for file in (PLAN_FILE, INTERFACE_FILE))


def open_exported(folder: str | Path) -> ExportedEngine:
    """The engine of an exported folder.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        CheckpointError: a file is missing, damaged, newer or not the one that was exported.
    """
    is_single = (Path(folder) / INTERFACE_FILE).is_file()
    return SingleGraphEngine(folder) if is_single else OrtEngine(folder)

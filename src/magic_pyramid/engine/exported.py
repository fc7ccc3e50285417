"""Which engine runs an exported folder."""

from collections.abc import Callable, Mapping
from pathlib import Path

from magic_pyramid.engine import native_folder, segments
from magic_pyramid.engine.graph_interface import INTERFACE_FILE
from magic_pyramid.engine.native_engine import NativeEngine
from magic_pyramid.engine.ort_engine import OrtEngine
from magic_pyramid.engine.single_engine import SingleGraphEngine
from magic_pyramid.errors import CheckpointError

ExportedEngine = OrtEngine | SingleGraphEngine | NativeEngine

_ENGINES: Mapping[str, tuple[str, Callable[[Path], ExportedEngine]]] = {
    segments.PLAN_FILE: ("onnx", OrtEngine),
    INTERFACE_FILE: ("onnx", SingleGraphEngine),
    native_folder.PLAN_FILE: ("native", NativeEngine.from_folder),
}
"""By the file that only such a folder has: the engine's name, and what opens it."""


def exported_for(folder: str | Path) -> str | None:
    """Name of the engine that an exported folder is made for; None: it is no export."""
    return next((name for file, (name, _) in _ENGINES.items() if (Path(folder) / file).is_file()), None)


def open_exported(folder: str | Path) -> ExportedEngine:
    """The engine of an exported folder.

    Raises:
        MissingExtraError: what runs it is not installed.
        CheckpointError: no export, or a file is missing, damaged, newer or not the one that was exported.
    """
    for file, (_, opens) in _ENGINES.items():
        if (Path(folder) / file).is_file():
            return opens(Path(folder))
    raise CheckpointError(f"{folder} is no exported folder; write one: magic-pyramid export {folder}")

"""Tiny exported folders, each made once, and their engines on one thread."""

import tempfile
from functools import cache
from pathlib import Path

import tiny
from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.ort_engine import OrtEngine
from magic_pyramid.engine.single_engine import SingleGraphEngine
from magic_pyramid.export import export_onnx, export_single_graph
from magic_pyramid.model import PyramidModel
from magic_pyramid.tokenization import TextEncoder

_FOLDERS = tempfile.TemporaryDirectory()
"""Removed when Python ends: an engine may load a graph late."""


def write(folder: Path, model: PyramidModel | None = None, **options) -> Path:
    """Export a model, or the usual tiny one, with its tokenizer."""
    export_onnx(model or tiny.build(seed=3), folder, encoder=TextEncoder(tiny.tokenizer()), **options)
    return folder


def engine_of(model: PyramidModel, *, tokens_per_batch: int | None = None, **options) -> OrtEngine:
    """The ONNX engine of a model."""
    budget = {} if tokens_per_batch is None else {"tokens_per_batch": tokens_per_batch}
    folder = Path(tempfile.mkdtemp(dir=_FOLDERS.name)) / "export"
    export_onnx(model, folder, encoder=None, **options)
    return OrtEngine(folder, threads=1, **budget)


@cache
def pair(config: ModelConfig, *, seed: int = 3, precision: str = "fp32") -> tuple[PyramidModel, OrtEngine]:
    """A model of a config and its ONNX engine."""
    model = tiny.build(config, seed=seed)
    return model, engine_of(model, precision=precision)


@cache
def single_folder_of(
    config: ModelConfig, *, seed: int = 3, precision: str = "fp32"
) -> tuple[PyramidModel, Path]:
    """A model of a config, and where it lies as one graph."""
    model = tiny.build(config, seed=seed)
    folder = Path(tempfile.mkdtemp(dir=_FOLDERS.name)) / "single"
    export_single_graph(model, folder, encoder=None, precision=precision)
    return model, folder


@cache
def single_pair(
    config: ModelConfig, *, seed: int = 3, precision: str = "fp32"
) -> tuple[PyramidModel, SingleGraphEngine]:
    """A model of a config and the engine of its one graph."""
    model, folder = single_folder_of(config, seed=seed, precision=precision)
    return model, SingleGraphEngine(folder, threads=1)

"""Tiny exported folders, each made once, and their engines on one thread."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

import tiny
from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.ort_engine import OrtEngine
from magic_pyramid.export import export_onnx
from magic_pyramid.model import PyramidModel
from magic_pyramid.tokenization import TextEncoder

TOLERANCE = 1e-4


def write(folder: Path, model: PyramidModel | None = None, **options) -> Path:
    """Export a model, or the usual tiny one, with its tokenizer."""
    export_onnx(model or tiny.build(seed=3), folder, encoder=TextEncoder(tiny.tokenizer()), **options)
    return folder


def engine_of(model: PyramidModel, *, tokens_per_batch: int | None = None, **options) -> OrtEngine:
    """The ONNX engine of a model; the folder is gone afterwards."""
    budget = {} if tokens_per_batch is None else {"tokens_per_batch": tokens_per_batch}
    folder = Path(tempfile.mkdtemp())
    try:
        export_onnx(model, folder / "export", encoder=None, **options)
        return OrtEngine(folder / "export", threads=1, **budget)
    finally:
        shutil.rmtree(folder)


@cache
def pair(config: ModelConfig, *, seed: int = 3, precision: str = "fp32") -> tuple[PyramidModel, OrtEngine]:
    """A model of a config and its ONNX engine."""
    model = tiny.build(config, seed=seed)
    return model, engine_of(model, precision=precision)

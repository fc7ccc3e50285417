"""A model folder for the native engine, which needs no PyTorch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from magic_pyramid.engine.interface import threshold_pruning
from magic_pyramid.engine.native_engine import NativeEngine
from magic_pyramid.engine.native_folder import PLAN_FILE, WEIGHTS_FILE, NativePlan, write_weights
from magic_pyramid.engine.plan_files import file_sha256
from magic_pyramid.export.folder import check_precision, new_folder, weights_of, write_common
from magic_pyramid.layers.relative_bias import bias_by_distance
from magic_pyramid.model import PyramidModel
from magic_pyramid.pruning.threshold import ThresholdPruner
from magic_pyramid.tokenization import TextEncoder


def native_weights(model: PyramidModel) -> dict[str, np.ndarray]:
    """The model's state in fp32, and what is computed from it once: thresholds, position bias by distance.

    Raises:
        ConfigError: the model does not prune by thresholds.
    """
    weights = weights_of(model)
    threshold_pruning(model.config, engine="the native engine")
    if isinstance(model.pruner, ThresholdPruner):
        weights["thresholds"] = model.pruner.token_thresholds.detach().float().cpu().numpy()
    if model.config.backbone.relative_attention_num_buckets:
        table = model.relative_bias.weight.detach().float().cpu()
        farthest = model.config.backbone.max_length - 1
        weights["bias_by_distance"] = bias_by_distance(table, farthest=farthest).T.contiguous().numpy()
    return weights


def native_engine(model: PyramidModel, **options: Any) -> NativeEngine:
    """The native engine of a model, with its weights as they are now; ``options`` are the engine's."""
    return NativeEngine(model.config, native_weights(model), **options)


def export_native(
    model: PyramidModel,
    folder: str | Path,
    *,
    encoder: TextEncoder | None,
    precision: str = "fp32",
    info: Mapping[str, Any] | None = None,
    accept: Callable[[Path], None] | None = None,
) -> NativePlan:
    """Write a model for the native engine.

    Args:
        model: the trained model.
        folder: new, empty, or an older export, which is replaced.
        encoder: writes the tokenizer files; None: none.
        precision: "fp32", or "int8": matrices in 8 bits, on disk and in products.
        info: ``calibration`` and ``provenance``, kept in ``config.json``.
        accept: looks at the finished folder before it gets its name; it refuses by raising.

    Raises:
        ConfigError: the precision is unknown, or the model does not prune by thresholds.
        InputError: the folder holds something else.
        CheckpointError: something cannot be written.
    """
    chosen = check_precision(precision)
    with new_folder(Path(folder)) as staging:
        write_common(staging, model.config, encoder=encoder, info=info)
        write_weights(native_weights(model), staging / WEIGHTS_FILE, precision=chosen)
        plan = NativePlan(
            config=model.config,
            precision=chosen,
            sha256={path.name: file_sha256(path) for path in sorted(staging.iterdir())},
        )
        (staging / PLAN_FILE).write_text(plan.to_json(), encoding="utf-8")
        if accept is not None:
            accept(staging)
    return plan

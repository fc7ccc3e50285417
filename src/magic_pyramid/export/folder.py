"""Write the exported folder: every graph checked, the whole folder or nothing."""

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from magic_pyramid.checkpoint import write_config
from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.exported import exported_for
from magic_pyramid.engine.plan_files import PRECISIONS, Precision, file_sha256
from magic_pyramid.engine.segments import PLAN_FILE, Segment, SegmentPlan
from magic_pyramid.errors import CheckpointError, ConfigError, InputError, MissingExtraError, nearest
from magic_pyramid.model import PyramidModel
from magic_pyramid.tokenization import TextEncoder

EMBEDDINGS_FILE = "embeddings.onnx"
DENSE_FILE = "dense.onnx"
FINAL_HEAD_FILE = "final_head.onnx"


def export_onnx(
    model: PyramidModel,
    folder: str | Path,
    *,
    encoder: TextEncoder | None,
    precision: str = "fp32",
    boundaries: Collection[int] = (),
    info: Mapping[str, Any] | None = None,
    accept: Callable[[Path], None] | None = None,
) -> SegmentPlan:
    """Write a model as staged ONNX segments.

    Args:
        model: the trained model.
        folder: new, empty, or an older export, which is replaced.
        encoder: writes the tokenizer files; None: none.
        precision: "fp32", or "int8" with 7-bit weights and activations in 8 bits, one scale a token.
        boundaries: 0-based layers behind which a segment ends, besides those with an exit head.
        info: ``calibration``, ``provenance`` and ``tuning``, kept in ``config.json``.
        accept: looks at the finished folder before it gets its name; it refuses by raising.

    Raises:
        MissingExtraError: onnx is not installed.
        ConfigError: the precision is unknown or a boundary is no layer.
        InputError: the folder holds something else.
        CheckpointError: something cannot be written.
    """
    chosen = check_precision(precision)
    layers = model.config.backbone.num_hidden_layers
    strangers = sorted(layer for layer in boundaries if not 0 <= layer < layers)
    if strangers:
        raise ConfigError(f"boundaries contains {strangers[0]}; the layers are 0 to {layers - 1}")
    with new_folder(Path(folder)) as staging:
        write_common(staging, model.config, encoder=encoder, info=info)
        plan = _write_graphs(model, staging, chosen, frozenset(boundaries))
        (staging / PLAN_FILE).write_text(plan.to_json(), encoding="utf-8")
        if accept is not None:
            accept(staging)
    return plan


def check_precision(precision: str) -> Precision:
    """The precision, if it is one.

    Raises:
        ConfigError: it is unknown.
    """
    for known in PRECISIONS:
        if precision == known:
            return known
    raise ConfigError(f"precision is {precision!r}; {nearest(precision, PRECISIONS)}")


def require_onnx() -> None:
    """Raise MissingExtraError unless onnx is installed."""
    if find_spec("onnx") is None:
        raise MissingExtraError.of("the export", library="onnx", extra="onnx")


def weights_of(model: PyramidModel) -> dict[str, np.ndarray]:
    """The model's state by our names, in fp32."""
    return {name: np.asarray(value.detach().float().cpu()) for name, value in model.state_dict().items()}


def write_common(
    folder: Path, config: ModelConfig, *, encoder: TextEncoder | None, info: Mapping[str, Any] | None
) -> None:
    """Write what every export holds: the config, and the tokenizer if there is one."""
    if encoder is not None:
        encoder.save_pretrained(folder)
    write_config(folder, config, info=info or {})


def _write_graphs(
    model: PyramidModel, folder: Path, precision: Precision, boundaries: frozenset[int]
) -> SegmentPlan:
    require_onnx()
    # Imported late, as they need onnx.
    from magic_pyramid.export.encoder import dense_graph, embeddings_graph, layers_graph
    from magic_pyramid.export.graph import OPSET
    from magic_pyramid.export.heads import head_graph
    from magic_pyramid.export.weights import WEIGHTS_FILE, WeightsFile

    config, count = model.config, model.config.backbone.num_hidden_layers
    weights = weights_of(model)
    parts = segments_of(count, boundaries | set(config.exit_layers))
    heads = {layer: f"exit_head_{layer}.onnx" for layer in config.exit_layers}
    with WeightsFile(folder) as file:
        how: dict[str, Any] = {"precision": precision, "file": file}
        file.write_graph(folder / EMBEDDINGS_FILE, embeddings_graph(config, weights, **how))
        file.write_graph(folder / DENSE_FILE, dense_graph(config, weights, **how))
        for part in parts:
            graph = layers_graph(config, weights, first=part.first, last=part.last, **how)
            file.write_graph(folder / part.file, graph)
        for layer, name in heads.items():
            assert config.exit is not None
            prefix = f"exit_heads.{layer}."
            graph = head_graph(config, weights, kind=config.exit.head, prefix=prefix, file=file)
            file.write_graph(folder / name, graph)
        graph = head_graph(config, weights, kind=config.final_head, prefix="final_head.", file=file)
        file.write_graph(folder / FINAL_HEAD_FILE, graph)
    return SegmentPlan(
        config=config,
        precision=precision,
        opset=OPSET,
        weights=WEIGHTS_FILE,
        embeddings=EMBEDDINGS_FILE,
        dense=Segment(file=DENSE_FILE, first=0, last=count - 1),
        segments=parts,
        exit_heads=heads,
        final_head=FINAL_HEAD_FILE,
        sha256={path.name: file_sha256(path) for path in sorted(folder.iterdir())},
    )


def segments_of(num_layers: int, boundaries: Collection[int]) -> tuple[Segment, ...]:
    """Groups of consecutive layers that end behind each boundary and behind the last layer."""
    ends = sorted({*boundaries, num_layers - 1})
    starts = [0, *(end + 1 for end in ends[:-1])]
    return tuple(
        Segment(file=f"layers_{first}_{last}.onnx", first=first, last=last)
        for first, last in zip(starts, ends, strict=True)
    )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a sibling to write into, which takes the folder's name when all went well."""
    if folder.exists() and exported_for(folder) is None and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds something that is no export; choose a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield staging
        staging.chmod(0o755)
        if folder.exists():
            outdated = staging.with_name(staging.name + ".old")
            folder.replace(outdated)
            try:
                staging.replace(folder)
            except OSError:
                outdated.replace(folder)
                raise
            shutil.rmtree(outdated, ignore_errors=True)
        else:
            staging.replace(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{folder} cannot be written ({error}); free some space or choose another folder")

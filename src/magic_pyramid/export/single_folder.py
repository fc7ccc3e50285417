"""Write the folder of a model as one graph: the graph, its description, and the tokenizer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.graph_interface import GRAPH_FILE, INTERFACE_FILE, GraphInterface
from magic_pyramid.engine.plan_files import file_sha256
from magic_pyramid.exit_thresholds import threshold_after
from magic_pyramid.export.folder import (
    check_precision,
    new_folder,
    require_onnx,
    weights_of,
    write_common,
)
from magic_pyramid.export.single_readme import readme
from magic_pyramid.model import PyramidModel
from magic_pyramid.tokenization import TextEncoder

README_FILE = "README.md"


def export_single_graph(
    model: PyramidModel,
    folder: str | Path,
    *,
    encoder: TextEncoder | None,
    precision: str = "fp32",
    info: Mapping[str, Any] | None = None,
    accept: Callable[[Path], None] | None = None,
) -> GraphInterface:
    """Write a model as one ONNX file that answers one text a call, for any language and for browsers.

    The graph holds the exit heads that the model asks by default, and asks all of them.

    Args:
        model: the trained model.
        folder: new, empty, or an older export, which is replaced.
        encoder: writes the tokenizer files; None: none.
        precision: "fp32", or "int8" with 7-bit weights and activations in 8 bits, one scale a token.
        info: ``calibration`` and ``provenance``, kept in ``config.json``.
        accept: looks at the finished folder before it gets its name; it refuses by raising.

    Raises:
        MissingExtraError: onnx is not installed.
        ConfigError: the precision is unknown, or the weights exceed what one file can hold.
        InputError: the folder holds something else.
        CheckpointError: something cannot be written.
    """
    kept = check_precision(precision)
    require_onnx()
    # Imported late, as they need onnx.
    import onnx

    from magic_pyramid.export.graph import OPSET
    from magic_pyramid.export.single import single_graph

    config = _with_tested_heads(model.config)
    graph = single_graph(config, weights_of(model), precision=kept)
    with new_folder(Path(folder)) as staging:
        write_common(staging, config, encoder=encoder, info=info)
        file = staging / GRAPH_FILE
        file.write_bytes(graph.SerializeToString())
        onnx.checker.check_model(str(file), full_check=True)
        interface = GraphInterface(config=config, precision=kept, opset=OPSET, sha256=file_sha256(file))
        (staging / INTERFACE_FILE).write_text(interface.to_json(), encoding="utf-8")
        (staging / README_FILE).write_text(readme(interface), encoding="utf-8")
        if accept is not None:
            accept(staging)
    return interface


def _with_tested_heads(config: ModelConfig) -> ModelConfig:
    """The model without the exit heads that are not asked."""
    exits = config.exit
    if exits is None or exits.tested_layers is None:
        return config
    threshold = exits.threshold
    if isinstance(threshold, tuple):
        threshold = tuple(threshold_after(config, threshold, layer) for layer in exits.tested_layers)
    kept = exits.replace(layers=exits.tested_layers, tested_layers=None, threshold=threshold)
    return config.replace(exit=kept)

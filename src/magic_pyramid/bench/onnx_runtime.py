"""The dense model in ONNX Runtime, with the fusions of its transformer optimizer, in fp32 and int8."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from magic_pyramid.bench.contender import (
    Answer,
    Contender,
    Material,
    in_batches,
    needs_family_head,
)
from magic_pyramid.bench.huggingface import inputs_of, load_model
from magic_pyramid.bench.texts import BenchTexts, padded

SLOW_FUSION = "SkipLayerNormFusion"
"""Costs ONNX Runtime more than it saves on a CPU (measured with 1.32), so it is left out."""


def write_dense_graph(material: Material) -> Path:
    """Export the ordinary checkpoint with transformers' own code, as optimum does."""
    path = material.folder / "dense.onnx"
    if path.exists():
        return path
    import torch

    # The optimizer finds attention in the graph of the eager form.
    model = load_model(material, 1, attention="eager")
    batch = padded(material.texts(), [0], pad_id=material.config.backbone.pad_token_id)
    inputs = {name: torch.from_numpy(value) for name, value in inputs_of(model, batch).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (),
            str(path),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_axes={**{name: {0: "seqs", 1: "length"} for name in inputs}, "logits": {0: "seqs"}},
            opset_version=17,
            dynamo=False,
        )
    return path


def _fuse(material: Material) -> Path:
    path = material.folder / "dense_fused.onnx"
    if path.exists():
        return path
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.enable_skip_layer_norm = False
    options.enable_bias_skip_layer_norm = False
    backbone = material.config.backbone
    optimized = optimize_model(
        str(write_dense_graph(material)),
        model_type="bert",
        num_heads=backbone.num_attention_heads,
        hidden_size=backbone.hidden_size,
        opt_level=1,
        optimization_options=options,
    )
    optimized.save_model_to_file(str(path))
    return path


def _quantize(material: Material) -> None:
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(_fuse(material)),
        str(material.folder / "dense_int8.onnx"),
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=not _has_vnni(),
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


def _has_vnni() -> bool:
    """Without these instructions 8-bit weights saturate, so the documentation asks for 7 bits."""
    path = Path("/proc/cpuinfo")
    return path.exists() and "vnni" in path.read_text(encoding="utf-8", errors="replace")


def _load(material: Material, threads: int, *, file: str) -> Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(
        str(material.folder / file),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=[SLOW_FUSION],
    )
    names = [port.name for port in session.get_inputs()]

    def answer(texts: BenchTexts, rows: list[int]) -> np.ndarray:
        batch = padded(texts, rows, pad_id=material.config.backbone.pad_token_id)
        return np.asarray(session.run(None, {name: batch[name] for name in names})[0])

    return in_batches(material, answer)


CONTENDERS = (
    Contender(
        engine="onnxruntime",
        prepare=_fuse,
        load=partial(_load, file="dense_fused.onnx"),
        unsuited=needs_family_head,
        libraries=("torch", "transformers", "onnx", "onnxruntime"),
        note="transformer optimizer: fused attention, embeddings and GELU",
    ),
    Contender(
        engine="onnxruntime",
        precision="int8",
        prepare=_quantize,
        load=partial(_load, file="dense_int8.onnx"),
        unsuited=needs_family_head,
        libraries=("torch", "transformers", "onnx", "onnxruntime"),
        note="the same graph, quantize_dynamic, weights per channel, 7 bits where VNNI is missing",
    ),
)

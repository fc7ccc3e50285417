"""The dense model in OpenVINO, in fp32 and, through NNCF, in int8."""

from functools import partial
from typing import Any

import numpy as np

from magic_pyramid.bench.contender import Answer, Contender, Material, in_batches, needs_family_head
from magic_pyramid.bench.onnx_runtime import write_dense_graph
from magic_pyramid.bench.texts import BenchTexts, padded

CALIBRATION_TEXTS = 64
"""Texts whose activations set the int8 scales; labels are not looked at."""


def _quantize(material: Material) -> None:
    import nncf
    import openvino

    texts = material.texts().sample(CALIBRATION_TEXTS)
    model = openvino.Core().read_model(write_dense_graph(material))
    names = [port.any_name for port in model.inputs]
    pad_id = material.config.backbone.pad_token_id

    def inputs(row: int) -> dict[str, np.ndarray]:
        batch = padded(texts, [row], pad_id=pad_id)
        return {name: batch[name] for name in names}

    quantized = nncf.quantize(
        model,
        nncf.Dataset(range(len(texts)), inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(texts),
    )
    openvino.save_model(quantized, material.folder / "openvino_int8.xml", compress_to_fp16=False)


def _load(material: Material, threads: int, *, file: str) -> Answer:
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        # Otherwise it computes in bf16 where the processor can.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled: Any = openvino.Core().compile_model(material.folder / file, "CPU", settings)
    request = compiled.create_infer_request()
    names = [port.any_name for port in compiled.inputs]

    def answer(texts: BenchTexts, rows: list[int]) -> np.ndarray:
        batch = padded(texts, rows, pad_id=material.config.backbone.pad_token_id)
        return np.array(request.infer({name: batch[name] for name in names}, share_inputs=True)[0])

    return in_batches(material, answer)


CONTENDERS = (
    Contender(
        engine="openvino",
        prepare=write_dense_graph,
        load=partial(_load, file="dense.onnx"),
        unsuited=needs_family_head,
        libraries=("torch", "transformers", "onnx", "openvino"),
        note="latency hint, one stream, dynamic lengths",
    ),
    Contender(
        engine="openvino",
        precision="int8",
        prepare=_quantize,
        load=partial(_load, file="openvino_int8.xml"),
        unsuited=needs_family_head,
        libraries=("torch", "transformers", "onnx", "openvino", "nncf"),
        note=f"nncf.quantize for transformers on at most {CALIBRATION_TEXTS} of the texts, without labels",
    ),
)

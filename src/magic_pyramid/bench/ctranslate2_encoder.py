"""The dense encoder in CTranslate2, which strips padding itself, with our final head in numpy on top."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from magic_pyramid.bench.contender import (
    Answer,
    Contender,
    Material,
    Reason,
    in_batches,
    needs_family_head,
)
from magic_pyramid.bench.texts import BenchTexts
from magic_pyramid.config import ModelConfig

_FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert")
_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "relu": lambda values: np.maximum(values, 0.0),
}
"""Of the final head."""
_HEAD = "ctranslate2_head.npz"


def _unsuited(config: ModelConfig, texts: BenchTexts) -> Reason:
    backbone = config.backbone
    if backbone.model_type not in _FAMILIES:
        return f"CTranslate2 has no converter for {backbone.model_type}"
    if backbone.head_act not in _ACTIVATIONS:
        return f"the head on top of CTranslate2 has no {backbone.head_act}"
    return needs_family_head(config, texts)


def _convert(material: Material, *, quantization: str) -> None:
    from ctranslate2.converters import TransformersConverter

    from magic_pyramid.checkpoint import load_model

    source = material.folder / "ctranslate2_source"
    shutil.copytree(material.huggingface, source, dirs_exist_ok=True)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    # The converter asks for a field that transformers 5 no longer writes.
    config["position_embedding_type"] = "absolute"
    (source / "config.json").write_text(json.dumps(config), encoding="utf-8")
    target = material.folder / f"ctranslate2_{quantization}"
    TransformersConverter(str(source)).convert(str(target), quantization=quantization, force=True)
    weights = load_model(material.model).model.final_head.state_dict()
    np.savez(material.folder / _HEAD, **{name: value.numpy() for name, value in weights.items()})


def _load(material: Material, threads: int, *, quantization: str) -> Answer:
    import ctranslate2

    encoder: Any = ctranslate2.Encoder(
        str(material.folder / f"ctranslate2_{quantization}"),
        device="cpu",
        compute_type=quantization,
        inter_threads=1,
        intra_threads=threads,
    )
    with np.load(material.folder / _HEAD) as file:
        head = {name: file[name] for name in file.files}
    activation = _ACTIVATIONS[material.config.backbone.head_act]
    has_types = material.config.backbone.type_vocab_size > 1

    def answer(texts: BenchTexts, rows: list[int]) -> np.ndarray:
        ids = [texts.encoded.token_ids[row] for row in rows]
        types = [texts.encoded.token_type_ids[row] for row in rows]
        options = {"token_type_ids": types} if has_types else {}
        first = np.array(encoder.forward_batch(ids, **options).last_hidden_state)[:, 0]
        dense = activation(first @ head["dense.weight"].T + head["dense.bias"])
        return np.asarray(dense @ head["output.weight"].T + head["output.bias"])

    return in_batches(material, answer)


CONTENDERS = (
    Contender(
        engine="ctranslate2",
        prepare=partial(_convert, quantization="float32"),
        load=partial(_load, quantization="float32"),
        unsuited=_unsuited,
        libraries=("torch", "transformers", "ctranslate2"),
        note="strips padding inside; final head in numpy",
    ),
    Contender(
        engine="ctranslate2",
        precision="int8",
        prepare=partial(_convert, quantization="int8_float32"),
        load=partial(_load, quantization="int8_float32"),
        unsuited=_unsuited,
        libraries=("torch", "transformers", "ctranslate2"),
        note="strips padding inside; final head in numpy",
    ),
)

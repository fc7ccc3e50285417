"""The model in transformers itself: eager, compiled, and through its pipeline."""

import os
import shutil
from functools import partial
from typing import Any

import numpy as np

from magic_pyramid.bench.contender import (
    Answer,
    Answers,
    Contender,
    Material,
    Reason,
    in_batches,
    needs_family_head,
)
from magic_pyramid.bench.texts import BenchTexts, padded
from magic_pyramid.config import ModelConfig


def load_model(material: Material, threads: int, *, attention: str = "sdpa") -> Any:
    """The dense checkpoint in evaluation mode."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(threads)
    loader: Any = AutoModelForSequenceClassification
    return loader.from_pretrained(material.huggingface, attn_implementation=attention).eval()


def inputs_of(model: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs that the family takes."""
    has_types = getattr(model.config, "type_vocab_size", 0) > 1
    return {name: value for name, value in batch.items() if has_types or name != "token_type_ids"}


def _load_module(material: Material, threads: int, *, compiled: bool) -> Answer:
    import torch

    model = load_model(material, threads)
    module = torch.compile(model, dynamic=True) if compiled else model

    @torch.inference_mode()
    def answer(texts: BenchTexts, rows: list[int]) -> np.ndarray:
        batch = inputs_of(model, padded(texts, rows, pad_id=material.config.backbone.pad_token_id))
        logits = module(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits
        return np.asarray(logits)

    return in_batches(material, answer)


def _load_pipeline(material: Material, threads: int) -> Answer:
    import torch
    from transformers import AutoTokenizer, pipeline

    model = load_model(material, threads)
    tokenizer = AutoTokenizer.from_pretrained(material.huggingface)
    classify: Any = pipeline("text-classification", model=model, tokenizer=tokenizer)
    options = {"truncation": True, "max_length": material.config.max_length, "function_to_apply": "none"}
    places = {label: index for index, label in enumerate(material.config.labels)}

    @torch.inference_mode()
    def answer(texts: BenchTexts, batch_size: int) -> Answers:
        assert texts.raw is not None
        order = [row for rows in texts.batches(batch_size) for row in rows]
        inputs = [_pipeline_input(texts.raw[row]) for row in order]
        logits = np.zeros((len(texts), len(places)), dtype=np.float32)
        for row, scores in zip(
            order, classify(inputs, batch_size=batch_size, top_k=None, **options), strict=True
        ):
            for score in scores:
                logits[row, places[score["label"]]] = score["score"]
        return Answers(logits)

    return answer


def _pipeline_input(text: str | tuple[str, str]) -> dict[str, str]:
    return {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}


def _can_compile(config: ModelConfig, texts: BenchTexts) -> Reason:
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        return "torch.compile needs a C++ compiler, and there is none"
    return needs_family_head(config, texts)


CONTENDERS = (
    Contender(
        engine="huggingface",
        load=partial(_load_module, compiled=False),
        unsuited=needs_family_head,
        libraries=("torch", "transformers"),
        needs_torch=True,
        note="eager, sdpa attention, inference mode",
    ),
    Contender(
        engine="huggingface_pipeline",
        load=_load_pipeline,
        unsuited=needs_family_head,
        libraries=("torch", "transformers"),
        needs_torch=True,
        takes="texts",
        note="pipeline('text-classification') with batch_size; tokenising is part of its time",
    ),
    Contender(
        engine="torch_compile",
        load=partial(_load_module, compiled=True),
        unsuited=_can_compile,
        libraries=("torch", "transformers"),
        needs_torch=True,
        note="torch.compile(dynamic=True) of the eager model; compiling is part of its cold start",
    ),
)

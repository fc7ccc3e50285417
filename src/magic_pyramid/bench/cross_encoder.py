"""The dense model as a cross-encoder of sentence-transformers, for pairs of texts."""

from typing import Any

import numpy as np

from magic_pyramid.bench.contender import Answer, Answers, Contender, Material, Reason, needs_family_head
from magic_pyramid.bench.texts import BenchTexts
from magic_pyramid.config import ModelConfig


def _unsuited(config: ModelConfig, texts: BenchTexts) -> Reason:
    if not texts.has_pairs:
        return "a cross-encoder reads pairs; these are single texts"
    return needs_family_head(config, texts)


def _load(material: Material, threads: int) -> Answer:
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(threads)
    model: Any = CrossEncoder(str(material.huggingface), device="cpu", max_length=material.config.max_length)

    def answer(texts: BenchTexts, batch_size: int) -> Answers:
        scores = model.predict(
            list(texts.raw or ()),
            batch_size=batch_size,
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
        )
        return Answers(np.asarray(scores, dtype=np.float32).reshape(len(texts), -1))

    return answer


CONTENDERS = (
    Contender(
        engine="sentence_transformers",
        load=_load,
        unsuited=_unsuited,
        libraries=("torch", "transformers", "sentence_transformers"),
        needs_torch=True,
        takes="texts",
        note="CrossEncoder.predict, which sorts by length; tokenising is part of its time",
    ),
)

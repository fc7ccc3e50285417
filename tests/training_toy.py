"""A task small enough to learn in a second: does the word contain "z"?"""

import gc
import importlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from magic_pyramid.config import BackboneConfig, ExitConfig, ModelConfig, PruneConfig, TrainConfig
from magic_pyramid.data import Example, LabelledData
from magic_pyramid.model import PyramidModel
from magic_pyramid.tokenization import EncodedTexts, TextEncoder
from magic_pyramid.training import TrainReport, train

# The Trainer collects garbage at each start; what the imports left needs no look then.
importlib.import_module("magic_pyramid.training.trainer")
gc.freeze()

ALPHABET = "bcdfghjyz"
BACKBONE = BackboneConfig(
    model_type="bert",
    vocab_size=3 + len(ALPHABET),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
)
PYRAMID = ModelConfig(
    backbone=BACKBONE,
    labels=("without", "with"),
    max_length=32,
    prune=PruneConfig(final_threshold=0.08),
    exit=ExitConfig(head_size=8),
)
STILL = PYRAMID.replace(
    backbone=BACKBONE.replace(hidden_dropout=0.0, attention_dropout=0.0, classifier_dropout=0.0)
)
"""Without dropout, so that only the arithmetic decides."""
FAST = TrainConfig(
    epochs={"finetune": 1, "soft_prune": 1, "hard_prune": 1, "distill_exits": 1},
    learning_rate=3e-3,
    learning_rate_exits=1e-2,
    learning_rate_thresholds=3e-3,
    tokens_per_batch=96,
    max_sequences_per_batch=8,
)


class LetterEncoder:
    """Stands for a tokenizer: one token a letter."""

    def encode(self, examples: Sequence[str], *, max_length: int) -> EncodedTexts:
        ids = [
            [1, *(3 + ALPHABET.index(letter) for letter in text[: max_length - 2]), 2] for text in examples
        ]
        return EncodedTexts(ids, [[0] * len(row) for row in ids])


def words(count: int, *, seed: int) -> list[Example]:
    generator = random.Random(seed)
    found = []
    for index in range(count):
        letters = generator.choices(ALPHABET[:-2], k=generator.randint(2, 14))
        letters.insert(generator.randrange(len(letters) + 1), "yz"[index % 2])
        found.append(Example(text="".join(letters), label=index % 2))
    return found


def toy_data(*, train: int = 48, validation: int = 16) -> LabelledData:
    splits = {"train": words(train, seed=0), "validation": words(validation, seed=1)}
    return LabelledData(
        name="toy",
        splits={name: rows for name, rows in splits.items() if rows},
        labels=PYRAMID.labels,
        problem_type="single_label",
        held_out=False,
    )


def toy_model(config: ModelConfig = PYRAMID, *, seed: int = 0) -> PyramidModel:
    torch.manual_seed(seed)
    return PyramidModel(config)


def train_toy(
    model: PyramidModel, output: Path, *, config: TrainConfig = FAST, **options: Any
) -> TrainReport:
    options.setdefault("data", toy_data())
    return train(
        model=model,
        encoder=cast(TextEncoder, LetterEncoder()),
        output=output,
        config=config,
        device="cpu",
        **options,
    )


def weights(model: PyramidModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}

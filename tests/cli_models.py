"""A tiny classifier in a folder, and the command line called from inside a test."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from magic_pyramid.checkpoint import save_model
from magic_pyramid.config import BackboneConfig, ExitConfig, ModelConfig, PruneConfig
from magic_pyramid.model import PyramidModel
from magic_pyramid.tokenization import TextEncoder

WORDS = "[PAD] [UNK] [CLS] [SEP] a quiet lovely film bad dull loud the story was good awful and never".split()
CONFIG = ModelConfig(
    backbone=BackboneConfig(
        model_type="bert",
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=24,
        sep_token_id=3,
    ),
    labels=("negative", "positive"),
    max_length=16,
    prune=PruneConfig(manual_thresholds=(0.05, 0.1)),
    exit=ExitConfig(head_size=8, threshold=0.5),
)


def word_encoder() -> TextEncoder:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return TextEncoder(PreTrainedTokenizerFast(tokenizer_object=backend, **names))


def save_tiny(folder: Path, config: ModelConfig = CONFIG) -> Path:
    torch.manual_seed(0)
    info = {
        "calibration": {"exit_threshold": 0.5, "prune_scale": 1.0},
        "provenance": {"seed": 7, "data": "toy"},
    }
    save_model(PyramidModel(config), folder, encoder=word_encoder(), info=info, readme="# Tiny\n")
    return folder


def write_rows(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


REVIEWS = [
    {"text": "a quiet lovely film", "label": "positive"},
    {"text": "the story was dull and awful", "label": "negative"},
    {"text": "good", "label": "positive"},
    {"text": "never a loud film", "label": "negative"},
]

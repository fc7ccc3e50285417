"""Small models, tokenizers and inputs that many tests share; random weights are large enough to matter."""

import random
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from magic_pyramid.classifier import Classifier
from magic_pyramid.config import BackboneConfig, ExitConfig, ModelConfig, PruneConfig
from magic_pyramid.exiting.criteria import uncertainty
from magic_pyramid.layers.embeddings import init_weights
from magic_pyramid.model import PyramidModel
from magic_pyramid.packing import PackedBatch, pack_sequences
from magic_pyramid.tokenization import EncodedTexts, TextEncoder

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [
    *SPECIAL,
    *("a", "quiet", "lovely", "film", "that", "never", "out", "stays", "its", "welcome", "dull", "long"),
    *("loud", "bad", "good", "plot", "actor", "scene", "and", "but", "the", "is", "was", "not", "very"),
]
SEP = WORDS.index("[SEP]")
TEXTS = (
    "a quiet lovely film that never out stays its welcome",
    "bad",
    "the plot is dull and the actor was not good but the scene is very long and very loud",
    "not a bad film",
    "lovely scene",
)
BACKBONE = BackboneConfig(
    model_type="bert",
    vocab_size=len(WORDS),
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=64,
    sep_token_id=SEP,
)
CONFIG = ModelConfig(
    backbone=BACKBONE,
    labels=("bad", "so-so", "good"),
    max_length=32,
    prune=PruneConfig(manual_thresholds=(0.06, 0.09, 0.12)),
    exit=ExitConfig(head_size=8, threshold=0.6),
)
PLAIN = CONFIG.replace(prune=None, exit=None)
MULTI_LABEL = CONFIG.replace(problem_type="multi_label")
REGRESSION = CONFIG.replace(
    problem_type="regression", labels=("score",), exit=ExitConfig(head_size=8, criterion="patience")
)
FAMILIES = {
    "bert": BACKBONE,
    "roberta": BACKBONE.replace(model_type="roberta", pad_token_id=1, position_offset=2, type_vocab_size=1),
    "distilbert": BACKBONE.replace(model_type="distilbert", type_vocab_size=0, head_act="relu"),
    "electra": BACKBONE.replace(model_type="electra", embedding_size=8, head_act="gelu"),
    "mpnet": BACKBONE.replace(
        model_type="mpnet",
        pad_token_id=1,
        position_offset=2,
        type_vocab_size=0,
        relative_attention_num_buckets=32,
    ),
}
"""One backbone of each kind of position, token type and embedding width."""


def build(config: ModelConfig = CONFIG, *, seed: int = 0, spread: float = 0.4) -> PyramidModel:
    """A model in evaluation mode whose every parameter is random; its heads are sure of some answers."""
    torch.manual_seed(seed)
    model = PyramidModel(config).eval()
    init_weights(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("pruner."):
                parameter.add_(torch.randn_like(parameter) * spread)
            if name.startswith(("exit_heads.", "final_head.")):
                parameter.mul_(3.0)
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """A word tokenizer with BERT's special tokens and token types, made in memory."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", WORDS.index("[CLS]")), ("[SEP]", SEP)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=CONFIG.max_length,
    )


def classifier(config: ModelConfig = CONFIG, *, seed: int = 0) -> Classifier:
    return Classifier(build(config, seed=seed), TextEncoder(tokenizer()))


def token_lists(*lengths: int, seed: int = 0) -> list[list[int]]:
    """Random words between [CLS] and, from two tokens on, [SEP]."""
    generator = random.Random(seed)
    words = range(len(SPECIAL), len(WORDS))
    return [[2, *generator.choices(words, k=length - 2), SEP] if length > 1 else [2] for length in lengths]


def encoded(*lengths: int, seed: int = 0) -> EncodedTexts:
    ids = token_lists(*lengths, seed=seed)
    return EncodedTexts(ids, [[0] * len(row) for row in ids])


def splitting_threshold(model: PyramidModel, inputs: EncodedTexts) -> float:
    """An exit threshold in the widest gap: some inputs leave after the first layer, none is near a tie."""
    criterion = model.config.exit.criterion
    with torch.no_grad():
        state = model.remove_tokens(model.begin(pack_sequences(inputs.token_ids)), 0)
        logits = model.exit_head(0)(state.hidden_states, state.batch)
    unsure = uncertainty(logits, problem_type=model.config.problem_type, criterion=criterion).sort().values
    widest = int(unsure.diff().argmax())
    return float(unsure[widest : widest + 2].mean())


def packed(*lengths: int, seed: int = 0) -> PackedBatch:
    return pack_sequences(token_lists(*lengths, seed=seed))


def changed(config: ModelConfig = CONFIG, **parts: dict[str, Any]) -> ModelConfig:
    """The config with fields of its parts replaced: ``changed(prune={"scale": 2.0})``."""
    return config.replace(**{name: getattr(config, name).replace(**fields) for name, fields in parts.items()})

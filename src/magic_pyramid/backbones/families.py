"""Hugging Face encoders as data: one row a family, read in both directions.

A row says how the family's ``config.json`` and its weights are named and which constants its code holds.
``translate`` only walks the rows, so nothing in the library branches on a family's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Names = Mapping[str, tuple[str, ...]]
"""Our module -> their modules; three of them are stacked into one (query, key, value). ``#`` is the layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigField:
    """Where a field of ours stands in the family's config."""

    key: str
    default: Any
    """What the family's own config class assumes when the key is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row: everything that sets one Hugging Face encoder apart."""

    stem: str
    """Class names start with it: ``Bert`` in ``BertForSequenceClassification``."""
    prefix: str
    """Weights of the encoder start with it where the checkpoint also has a head."""
    fields: Mapping[str, ConfigField]
    constants: Mapping[str, Any]
    """Fields of ours that the family fixes in code."""
    modules: Names
    head: Names
    dropout_key: str | None = "classifier_dropout"
    """Config key of the head's dropout; None: the family uses `hidden_dropout_prob`."""
    dropout_default: float | None = None
    """Head dropout when the key is absent or null; None: the same as `hidden_dropout`."""
    position_offset: int | None = 0
    """Row of the position table used first; None: pad id + 1."""
    ignored: tuple[str, ...] = ()
    """Regular expressions of further weights that a classifier does not need."""


_BERT_FIELDS = {
    "vocab_size": ConfigField(key="vocab_size", default=30522),
    "hidden_size": ConfigField(key="hidden_size", default=768),
    "num_hidden_layers": ConfigField(key="num_hidden_layers", default=12),
    "num_attention_heads": ConfigField(key="num_attention_heads", default=12),
    "intermediate_size": ConfigField(key="intermediate_size", default=3072),
    "max_position_embeddings": ConfigField(key="max_position_embeddings", default=512),
    "type_vocab_size": ConfigField(key="type_vocab_size", default=2),
    "pad_token_id": ConfigField(key="pad_token_id", default=0),
    "sep_token_id": ConfigField(key="eos_token_id", default=None),
    "hidden_act": ConfigField(key="hidden_act", default="gelu"),
    "layer_norm_eps": ConfigField(key="layer_norm_eps", default=1e-12),
    "hidden_dropout": ConfigField(key="hidden_dropout_prob", default=0.1),
    "attention_dropout": ConfigField(key="attention_probs_dropout_prob", default=0.1),
}
_ROBERTA_FIELDS = {
    **_BERT_FIELDS,
    "pad_token_id": ConfigField(key="pad_token_id", default=1),
    "sep_token_id": ConfigField(key="eos_token_id", default=2),
}
_ELECTRA_FIELDS = {
    **_BERT_FIELDS,
    "embedding_size": ConfigField(key="embedding_size", default=128),
    "hidden_size": ConfigField(key="hidden_size", default=256),
    "num_attention_heads": ConfigField(key="num_attention_heads", default=4),
    "intermediate_size": ConfigField(key="intermediate_size", default=1024),
}
_DISTILBERT_FIELDS = {
    "vocab_size": ConfigField(key="vocab_size", default=30522),
    "hidden_size": ConfigField(key="dim", default=768),
    "num_hidden_layers": ConfigField(key="n_layers", default=6),
    "num_attention_heads": ConfigField(key="n_heads", default=12),
    "intermediate_size": ConfigField(key="hidden_dim", default=3072),
    "max_position_embeddings": ConfigField(key="max_position_embeddings", default=512),
    "pad_token_id": ConfigField(key="pad_token_id", default=0),
    "sep_token_id": ConfigField(key="eos_token_id", default=None),
    "hidden_act": ConfigField(key="activation", default="gelu"),
    "hidden_dropout": ConfigField(key="dropout", default=0.1),
    "attention_dropout": ConfigField(key="attention_dropout", default=0.1),
}
_MPNET_FIELDS = {
    **{name: row for name, row in _ROBERTA_FIELDS.items() if name != "type_vocab_size"},
    "vocab_size": ConfigField(key="vocab_size", default=30527),
    "relative_attention_num_buckets": ConfigField(key="relative_attention_num_buckets", default=32),
}

_EMBEDDINGS = {
    "embeddings.token": ("embeddings.word_embeddings",),
    "embeddings.position": ("embeddings.position_embeddings",),
    "embeddings.norm": ("embeddings.LayerNorm",),
}
_FEEDFORWARD = {
    "layers.#.feedforward.up": ("encoder.layer.#.intermediate.dense",),
    "layers.#.feedforward.down": ("encoder.layer.#.output.dense",),
    "layers.#.output_norm": ("encoder.layer.#.output.LayerNorm",),
}
_BERT_MODULES = {
    **_EMBEDDINGS,
    "embeddings.token_type": ("embeddings.token_type_embeddings",),
    "layers.#.attention.qkv": (
        "encoder.layer.#.attention.self.query",
        "encoder.layer.#.attention.self.key",
        "encoder.layer.#.attention.self.value",
    ),
    "layers.#.attention.output": ("encoder.layer.#.attention.output.dense",),
    "layers.#.attention_norm": ("encoder.layer.#.attention.output.LayerNorm",),
    **_FEEDFORWARD,
}
_DISTILBERT_MODULES = {
    **_EMBEDDINGS,
    "layers.#.attention.qkv": (
        "transformer.layer.#.attention.q_lin",
        "transformer.layer.#.attention.k_lin",
        "transformer.layer.#.attention.v_lin",
    ),
    "layers.#.attention.output": ("transformer.layer.#.attention.out_lin",),
    "layers.#.attention_norm": ("transformer.layer.#.sa_layer_norm",),
    "layers.#.feedforward.up": ("transformer.layer.#.ffn.lin1",),
    "layers.#.feedforward.down": ("transformer.layer.#.ffn.lin2",),
    "layers.#.output_norm": ("transformer.layer.#.output_layer_norm",),
}
_MPNET_MODULES = {
    **_EMBEDDINGS,
    "relative_bias": ("encoder.relative_attention_bias",),
    "layers.#.attention.qkv": (
        "encoder.layer.#.attention.attn.q",
        "encoder.layer.#.attention.attn.k",
        "encoder.layer.#.attention.attn.v",
    ),
    "layers.#.attention.output": ("encoder.layer.#.attention.attn.o",),
    "layers.#.attention_norm": ("encoder.layer.#.attention.LayerNorm",),
    **_FEEDFORWARD,
}
_TWO_LAYER_HEAD = {"final_head.dense": ("classifier.dense",), "final_head.output": ("classifier.out_proj",)}
SPAN_HEAD: Names = {"final_head.output": ("qa_outputs",)}
"""What answers questions, in every family."""
_UNUSED_POOLER = r"pooler\.dense\.(weight|bias)"
_TOKEN_CLASSIFIER = r"classifier\.(weight|bias)"

_ROBERTA = Family(
    stem="Roberta",
    prefix="roberta.",
    fields=_ROBERTA_FIELDS,
    constants={"head_act": "tanh"},
    modules=_BERT_MODULES,
    head=_TWO_LAYER_HEAD,
    position_offset=None,
    ignored=(_UNUSED_POOLER, _TOKEN_CLASSIFIER),
)


def _like_roberta(stem: str, *, vocab_size: int) -> Family:
    fields = {**_ROBERTA_FIELDS, "vocab_size": ConfigField(key="vocab_size", default=vocab_size)}
    return Family(
        stem=stem,
        prefix=_ROBERTA.prefix,
        fields=fields,
        constants=_ROBERTA.constants,
        modules=_ROBERTA.modules,
        head=_ROBERTA.head,
        position_offset=None,
        ignored=_ROBERTA.ignored,
    )


FAMILIES: Mapping[str, Family] = {
    "bert": Family(
        stem="Bert",
        prefix="bert.",
        fields=_BERT_FIELDS,
        constants={"head_act": "tanh"},
        modules=_BERT_MODULES,
        head={"final_head.dense": ("bert.pooler.dense",), "final_head.output": ("classifier",)},
    ),
    "roberta": _like_roberta("Roberta", vocab_size=50265),
    "xlm-roberta": _like_roberta("XLMRoberta", vocab_size=30522),
    "camembert": _like_roberta("Camembert", vocab_size=30522),
    "electra": Family(
        stem="Electra",
        prefix="electra.",
        fields=_ELECTRA_FIELDS,
        constants={"head_act": "gelu"},
        modules={**_BERT_MODULES, "embeddings.projection": ("embeddings_project",)},
        head=_TWO_LAYER_HEAD,
        ignored=(_TOKEN_CLASSIFIER,),
    ),
    "distilbert": Family(
        stem="DistilBert",
        prefix="distilbert.",
        fields=_DISTILBERT_FIELDS,
        constants={"head_act": "relu", "type_vocab_size": 0, "layer_norm_eps": 1e-12},
        modules=_DISTILBERT_MODULES,
        head={"final_head.dense": ("pre_classifier",), "final_head.output": ("classifier",)},
        dropout_key="seq_classif_dropout",
        dropout_default=0.2,
    ),
    "mpnet": Family(
        stem="MPNet",
        prefix="mpnet.",
        fields=_MPNET_FIELDS,
        constants={"head_act": "tanh", "type_vocab_size": 0},
        modules=_MPNET_MODULES,
        head=_TWO_LAYER_HEAD,
        dropout_key=None,
        # MPNet's code counts from padding id 1 whatever its config says.
        position_offset=2,
        ignored=(_UNUSED_POOLER, _TOKEN_CLASSIFIER),
    ),
}
"""Supported encoders by their Hugging Face ``model_type``."""

_PRETRAINING_HEADS = (
    "cls|lm_head|qa_outputs|discriminator_predictions|generator_predictions|generator_lm_head|sequence_summary"
    "|vocab_transform|vocab_layer_norm|vocab_projector"
)
IGNORED = (
    rf"({_PRETRAINING_HEADS})\..*",
    r"embeddings\.(position_ids|token_type_ids)",
)
"""Regular expressions of weights, prefix removed, that no family's classifier needs."""

LEGACY_SUFFIXES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""Spellings of checkpoints converted from TensorFlow."""

REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "position_embedding_type": (("absolute", None), "only absolute positions are supported"),
    "is_decoder": ((False, None), "only encoders are supported"),
    "is_encoder_decoder": ((False, None), "only encoders are supported"),
    "add_cross_attention": ((False, None), "only encoders are supported"),
    "pruned_heads": (({}, None), "checkpoints with removed heads are not supported"),
    "quantization_config": ((None,), "save the checkpoint in full precision first"),
}
"""Config keys that change the arithmetic: the values that do not, and what to say about the others."""

"""What a model is: its backbone, its task, how it exits; the ways to prune stand in ``prune``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from magic_pyramid.config.base import Config, check_choice, check_within
from magic_pyramid.config.prune import AnyPruneConfig
from magic_pyramid.config.span import SpanConfig
from magic_pyramid.errors import ConfigError

ProblemType = Literal["single_label", "multi_label", "regression", "span"]
SPAN_LABELS = ("start", "end")
"""Labels of a model that answers with a part of a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig(Config):
    """Shape of the encoder; what differs between BERT, RoBERTa, ELECTRA, DistilBERT and MPNet is here."""

    model_type: str
    """Hugging Face `model_type` of the checkpoint this backbone came from."""
    vocab_size: int
    """Number of token ids."""
    hidden_size: int
    """Width of a hidden state."""
    num_hidden_layers: int
    """Number of transformer layers."""
    num_attention_heads: int
    """Attention heads per layer; divides `hidden_size`."""
    intermediate_size: int
    """Width inside the feed-forward block."""
    max_position_embeddings: int
    """Rows of the position table, offset included."""
    position_offset: int = 0
    """Row of the position table that the first token uses (RoBERTa and MPNet: pad id + 1)."""
    type_vocab_size: int = 2
    """Number of token types; 0 when the backbone has none."""
    pad_token_id: int = 0
    """Token id of padding."""
    sep_token_id: int | None = None
    """Token id of the separator, which `prune.protect_sep` keeps."""
    embedding_size: int | None = None
    """Width of the embeddings where it differs from `hidden_size` (ELECTRA); None: the same."""
    relative_attention_num_buckets: int = 0
    """Buckets of the relative position bias (MPNet); 0: no such bias."""
    hidden_act: str = "gelu"
    """Activation inside the feed-forward block, by its Hugging Face name."""
    head_act: str = "tanh"
    """Activation inside the final head, by its Hugging Face name."""
    layer_norm_eps: float = 1e-12
    """Epsilon of every LayerNorm."""
    hidden_dropout: float = 0.1
    """Dropout on hidden states while training, in [0, 1)."""
    attention_dropout: float = 0.1
    """Dropout on attention probabilities while training, in [0, 1)."""
    classifier_dropout: float = 0.1
    """Dropout before classifier layers while training, in [0, 1)."""

    def __post_init__(self) -> None:
        check_within("backbone", "num_attention_heads", self.num_attention_heads, 1, 1_000_000)
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads "
                f"{self.num_attention_heads}; choose a divisor"
            )

    @property
    def max_length(self) -> int:
        """Longest input in tokens, special tokens included."""
        return self.max_position_embeddings - self.position_offset


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitConfig(Config):
    """Early exits: which layers have a head, what it looks like, and when a sequence may leave."""

    head: Literal["fastbert", "cls", "block"] = "fastbert"
    """Exit head: FastBERT's small attention, a [CLS] pooler (DeeBERT), or a full transformer block."""
    head_size: int = 128
    """Width of the `fastbert` head."""
    head_attention_heads: int = 2
    """Attention heads of the `fastbert` head."""
    layers: tuple[int, ...] | None = None
    """0-based layers that have an exit head; None: all but the last."""
    criterion: Literal["entropy", "max_prob", "margin", "patience"] = "entropy"
    """What is compared with `threshold`; a sequence leaves at the first layer that passes."""
    threshold: float | tuple[float, ...] | None = 0.1
    """Leave where the uncertainty is at most this, in [0, 1], or this exit layer's value; None: never. With
    `patience`, 1 / t waits for t heads in a row that agree."""
    tested_layers: tuple[int, ...] | None = None
    """0-based layers whose head is asked by default; None: all with a head."""
    patience: int | None = None
    """Heads in a row that must agree (criterion `patience`): another way to set `threshold` to 1 / this."""
    patience_tolerance: float = 0.05
    """Regression: two heads agree when their outputs differ by at most this (criterion `patience`); `train`
    takes a twentieth of the range of the train labels."""
    kl: Literal["forward", "reverse"] = "forward"
    """Direction of the self-distillation loss: KL(teacher, exit), or, as the papers print it, its reverse."""

    def __post_init__(self) -> None:
        check_choice("exit", "head", self.head, Literal["fastbert", "cls", "block"])
        check_choice(
            "exit", "criterion", self.criterion, Literal["entropy", "max_prob", "margin", "patience"]
        )
        check_choice("exit", "kl", self.kl, Literal["forward", "reverse"])
        check_within("exit", "head_size", self.head_size, 1, 100_000)
        check_within("exit", "head_attention_heads", self.head_attention_heads, 1, self.head_size)
        if self.patience is not None:
            check_within("exit", "patience", self.patience, 1, 1000)
            if self.criterion != "patience":
                raise ConfigError(
                    f"exit.patience is {self.patience}, but exit.criterion is {self.criterion!r}; "
                    "set the criterion to patience, or leave patience out"
                )
            if self.threshold is not None:
                object.__setattr__(self, "threshold", 1.0 / self.patience)
            object.__setattr__(self, "patience", None)
        check_exit_threshold(self.threshold)
        if self.head_size % self.head_attention_heads:
            raise ConfigError(
                f"exit.head_size {self.head_size} is not divisible by exit.head_attention_heads "
                f"{self.head_attention_heads}; choose a divisor"
            )


def check_exit_threshold(value: float | tuple[float, ...] | None, *, heads: int | None = None) -> None:
    """Raise ConfigError unless the value can be an exit threshold, or one for each of so many heads."""
    if isinstance(value, tuple) and heads not in (None, len(value)):
        raise ConfigError(f"exit_threshold has {len(value)} values; give one, or {heads}: one an exit head")
    for one in value if isinstance(value, tuple) else () if value is None else (value,):
        if isinstance(one, bool) or not isinstance(one, int | float) or not 0.0 <= one <= 1.0:
            raise ConfigError(
                f"exit_threshold is {one!r}; it must lie in [0, 1] (larger leaves earlier) "
                "or be None (run every layer)"
            )


def check_exit_layers(name: str, layers: Sequence[int] | None, possible: Sequence[int]) -> None:
    """Raise ConfigError unless exits stand, or can stand, after each of these layers."""
    for layer in layers or ():
        if layer not in possible:
            words = ", ".join(map(str, possible)) or "no layer"
            raise ConfigError(f"{name} contains {layer!r}; exits stand after {words} (counted from 0)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(Config):
    """One model: a backbone, a task, and at most one way to prune and one way to exit."""

    backbone: BackboneConfig
    """The encoder."""
    labels: tuple[str, ...]
    """Label names in the order of the logits; one name for regression; start and end for spans."""
    problem_type: ProblemType = "single_label"
    """`single_label` (softmax), `multi_label` (sigmoid per label), `regression` (one number) or `span` (a
    part of the second text)."""
    final_head: Literal["cls", "fastbert"] = "cls"
    """Classifier after the last layer: the backbone's own [CLS] head, or FastBERT's."""
    max_length: int = 128
    """Longer inputs are cut to this many tokens, special tokens included."""
    prune: AnyPruneConfig | None = None
    """Token pruning, of the kind that its field `kind` names; None keeps every token."""
    exit: ExitConfig | None = None
    """Early exits; None runs every layer."""
    span: SpanConfig | None = None
    """How questions are answered; None for every problem type but `span`."""

    def __post_init__(self) -> None:
        check_choice("model", "problem_type", self.problem_type, ProblemType)
        check_choice("model", "final_head", self.final_head, Literal["cls", "fastbert"])
        check_within("model", "max_length", self.max_length, 2, self.backbone.max_length)
        if not self.labels:
            raise ConfigError("model.labels is empty; give at least one label name")
        self._check_layers()
        self._check_criterion()
        self._check_span()

    def _check_layers(self) -> None:
        num_layers = self.backbone.num_hidden_layers
        if self.prune:
            self.prune.check_layers(num_layers)
        if self.exit:
            check_exit_layers("exit.layers", self.exit.layers, range(num_layers - 1))
            check_exit_layers("exit.tested_layers", self.exit.tested_layers, self.exit_layers)
            check_exit_threshold(self.exit.threshold, heads=len(self.exit_layers))

    def _check_criterion(self) -> None:
        if self.exit is None or self.exit.criterion == "patience":
            return
        if self.problem_type == "regression":
            raise ConfigError(
                f"exit.criterion is {self.exit.criterion!r}, which is not defined for regression; "
                "use 'patience'"
            )
        if self.problem_type == "multi_label" and self.exit.criterion == "margin":
            raise ConfigError(
                "exit.criterion is 'margin', which is not defined for multi_label; use another criterion"
            )

    def _check_span(self) -> None:
        if (self.problem_type == "span") != (self.span is not None):
            raise ConfigError(
                f"model.problem_type is {self.problem_type!r} and model.span is {self.span!r}; the problem "
                "type 'span' needs it, and no other has it"
            )
        if self.span is None:
            return
        if self.labels != SPAN_LABELS:
            raise ConfigError(
                f"model.labels is {self.labels!r}; for the problem type 'span' it is {SPAN_LABELS}"
            )
        if self.exit is not None:
            raise ConfigError(
                "model.exit is set, but a model that answers questions runs every layer; use a preset "
                "without exits, such as ltp, top or bert"
            )

    @property
    def num_labels(self) -> int:
        """Number of label names."""
        return len(self.labels)

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """Logits of one input: one a label, or for spans one a label and place of a token."""
        return (self.num_labels,) if self.span is None else (self.num_labels, self.max_length)

    @property
    def final_head_kind(self) -> Literal["cls", "fastbert", "span"]:
        """What stands after the last layer."""
        return self.final_head if self.span is None else "span"

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """0-based layers that have an exit head, ascending."""
        if self.exit is None:
            return ()
        if self.exit.layers is None:
            return tuple(range(self.backbone.num_hidden_layers - 1))
        return tuple(sorted(set(self.exit.layers)))

"""Every setting, as frozen data: what a model is, how it prunes, how it exits, how it is trained.

The string under a field is its only description; ``--help``, the docs and the tests read it from here.
"""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Self, Union, get_args, get_origin

from magic_pyramid.errors import ConfigError, nearest

FORMAT_VERSION = 1
"""Version of the saved config; a folder with a larger one was written by a newer release."""

ProblemType = Literal["single_label", "multi_label", "regression"]
StageName = Literal["finetune", "soft_prune", "hard_prune", "distill_exits"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)


class Config:
    """What all configs share: JSON both ways, and errors that name the nearest known field."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; ``from_dict`` gives back an equal config."""
        return {f.name: _to_json(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from JSON data.

        Raises:
            ConfigError: a key is unknown (the nearest known one is named) or a value is impossible.
        """
        hints = typing.get_type_hints(cls)
        known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for key in data:
            if key not in known:
                raise ConfigError(f"{cls.__name__} has no field {key!r}; {nearest(key, known)}")
        try:
            return cls(**{key: _from_json(hints[key], value) for key, value in data.items()})
        except TypeError as error:
            raise ConfigError(f"{cls.__name__} cannot be built: {error}") from None

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again."""
        return self.from_dict({**self.to_dict(), **{k: _to_json(v) for k, v in changes.items()}})


def _to_json(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    return value


def _from_json(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        # Of a number and a list of numbers, the list is named last.
        kinds = [a for a in arguments if a is not type(None)]
        return _from_json(kinds[-1 if isinstance(value, list | tuple) else 0], value)
    if isinstance(hint, type) and issubclass(hint, Config):
        return value if isinstance(value, hint) else hint.from_dict(value)
    if origin is tuple:
        return tuple(_from_json(arguments[0], item) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


@cache
def field_docs(cls: type[Config]) -> dict[str, str]:
    """Description of each field of a config class: the string that follows it in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    docs = {}
    for statement, following in zip(body, body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            docs[statement.target.id] = " ".join(str(following.value.value).split())  # type: ignore[union-attr,attr-defined]
    return docs


def _choice(owner: str, name: str, value: object, hint: Any) -> None:
    if value not in get_args(hint):
        raise ConfigError(f"{owner}.{name} is {value!r}; {nearest(str(value), get_args(hint))}")


def _within(owner: str, name: str, value: float, low: float, high: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ConfigError(f"{owner}.{name} is {value!r}; it must lie in [{low}, {high}]")


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
        _within("backbone", "num_attention_heads", self.num_attention_heads, 1, 1_000_000)
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
class PruneConfig(Config):
    """Learned-threshold token pruning (LTP section 3, Magic Pyramid section 3.1)."""

    score_norm: Literal["kept", "input", "fixed"] = "kept"
    """What the attention mass is divided by: tokens alive now, tokens of the input, or `fixed_length`."""
    fixed_length: int = 128
    """The divisor when `score_norm` is `fixed` (LTP's padded length)."""
    final_threshold: float = 0.01
    """Initial token threshold of the last layer (Magic Pyramid: 0.01 to 0.08); it rises linearly to it."""
    threshold_index: Literal["one_based", "zero_based"] = "one_based"
    """Layer l of L starts at final * l / L counted from one (Magic Pyramid) or from zero (LTP)."""
    manual_thresholds: tuple[float, ...] | None = None
    """Initial token thresholds given one by one, first layer first; None: the linear ramp."""
    learn_thresholds: bool = True
    """Train the thresholds in `soft_prune`; False is LTP's manual-threshold baseline."""
    temperature: float = 1e-3
    """Softness of the soft mask, > 0 (LTP: 1e-4 to 2e-3)."""
    penalty: float = 0.05
    """Weight of the mean soft mask in the loss (lambda; papers: 0.001 to 0.2)."""
    penalty_norm: Literal["valid", "padded"] = "valid"
    """Average the soft mask over real tokens, or over the padded width as LTP's code does."""
    gate_cls: bool = False
    """Apply the soft mask to the first token too (LTP's code does; it is never removed either way)."""
    cumulative_gate: bool = False
    """Multiply soft masks over the layers, which mimics that removal is for good."""
    protect_sep: bool = False
    """Never prune separator tokens."""
    scale: float = 1.0
    """Run-time multiplier of all token thresholds, >= 0: the width half of the speed knob."""

    def __post_init__(self) -> None:
        _choice("prune", "score_norm", self.score_norm, Literal["kept", "input", "fixed"])
        _choice("prune", "threshold_index", self.threshold_index, Literal["one_based", "zero_based"])
        _choice("prune", "penalty_norm", self.penalty_norm, Literal["valid", "padded"])
        _within("prune", "fixed_length", self.fixed_length, 1, 1_000_000)
        _within("prune", "final_threshold", self.final_threshold, 0.0, 1.0)
        _within("prune", "temperature", self.temperature, 1e-8, 1.0)
        _within("prune", "penalty", self.penalty, 0.0, 1e6)
        _within("prune", "scale", self.scale, 0.0, 1e6)
        for value in self.manual_thresholds or ():
            _within("prune", "manual_thresholds", value, 0.0, 1.0)


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
    """Leave where the uncertainty is at most this, in [0, 1], or this exit layer's value; None: never."""
    tested_layers: tuple[int, ...] | None = None
    """0-based layers whose head is asked by default; None: all with a head."""
    patience: int = 3
    """Layers in a row that must agree before a sequence leaves (criterion `patience`)."""
    patience_tolerance: float = 0.05
    """Regression: two layers agree when their outputs differ by at most this (criterion `patience`)."""
    kl: Literal["forward", "reverse"] = "forward"
    """Direction of the self-distillation loss: KL(teacher, exit), or, as the papers print it, its reverse."""

    def __post_init__(self) -> None:
        _choice("exit", "head", self.head, Literal["fastbert", "cls", "block"])
        _choice("exit", "criterion", self.criterion, Literal["entropy", "max_prob", "margin", "patience"])
        _choice("exit", "kl", self.kl, Literal["forward", "reverse"])
        _within("exit", "patience", self.patience, 1, 1000)
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
    """Label names in the order of the logits; one name for regression."""
    problem_type: ProblemType = "single_label"
    """`single_label` (softmax), `multi_label` (sigmoid per label) or `regression` (one number)."""
    final_head: Literal["cls", "fastbert"] = "cls"
    """Classifier after the last layer: the backbone's own [CLS] head, or FastBERT's."""
    max_length: int = 128
    """Longer inputs are cut to this many tokens, special tokens included."""
    prune: PruneConfig | None = None
    """Token pruning; None keeps every token."""
    exit: ExitConfig | None = None
    """Early exits; None runs every layer."""

    def __post_init__(self) -> None:
        _choice("model", "problem_type", self.problem_type, ProblemType)
        _choice("model", "final_head", self.final_head, Literal["cls", "fastbert"])
        _within("model", "max_length", self.max_length, 2, self.backbone.max_length)
        if not self.labels:
            raise ConfigError("model.labels is empty; give at least one label name")
        self._check_layers()
        self._check_criterion()

    def _check_layers(self) -> None:
        num_layers = self.backbone.num_hidden_layers
        if self.prune and self.prune.manual_thresholds and len(self.prune.manual_thresholds) != num_layers:
            raise ConfigError(
                f"prune.manual_thresholds has {len(self.prune.manual_thresholds)} values; "
                f"the backbone has {num_layers} layers, give one each"
            )
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

    @property
    def num_labels(self) -> int:
        """Number of logits."""
        return len(self.labels)

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """0-based layers that have an exit head, ascending."""
        if self.exit is None:
            return ()
        if self.exit.layers is None:
            return tuple(range(self.backbone.num_hidden_layers - 1))
        return tuple(sorted(set(self.exit.layers)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Config):
    """How the stages are trained. The defaults are ours; the papers' values are the named recipes."""

    epochs: dict[str, float] = field(
        default_factory=lambda: {"finetune": 3.0, "soft_prune": 1.0, "hard_prune": 1.0, "distill_exits": 2.0}
    )
    """Epochs per stage; a stage with 0 epochs, or with nothing to train, is skipped."""
    min_steps: int = 300
    """A small train split is repeated, up to 10 epochs, until a stage makes about so many steps; 0: never."""
    learning_rate: float | None = None
    """Peak learning rate of the backbone; None: 2e-5 at width 768, times (768 / width) squared."""
    learning_rate_final_head: float | None = 1e-3
    """Peak learning rate of the final head in `finetune`, where it is new; None: as the backbone."""
    learning_rate_exits: float = 1e-3
    """Peak learning rate of the exit heads."""
    learning_rate_thresholds: float = 2e-5
    """Peak learning rate of the token thresholds."""
    weight_decay: float = 0.01
    """AdamW weight decay of matrices; biases, norms and thresholds have none."""
    warmup: float = 0.1
    """Share of the steps of `finetune` and `distill_exits` in which the learning rate rises."""
    dropout: float | None = None
    """Dropout in the encoder while training, in [0, 1); None: what the encoder was trained with."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm, thresholds apart from the rest."""
    tokens_per_batch: int = 2048
    """Token budget of one batch."""
    max_sequences_per_batch: int = 32
    """At most this many sequences in one batch, whatever the budget."""
    gradient_accumulation: int = 1
    """Batches whose gradients are summed before a step."""
    distill_weight: float = 0.5
    """Share of the label loss replaced by KL to the fine-tuned model in the pruning stages, in [0, 1]."""
    distill_temperature: float = 2.0
    """Temperature of that KL."""
    joint_exits: float = 1.0
    """Weight of the exits' mean loss while the backbone trains; 0 trains them in `distill_exits` only."""
    max_drop: float = 0.5
    """Points of validation accuracy that the chosen exit threshold may cost."""
    validation_share: float = 0.1
    """Part of train held out where the data has no validation split."""
    seed: int = 0
    """Seed of initialisation, order and dropout."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass; thresholds and scores stay fp32."""

    def __post_init__(self) -> None:
        for name in self.epochs:
            if name not in STAGE_NAMES:
                raise ConfigError(f"train.epochs names the stage {name!r}; {nearest(name, STAGE_NAMES)}")
        for value in self.epochs.values():
            _within("train", "epochs", value, 0.0, 10_000.0)
        _choice("train", "precision", self.precision, Literal["fp32", "bf16", "fp16"])
        _within("train", "tokens_per_batch", self.tokens_per_batch, 1, 10_000_000)
        _within("train", "max_sequences_per_batch", self.max_sequences_per_batch, 1, 1_000_000)
        _within("train", "gradient_accumulation", self.gradient_accumulation, 1, 100_000)
        _within("train", "distill_weight", self.distill_weight, 0.0, 1.0)
        if self.dropout is not None:
            _within("train", "dropout", self.dropout, 0.0, 0.99)
        _within("train", "joint_exits", self.joint_exits, 0.0, 1000.0)
        _within("train", "validation_share", self.validation_share, 0.0, 0.9)
        _within("train", "max_drop", self.max_drop, 0.0, 100.0)

    def epochs_of(self, stage: str) -> float:
        """Epochs of a stage; a stage that is not named runs for none."""
        return float(self.epochs.get(stage, 0.0))

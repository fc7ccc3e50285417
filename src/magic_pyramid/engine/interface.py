"""What every engine takes and gives, so that the classifier need not know which one runs."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from magic_pyramid.config import ModelConfig, PruneConfig, check_exit_layers, check_exit_threshold
from magic_pyramid.cost import CostModel
from magic_pyramid.errors import ConfigError
from magic_pyramid.exit_thresholds import ExitThreshold, threshold_after
from magic_pyramid.tokenization import EncodedTexts


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The speed knob: how much width and depth a call may save."""

    prune_scale: float = 1.0
    """Strength of token pruning, >= 0: larger removes more, 0 removes nothing, 1 is as trained."""
    exit_threshold: ExitThreshold | None = None
    """Leave at the first layer whose uncertainty is at most this, in [0, 1]; None runs every layer. A tuple
    has a value for each exit layer of the model, asked or not."""
    exit_layers: tuple[int, ...] | None = None
    """0-based layers whose exit head is asked; None: every layer that has one."""

    def __post_init__(self) -> None:
        check_exit_threshold(self.exit_threshold)
        is_number = isinstance(self.prune_scale, int | float) and not isinstance(self.prune_scale, bool)
        if not is_number or not 0.0 <= self.prune_scale < float("inf"):
            raise ConfigError(
                f"prune_scale is {self.prune_scale!r}; it must be a number >= 0 (1 = as trained)"
            )


DENSE = Setting(prune_scale=0.0)
"""Every token through every layer: the baseline of a speed-up."""


def default_setting(config: ModelConfig) -> Setting:
    """The knobs as they are stored in a model."""
    return Setting(
        prune_scale=config.prune.scale if config.prune else 0.0,
        exit_threshold=config.exit.threshold if config.exit else None,
        exit_layers=config.exit.tested_layers if config.exit else None,
    )


def compares_thresholds(config: ModelConfig) -> bool:
    """Whether a model prunes not at all, or by what our own engines can do.

    That is to compare importance with thresholds that are known before the attention.
    """
    prune = config.prune
    return prune is None or (isinstance(prune, PruneConfig) and prune.score_norm != "max")


def threshold_pruning(config: ModelConfig, *, engine: str) -> PruneConfig | None:
    """How a model prunes, for an engine that can compare importance with thresholds and nothing else.

    Raises:
        ConfigError: the model prunes in another way.
    """
    check_classifies(config, what=engine)
    prune = config.prune
    if prune is None or (isinstance(prune, PruneConfig) and compares_thresholds(config)):
        return prune
    way = "relative ones (score_norm 'max')" if isinstance(prune, PruneConfig) else prune.kind
    raise ConfigError(f"{engine} prunes by token thresholds, and this model by {way}; use engine='torch'")


def check_classifies(config: ModelConfig, *, what: str) -> None:
    """Raise ConfigError for a model that answers with a part of a text, which only PyTorch runs."""
    if config.span is not None:
        raise ConfigError(
            f"{what} is for classifiers, and this model answers questions (problem_type 'span'); use "
            "QuestionAnswering, which runs in PyTorch"
        )


def layers_tested(config: ModelConfig, setting: Setting) -> tuple[int, ...]:
    """0-based layers whose exit head is asked under a setting, ascending; none where exits are off.

    Raises:
        ConfigError: the setting names a layer that has no exit head, or has another number of thresholds.
    """
    check_exit_layers("exit_layers", setting.exit_layers, config.exit_layers)
    if setting.exit_threshold is None:
        return ()
    if config.exit is not None:
        check_exit_threshold(setting.exit_threshold, heads=len(config.exit_layers))
    return config.exit_layers if setting.exit_layers is None else tuple(sorted(set(setting.exit_layers)))


def thresholds_by_layer(
    config: ModelConfig, setting: Setting, *, unasked: float
) -> Float32[np.ndarray, " layers"]:
    """What each layer's exit head compares with; ``unasked`` where none is asked.

    Raises:
        ConfigError: as ``layers_tested``.
    """
    thresholds = np.full(config.backbone.num_hidden_layers, unasked, dtype=np.float32)
    for layer in layers_tested(config, setting):
        thresholds[layer] = threshold_after(config, setting.exit_threshold or 0.0, layer)
    return thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOutput:
    """Answers and receipts, in input order."""

    logits: Float32[np.ndarray, "inputs *answer"]
    """Of the head that answered, each of ``ModelConfig.logits_shape``."""
    exit_layer: Int64[np.ndarray, " inputs"]
    """0-based layer whose head answered; the last layer is the final head."""
    num_tokens: Int64[np.ndarray, "inputs layers_plus_1"]
    """Column 0: tokens of the input; column l + 1: tokens alive after layer l, 0 where it did not run."""

    @classmethod
    def empty(cls, count: int, config: ModelConfig) -> Self:
        """Zeros for so many inputs, to be written into."""
        return cls(
            logits=np.zeros((count, *config.logits_shape), dtype=np.float32),
            exit_layer=np.zeros(count, dtype=np.int64),
            num_tokens=np.zeros((count, config.backbone.num_hidden_layers + 1), dtype=np.int64),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AllAnswers:
    """What all heads say at one prune scale when nobody leaves."""

    logits: dict[int, Float32[np.ndarray, "inputs *answer"]]
    """Of each exit layer and, under the last layer, of the final head."""
    num_tokens: Int64[np.ndarray, "inputs layers_plus_1"]
    """As in ``EngineOutput``, every layer run."""

    @classmethod
    def empty(cls, count: int, config: ModelConfig) -> Self:
        """Zeros for so many inputs, to be written into."""
        output = EngineOutput.empty(count, config)
        last = config.backbone.num_hidden_layers - 1
        logits = {layer: np.zeros_like(output.logits) for layer in (*config.exit_layers, last)}
        return cls(logits=logits, num_tokens=output.num_tokens)


class Engine(Protocol):
    """Runs encoded texts under a setting."""

    name: ClassVar[str]
    """`torch`, `native`, `onnx` or `onnx-single`."""

    def run(self, encoded: EncodedTexts, *, setting: Setting, batch_size: int | None = None) -> EngineOutput:
        """Answer every input; rows come back in input order.

        Args:
            encoded: token ids, ragged.
            setting: the speed knob.
            batch_size: sequences per batch; None fills batches up to the engine's token budget.
        """
        ...


@runtime_checkable
class AsksAllHeads(Protocol):
    """An engine that can also say what every head would answer."""

    def answer_all_heads(self, encoded: EncodedTexts, *, scale: float) -> AllAnswers:
        """Run every layer, tokens removed at this multiple of the thresholds, and ask every head."""
        ...


def flops_of(config: ModelConfig, output: "EngineOutput", setting: Setting) -> np.ndarray:
    """FLOPs of each input; the exit heads that were asked are charged."""
    asked = layers_tested(config, setting)
    return CostModel(config).flops(
        output.num_tokens, output.exit_layer, tested_layers=asked, prune_scale=setting.prune_scale
    )

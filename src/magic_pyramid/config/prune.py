"""The ways to prune tokens, each a frozen config with a ``kind`` of its own."""

from dataclasses import dataclass
from typing import Literal

from magic_pyramid.config.base import Config, check_choice, check_within
from magic_pyramid.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneConfig(Config):
    """Learned-threshold token pruning (LTP section 3, Magic Pyramid section 3.1)."""

    kind: Literal["threshold"] = "threshold"
    """What a config folder calls this way to prune."""
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
    fade_attention: bool = False
    """While masks are soft, let tokens fade as keys and queries too, as if removed by their soft mask."""
    protect_sep: bool = False
    """Never prune separator tokens."""
    scale: float = 1.0
    """Run-time multiplier of all token thresholds, >= 0: the width half of the speed knob."""

    def __post_init__(self) -> None:
        check_choice("prune", "kind", self.kind, Literal["threshold"])
        check_choice("prune", "score_norm", self.score_norm, Literal["kept", "input", "fixed"])
        check_choice("prune", "threshold_index", self.threshold_index, Literal["one_based", "zero_based"])
        check_choice("prune", "penalty_norm", self.penalty_norm, Literal["valid", "padded"])
        check_within("prune", "fixed_length", self.fixed_length, 1, 1_000_000)
        check_within("prune", "final_threshold", self.final_threshold, 0.0, 1.0)
        check_within("prune", "temperature", self.temperature, 1e-8, 1.0)
        check_within("prune", "penalty", self.penalty, 0.0, 1e6)
        check_within("prune", "scale", self.scale, 0.0, 1e6)
        for value in self.manual_thresholds or ():
            check_within("prune", "manual_thresholds", value, 0.0, 1.0)

    @property
    def learns(self) -> bool:
        """Whether `soft_prune` trains the pruner itself."""
        return self.learn_thresholds

    @property
    def needs_budget(self) -> bool:
        """Whether it learns to remove tokens only where a speed-up is asked for; here the penalty does it."""
        return False

    @property
    def start(self) -> tuple[object, ...]:
        """What decides the pruner's values before training."""
        return self.kind, self.final_threshold, self.threshold_index, self.manual_thresholds

    def check_layers(self, num_layers: int) -> None:
        """Raise ConfigError unless the settings fit a backbone of so many layers."""
        if self.manual_thresholds and len(self.manual_thresholds) != num_layers:
            raise ConfigError(
                f"prune.manual_thresholds has {len(self.manual_thresholds)} values; "
                f"the backbone has {num_layers} layers, give one each"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RankBinsConfig(Config):
    """Learned shares of the tokens ranked by attention (ToP, KDD 2023)."""

    kind: Literal["rank_bins"] = "rank_bins"
    """What a config folder calls this way to prune."""
    layers: tuple[int, ...] | None = None
    """0-based layers that may prune, each behind its attention; None: all but the first and the last."""
    num_bins: int = 50
    """Bins of relative rank that each layer keeps or removes (ToP: 20 to 100)."""
    selection: Literal["ranked_topk", "bins"] = "ranked_topk"
    """Keep the most attended tokens, as many as the bins amount to, or exactly the tokens of those bins."""
    scale: float = 1.0
    """Run-time multiplier of the share of tokens removed, >= 0: the width half of the speed knob."""

    def __post_init__(self) -> None:
        check_choice("prune", "kind", self.kind, Literal["rank_bins"])
        check_choice("prune", "selection", self.selection, Literal["ranked_topk", "bins"])
        check_within("prune", "num_bins", self.num_bins, 1, 10_000)
        check_within("prune", "scale", self.scale, 0.0, 1e6)

    @property
    def learns(self) -> bool:
        """`soft_prune` always trains the variables."""
        return True

    @property
    def penalty(self) -> float:
        """Soft masks cost nothing; a budget asks for removal."""
        return 0.0

    @property
    def needs_budget(self) -> bool:
        """Whether it learns to remove tokens only where a speed-up is asked for."""
        return True

    @property
    def start(self) -> tuple[object, ...]:
        """What decides the pruner's values before training."""
        return self.kind, self.layers, self.num_bins

    def layers_of(self, num_layers: int) -> tuple[int, ...]:
        """The layers that may prune in a backbone of so many, ascending."""
        if self.layers is None:
            return tuple(range(1, num_layers - 1))
        return tuple(sorted(set(self.layers)))

    def check_layers(self, num_layers: int) -> None:
        """Raise ConfigError unless the settings fit a backbone of so many layers."""
        for layer in self.layers or ():
            if not 0 <= layer < num_layers:
                raise ConfigError(f"prune.layers contains {layer!r}; the layers are 0 to {num_layers - 1}")


AnyPruneConfig = PruneConfig | RankBinsConfig
"""One of the ways to prune; in JSON ``kind`` says which, and the first is meant where it is missing."""

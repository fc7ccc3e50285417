"""The ways to prune tokens, each a frozen config with a ``kind`` of its own."""

import dataclasses
import math
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from magic_pyramid.config.base import Config, check_choice, check_within, kind_of
from magic_pyramid.errors import ConfigError, nearest


class AnyPruneConfig(Config, ABC):
    """What every way to prune says about itself, and what holds for one that does not say otherwise.

    Stands for all of them where JSON data is read: its ``kind`` says which it is, and the first of
    ``PRUNE_KINDS`` is meant where it is missing.
    """

    __slots__ = ()
    kind: str
    """What a config folder calls this way to prune; constant."""
    scale: float
    """Run-time strength, >= 0: 0 removes nothing, 1 what was trained, more removes more."""

    @classmethod
    def variant_of(cls, data: object) -> type[Config]:
        """The class whose ``kind`` the data names.

        Raises:
            ConfigError: there is none, or the data is no object.
        """
        if cls is not AnyPruneConfig:
            return cls
        if not isinstance(data, Mapping):
            raise ConfigError(f"prune is {data!r}; it must be an object")
        kind = data.get("kind", next(iter(PRUNE_KINDS)))
        if kind not in PRUNE_KINDS:
            raise ConfigError(f"kind is {kind!r}; {nearest(str(kind), PRUNE_KINDS)}")
        return PRUNE_KINDS[kind]

    @property
    def learns(self) -> bool:
        """Whether `soft_prune` trains the pruner itself."""
        return False

    @property
    def softens(self) -> bool:
        """Whether there are soft masks, and with them a stage `soft_prune`."""
        return self.learns

    @property
    def penalty(self) -> float:
        """Weight of what soft masks cost in the loss, >= 0."""
        return 0.0

    @property
    def needs_budget(self) -> bool:
        """Whether it learns to remove tokens only where a speed-up is asked for."""
        return False

    @property
    def meets_budget(self) -> bool:
        """Whether a speed-up that is asked for decides how much is removed, without training."""
        return False

    @property
    def start(self) -> tuple[object, ...]:
        """What decides the pruner's values before training."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "scale"]  # type: ignore[arg-type]
        return tuple(getattr(self, name) for name in names)

    def check_layers(self, num_layers: int) -> None:
        """Raise ConfigError unless the settings fit a backbone of so many layers."""
        return

    def least_kept(self, num_layers: int) -> tuple[float, ...]:
        """Smallest share of an input's tokens that each layer can leave; one token always stays."""
        return (0.0,) * num_layers

    def heads_run(self, num_layers: int, num_heads: int, *, scale: float) -> tuple[int, ...]:
        """Attention heads that each layer runs for an input."""
        return (num_heads,) * num_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneConfig(AnyPruneConfig):
    """Learned-threshold token pruning (LTP section 3, Magic Pyramid section 3.1)."""

    kind: Literal["threshold"] = "threshold"
    """What a config folder calls this way to prune."""
    score_norm: Literal["kept", "input", "fixed", "max"] = "kept"
    """What the attention mass is divided by: tokens alive now, tokens of the input, `fixed_length`, or the
    mass of the most attended token, which makes thresholds relative."""
    fixed_length: int = 128
    """The divisor when `score_norm` is `fixed` (LTP's padded length)."""
    final_threshold: float = 0.01
    """Initial token threshold of the last layer (Magic Pyramid: 0.01 to 0.08); it rises linearly to it. Where
    texts are long and it is not given, `train` ends at three quarters of a token's average importance."""
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
    protect_sep: bool = False
    """Never prune separator tokens."""
    scale: float = 1.0
    """Run-time multiplier of all token thresholds, >= 0: the width half of the speed knob."""

    def __post_init__(self) -> None:
        check_choice("prune", "kind", self.kind, Literal["threshold"])
        check_choice("prune", "score_norm", self.score_norm, Literal["kept", "input", "fixed", "max"])
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
    def softens(self) -> bool:
        """Always: thresholds that do not learn still weight the tokens the backbone learns from."""
        return True

    @property
    def start(self) -> tuple[object, ...]:
        """What decides the pruner's values before training."""
        return self.kind, self.final_threshold, self.threshold_index, self.manual_thresholds

    def check_layers(self, num_layers: int) -> None:
        """Raise ConfigError unless the settings fit a backbone of so many layers."""
        if self.manual_thresholds is not None and len(self.manual_thresholds) != num_layers:
            raise ConfigError(
                f"prune.manual_thresholds has {len(self.manual_thresholds)} values; "
                f"the backbone has {num_layers} layers, give one each"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RankBinsConfig(AnyPruneConfig):
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
    def needs_budget(self) -> bool:
        """Soft masks cost nothing, so only a budget asks for removal."""
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

    def least_kept(self, num_layers: int) -> tuple[float, ...]:
        """Smallest share of an input's tokens that each layer can leave; the first may have to keep all."""
        first = min(self.layers_of(num_layers), default=num_layers)
        return tuple(1.0 if layer < first else 0.0 for layer in range(num_layers))


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCountsConfig(AnyPruneConfig):
    """Learned counts of the tokens that each layer keeps of any input (PoWER-BERT, ICML 2020)."""

    kind: Literal["rank_counts"] = "rank_counts"
    """What a config folder calls this way to prune."""
    penalty: float = 1e-4
    """Weight in the loss, where no speed-up is asked for, of the sum over ranks and layers of a rank's share
    times its layer's number counted from one (lambda; paper: 1e-4 to 7e-3)."""
    scale: float = 1.0
    """Run-time strength, >= 0: counts are divided by it, so 0 removes nothing."""

    def __post_init__(self) -> None:
        check_choice("prune", "kind", self.kind, Literal["rank_counts"])
        check_within("prune", "penalty", self.penalty, 0.0, 1e6)
        check_within("prune", "scale", self.scale, 0.0, 1e6)

    @property
    def learns(self) -> bool:
        """`soft_prune` always trains the shares."""
        return True

    @property
    def start(self) -> tuple[object, ...]:
        """Only that it is this kind: all tokens are kept before training."""
        return (self.kind,)


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeConfig(AnyPruneConfig):
    """A schedule of the tokens and attention heads that stay, nothing of it learned (SpAtten, HPCA 2021)."""

    kind: Literal["cascade"] = "cascade"
    """What a config folder calls this way to prune."""
    final_keep_ratio: float = 0.1
    """Share of an input's tokens that the last layer leaves, in [0, 1]; at least one token stays."""
    whole_layers: int | None = None
    """So many first layers keep every token; then the share falls linearly. None: 15 %, at least 3, but not
    the last."""
    accumulate: bool = True
    """Rank tokens by the attention they received in all layers so far; False: in this layer only."""
    final_head_ratio: float = 0.75
    """Share of the attention heads that the last layer runs, in (0, 1]; 1 removes none."""
    whole_head_layers: int | None = None
    """So many first layers, at least one, run every head; then the share falls linearly. None: 30 %."""
    scale: float = 1.0
    """Run-time multiplier of the shares of tokens and heads removed, >= 0."""

    def __post_init__(self) -> None:
        check_choice("prune", "kind", self.kind, Literal["cascade"])
        check_within("prune", "final_keep_ratio", self.final_keep_ratio, 0.0, 1.0)
        check_within("prune", "final_head_ratio", self.final_head_ratio, 1e-6, 1.0)
        check_within("prune", "scale", self.scale, 0.0, 1e6)

    @property
    def meets_budget(self) -> bool:
        """`final_keep_ratio` is the one number that a speed-up decides."""
        return True

    def check_layers(self, num_layers: int) -> None:
        """Raise ConfigError unless the settings fit a backbone of so many layers."""
        for name, least in (("whole_layers", 0), ("whole_head_layers", 1)):
            value = getattr(self, name)
            if value is not None:
                check_within("prune", name, value, least, num_layers)

    def keep_ratios(self, num_layers: int, *, final: float | None = None) -> tuple[float, ...]:
        """Share of an input's tokens that each layer leaves.

        Args:
            num_layers: of the backbone.
            final: share that the last layer leaves; None: `final_keep_ratio`.
        """
        usual = min(max(3, math.ceil(0.15 * num_layers)), num_layers - 1)
        whole = usual if self.whole_layers is None else self.whole_layers
        return _falling(num_layers, whole=whole, final=self.final_keep_ratio if final is None else final)

    def least_kept(self, num_layers: int) -> tuple[float, ...]:
        """Smallest share of an input's tokens that each layer can leave: on the way to none in the last."""
        return self.keep_ratios(num_layers, final=0.0)

    def heads_run(self, num_layers: int, num_heads: int, *, scale: float) -> tuple[int, ...]:
        """Attention heads that each layer runs for an input, at least one."""
        whole = math.ceil(0.3 * num_layers) if self.whole_head_layers is None else self.whole_head_layers
        ratios = _falling(num_layers, whole=whole, final=self.final_head_ratio)
        return tuple(max(1, round(num_heads * (1.0 - min(1.0, scale * (1.0 - r))))) for r in ratios)


def _falling(num_layers: int, *, whole: int, final: float) -> tuple[float, ...]:
    """1 for the first layers, then in equal steps down to ``final`` in the last."""
    steps = num_layers - whole
    return tuple(
        1.0 - (1.0 - final) * max(0, layer - whole + 1) / max(1, steps) for layer in range(num_layers)
    )


PRUNE_KINDS: dict[str, type[AnyPruneConfig]] = {
    kind_of(config): config for config in (PruneConfig, RankBinsConfig, RankCountsConfig, CascadeConfig)
}
"""The known ways to prune; ``pruning.register_pruner`` adds others."""

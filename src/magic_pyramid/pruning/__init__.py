"""Which tokens a layer drops: a pruner turns attention mass into soft weights or a keep mask."""

from collections.abc import Callable
from typing import Any

from magic_pyramid.config import (
    PRUNE_KINDS,
    AnyPruneConfig,
    CascadeConfig,
    ModelConfig,
    PruneConfig,
    RankBinsConfig,
    RankCountsConfig,
)
from magic_pyramid.config.base import kind_of
from magic_pyramid.errors import ConfigError
from magic_pyramid.pruning.cascade import CascadePruner
from magic_pyramid.pruning.interface import Attended, Pruner, SomePruneConfig
from magic_pyramid.pruning.rank_bins import RankBinsPruner
from magic_pyramid.pruning.rank_counts import RankCountsPruner
from magic_pyramid.pruning.threshold import ThresholdPruner

PRUNERS: dict[type[AnyPruneConfig], Callable[[ModelConfig, Any], Pruner[Any]]] = {
    PruneConfig: ThresholdPruner,
    RankBinsConfig: RankBinsPruner,
    RankCountsConfig: RankCountsPruner,
    CascadeConfig: CascadePruner,
}
"""What carries each kind of config out."""

__all__ = ["PRUNERS", "Attended", "Pruner", "build_pruner", "register_pruner"]


def build_pruner(config: ModelConfig) -> Pruner[Any] | None:
    """The pruner that a model config asks for; None where it keeps every token."""
    return PRUNERS[type(config.prune)](config, config.prune) if config.prune else None


def register_pruner(
    config: type[SomePruneConfig], pruner: Callable[[ModelConfig, SomePruneConfig], Pruner[SomePruneConfig]]
) -> None:
    """Make another way to prune known: presets, settings and model folders may then name its ``kind``.

    Raises:
        ConfigError: the kind belongs to another config.
    """
    kind = kind_of(config)
    known = PRUNE_KINDS.setdefault(kind, config)
    if known.__qualname__ != config.__qualname__:
        raise ConfigError(
            f"prune.kind {kind!r} belongs to {known.__name__}; choose another for {config.__name__}"
        )
    PRUNE_KINDS[kind] = config
    PRUNERS[config] = pruner

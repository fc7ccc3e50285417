"""Which tokens a layer drops: a pruner turns attention mass into soft weights or a keep mask."""

from collections.abc import Callable, Mapping
from typing import Any

from magic_pyramid.config import AnyPruneConfig, ModelConfig, PruneConfig, RankBinsConfig
from magic_pyramid.pruning.interface import Pruner
from magic_pyramid.pruning.rank_bins import RankBinsPruner
from magic_pyramid.pruning.threshold import ThresholdPruner

PRUNERS: Mapping[type[AnyPruneConfig], Callable[[ModelConfig, Any], Pruner[Any]]] = {
    PruneConfig: ThresholdPruner,
    RankBinsConfig: RankBinsPruner,
}
"""What carries each kind of config out."""


def build_pruner(config: ModelConfig) -> Pruner[Any] | None:
    """The pruner that a model config asks for; None where it keeps every token."""
    return PRUNERS[type(config.prune)](config, config.prune) if config.prune else None

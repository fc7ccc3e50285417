"""Choosing the speed knob on held-out texts: the cheapest setting whose answers stay good enough."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from magic_pyramid.config import ModelConfig
from magic_pyramid.cost import CostModel
from magic_pyramid.engine.interface import AllAnswers, AsksAllHeads, Setting
from magic_pyramid.errors import ConfigError
from magic_pyramid.metrics import Label, examples_of, quality
from magic_pyramid.planning import ExitStatistics
from magic_pyramid.sweep import PRUNE_SCALES, exit_statistics, simulate, thresholds_of
from magic_pyramid.tokenization import EncodedTexts, evenly_spaced

MAX_ROWS = 1000
"""Texts looked at; of a larger set, this many at even distances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtTarget:
    """The setting that loses least among those that reach a speed-up; where none does, the fastest."""

    target_speedup: float
    """Dense FLOPs over FLOPs that was asked for."""
    exit_threshold: float | None
    prune_scale: float
    quality: float
    flops_speedup: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The chosen setting and what it did on the texts that chose it."""

    exit_threshold: float | None
    """None where the model has no exits."""
    prune_scale: float
    """1 where the model has no pruner."""
    quality: float
    """With this setting, on the calibration texts."""
    dense_quality: float
    """Of the same weights with pruning and exits off."""
    flops_speedup: float
    """Padding-free, on the calibration texts."""
    num_examples: int
    """Calibration texts."""
    max_drop: float
    """Points that were allowed to be lost."""
    at_target: AtTarget | None = None
    """What the speed-up that training asked for would cost; None where none was asked for."""
    exit_statistics: ExitStatistics | None = None
    """What every head would have done; None where exits are off or count heads in a row."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; an empirical choice promises nothing for other texts."""
        statistics = self.exit_statistics
        return {"kind": "empirical", **asdict(self), "exit_statistics": statistics and statistics.to_dict()}


def calibrate(
    engine: AsksAllHeads,
    config: ModelConfig,
    encoded: EncodedTexts,
    labels: Sequence[Label],
    *,
    max_drop: float,
    target_speedup: float | None = None,
) -> Calibration:
    """Search prune scale and exit threshold together.

    For each scale the thresholds are walked from the safest up and the walk stops at the first that loses
    more than ``max_drop`` points against the dense run, so that one lucky large threshold is not taken. The
    cheapest setting that passed wins. It is an empirical choice, without a guarantee for other texts.

    Args:
        engine: runs the model.
        config: the model's, with a pruner, exits, both or neither.
        encoded: held-out texts, not used to fit any weight.
        labels: theirs.
        max_drop: points (0.5 is half a per cent) of quality that may be lost.
        target_speedup: also say what this speed-up would cost.

    Raises:
        ConfigError: ``max_drop`` is no share of 100 points.
    """
    if not 0.0 <= max_drop <= 100.0:
        raise ConfigError(f"max_drop is {max_drop!r} points; it must lie in [0, 100]")
    # A question counts with all its windows.
    example = examples_of(labels)
    count = int(example.max()) + 1
    rows = np.flatnonzero(np.isin(example, evenly_spaced(count, MAX_ROWS))).tolist()
    encoded, labels = encoded.select(rows), [labels[row] for row in rows]
    dense = engine.answer_all_heads(encoded, scale=0.0)
    last = config.backbone.num_hidden_layers - 1
    dense_quality = quality(dense.logits[last], labels, config)
    dense_flops = CostModel(config).dense_flops(dense.num_tokens[:, 0]).mean()
    # Shares of counted rows are no round numbers: a loss of exactly max_drop must pass.
    floor = dense_quality - max_drop / 100 - 1e-9

    def candidates(scale: float, cached: AllAnswers) -> Iterator[Calibration]:
        for threshold in thresholds_of(config):
            setting = Setting(prune_scale=scale, exit_threshold=threshold)
            output, flops = simulate(config, cached, setting)
            yield Calibration(
                exit_threshold=threshold,
                prune_scale=scale,
                quality=quality(output.logits, labels, config),
                dense_quality=dense_quality,
                flops_speedup=float(dense_flops / flops.mean()),
                num_examples=len(encoded),
                max_drop=max_drop,
            )

    best: Calibration | None = None
    answers = dense
    everything: list[Calibration] = []
    for scale in PRUNE_SCALES if config.prune else (1.0,):
        is_dense = scale == 0.0 or not config.prune
        cached = dense if is_dense else engine.answer_all_heads(encoded, scale=scale)
        tried: Iterable[Calibration] = candidates(scale, cached)
        if target_speedup is not None:
            tried = list(tried)
            everything += tried
        for found in tried:
            if found.quality < floor:
                break
            if best is None or found.flops_speedup > best.flops_speedup:
                best, answers = found, cached
    assert best is not None, "the dense run itself is the first candidate"
    return replace(
        best,
        at_target=None if target_speedup is None else _at_target(everything, target_speedup),
        exit_statistics=_statistics(config, answers, best),
    )


def _at_target(candidates: Sequence[Calibration], target_speedup: float) -> AtTarget:
    reach = [found for found in candidates if found.flops_speedup >= target_speedup]
    if reach:
        chosen = max(reach, key=lambda found: (found.quality, found.flops_speedup))
    else:
        chosen = max(candidates, key=lambda found: found.flops_speedup)
    return AtTarget(
        target_speedup=target_speedup,
        exit_threshold=chosen.exit_threshold,
        prune_scale=chosen.prune_scale,
        quality=chosen.quality,
        flops_speedup=chosen.flops_speedup,
    )


def _statistics(config: ModelConfig, answers: AllAnswers, chosen: Calibration) -> ExitStatistics | None:
    if chosen.exit_threshold is None or config.exit is None or config.exit.criterion == "patience":
        return None
    setting = Setting(
        prune_scale=chosen.prune_scale if config.prune else 0.0, exit_threshold=chosen.exit_threshold
    )
    return exit_statistics(config, answers, setting)

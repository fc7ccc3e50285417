"""Seconds of a layer and of an exit head, measured from outside: any engine that honours a setting will do.

The same batch runs under settings that differ only in how many layers run or how many heads are asked. The
costs are medians of the differences of neighbouring runs, which share what else the machine is doing; the
engine's own overheads are included.
"""

import time
from collections.abc import Mapping
from statistics import median

import numpy as np

from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.interface import Engine, Setting
from magic_pyramid.errors import ConfigError
from magic_pyramid.planning import Cost, CostTable, ExitStatistics
from magic_pyramid.tokenization import EncodedTexts

BUDGET_S = 6.0
"""About so long a measurement takes."""
FEWEST_ROUNDS = 5
LARGEST_PART = 0.05
"""A batch whose run takes more of the budget is the last of the row of sizes."""
_ALMOST_NONE = 1e-6
"""Multiplier at which scores are computed and compared as always, and next to no token is removed."""
_SEEDS = 20


def measure_costs(
    engine: Engine,
    config: ModelConfig,
    statistics: ExitStatistics,
    *,
    batch_size: int,
    budget_s: float = BUDGET_S,
) -> CostTable:
    """Time batches of 1 to ``batch_size`` typical texts in turns, and compare medians.

    Args:
        engine: what is measured.
        config: its model, which has exits of a confidence criterion.
        statistics: say how long typical texts are, and whether tokens are pruned.
        batch_size: most texts in a batch.
        budget_s: about how long to measure; each batch runs at least ``FEWEST_ROUNDS`` times.

    Raises:
        ConfigError: the exit heads are sure of everything.
    """
    settings = _settings(config, prunes=config.prune is not None and statistics.prune_scale > 0)
    length = min(max(round(statistics.mean_tokens[0]), 2), config.max_length)
    batches: list[EncodedTexts] = []
    for rows, tokens in _sizes(length, batch_size):
        batches.append(_unsure_texts(engine, config, rows=rows, length=tokens))
        if _seconds(engine, batches[-1], settings["every head"]) > LARGEST_PART * budget_s:
            break
    seconds: list[dict[str, list[float]]] = [{name: [] for name in settings} for _ in batches]
    end_s, rounds = time.perf_counter() + budget_s, 0
    while rounds < FEWEST_ROUNDS or time.perf_counter() < end_s:
        rounds += 1
        for batch, times in zip(batches, seconds, strict=True):
            for name, setting in settings.items():
                times[name].append(_seconds(engine, batch, setting))
    return CostTable(
        rows=tuple(_cost(config, batch, times) for batch, times in zip(batches, seconds, strict=True))
    )


def _settings(config: ModelConfig, *, prunes: bool) -> dict[str, Setting]:
    """What takes turns. Nobody leaves at threshold 0, everybody at 1."""
    scale, first = _ALMOST_NONE if prunes else 0.0, config.exit_layers[:1]
    return {
        "first exit": Setting(prune_scale=scale, exit_threshold=1.0, exit_layers=first),
        "no head": Setting(prune_scale=scale),
        "one head": Setting(prune_scale=scale, exit_threshold=0.0, exit_layers=first),
        "every head": Setting(prune_scale=scale, exit_threshold=0.0),
    }


def _cost(config: ModelConfig, batch: EncodedTexts, seconds: Mapping[str, list[float]]) -> Cost:
    """A layer: all of them less those up to the first exit. A head: every head less one, or one less none."""
    spared = config.backbone.num_hidden_layers - 1 - config.exit_layers[0]
    heads = len(config.exit_layers)
    several, few, none = seconds["every head"], seconds["one head"], seconds["no head"]
    return Cost(
        rows=len(batch),
        tokens=sum(batch.lengths),
        layer_s=_difference(few, seconds["first exit"]) / spared,
        head_s=_difference(several, few) / (heads - 1) if heads > 1 else _difference(few, none),
    )


def _difference(longer: list[float], shorter: list[float]) -> float:
    return median(one - other for one, other in zip(longer, shorter, strict=True))


def _sizes(length: int, batch_size: int) -> list[tuple[int, int]]:
    """Texts and tokens of each: parts of one text, one text, then doubling up to the batch size."""
    parts = sorted({max(length // 4, 1), max(length // 2, 1), length})
    rows = [1 << power for power in range(1, batch_size.bit_length()) if 1 << power < batch_size]
    rows += [batch_size] if batch_size > 1 else []
    return [*((1, part) for part in parts), *((count, length) for count in rows)]


def _unsure_texts(engine: Engine, config: ModelConfig, *, rows: int, length: int) -> EncodedTexts:
    """One random text, repeated, that no head lets go at threshold 0: the whole batch runs every layer."""
    last = config.backbone.num_hidden_layers - 1
    for seed in range(_SEEDS):
        ids = np.random.default_rng(seed).integers(0, config.backbone.vocab_size, length).tolist()
        text = EncodedTexts([ids], [[0] * length])
        output = engine.run(text, setting=Setting(prune_scale=0.0, exit_threshold=0.0))
        if output.exit_layer[0] == last:
            return EncodedTexts([ids] * rows, [[0] * length] * rows)
    raise ConfigError(
        f"the exit heads are wholly sure of {_SEEDS} random texts, so their cost cannot be measured; "
        "choose exit.tested_layers yourself"
    )


def _seconds(engine: Engine, batch: EncodedTexts, setting: Setting) -> float:
    started_s = time.perf_counter()
    engine.run(batch, setting=setting, batch_size=len(batch))
    return time.perf_counter() - started_s

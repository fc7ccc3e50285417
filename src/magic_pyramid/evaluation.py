"""What a setting costs and keeps, measured against the same weights with pruning and exits off."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from magic_pyramid.config import ModelConfig
from magic_pyramid.cost import CostModel, flops_speedup
from magic_pyramid.engine.interface import DENSE, Engine, EngineOutput, Setting, flops_of, layers_tested
from magic_pyramid.engine.threads import threads_of
from magic_pyramid.metrics import METRIC_NAMES, Label, examples_of, further_metrics, quality
from magic_pyramid.tokenization import EncodedTexts

Buckets = Mapping[str, tuple[int, float]]
"""Least and most tokens of each group of texts, by its name."""
BUCKETS: Buckets = {"1-35": (1, 35), "36-70": (36, 70), ">70": (71, float("inf"))}
"""The paper's length buckets (Magic Pyramid, figure 1), in tokens, special tokens included."""
TIMED_ROWS = 128
"""Texts whose run is timed by default; a larger set is sampled evenly over its lengths."""


def evaluate(
    engine: Engine,
    config: ModelConfig,
    encoded: EncodedTexts,
    labels: Sequence[Label],
    *,
    setting: Setting,
    batch_size: int | None = 32,
    repeats: int = 5,
) -> dict[str, Any]:
    """Quality, FLOPs and wall-clock of a setting, next to the dense run of the same weights.

    FLOPs follow the papers' convention, exit heads charged, padding-free unless the name says otherwise.
    ``wall_clock_speedup`` is dense seconds over ours on the same texts, engine, threads and batches: the two
    alternate ``repeats`` times in this call and medians are compared. With ``repeats=0`` nothing is timed.
    """
    rows = compare(
        engine, config, encoded, labels, settings={"": setting}, batch_size=batch_size, repeats=repeats
    )
    return rows[""]


def compare(
    engine: Engine,
    config: ModelConfig,
    encoded: EncodedTexts,
    labels: Sequence[Label],
    *,
    settings: Mapping[str, Setting],
    batch_size: int | None = 32,
    repeats: int = 5,
    base_layers: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[str, Any]]:
    """``evaluate`` for several settings of the same weights, which share the dense run; rows by name.

    ``base_layers`` is the depth of the encoder that a student was cut from: it is also compared with that.
    ``say`` is told what has been done, for people who wait.
    """
    dense = engine.run(encoded, setting=DENSE, batch_size=batch_size)
    say("the dense model has answered")
    seconds = wall_clock(engine, encoded, settings=settings, batch_size=batch_size, repeats=repeats)
    if repeats:
        say("all settings are timed")
    rows = {}
    for number, (name, setting) in enumerate(settings.items(), start=1):
        is_dense = setting == DENSE
        ours = dense if is_dense else engine.run(encoded, setting=setting, batch_size=batch_size)
        receipts = _Receipts(config, setting, ours, dense, labels)
        rows[name] = {
            **receipts.summary(receipts.lengths > 0),
            **further_metrics(ours.logits, labels, config),
            "flops_speedup_padded": receipts.padded_speedup(),
            **(receipts.whole_encoder(base_layers) if base_layers else {}),
            **seconds[name],
            **_depth_and_width(config, ours),
            "by_length": {
                bucket: receipts.summary((receipts.lengths >= low) & (receipts.lengths <= high))
                for bucket, (low, high) in BUCKETS.items()
            },
            "metric": METRIC_NAMES[config.problem_type],
            "exit_threshold": setting.exit_threshold if config.exit else None,
            "tested_layers": list(layers_tested(config, setting)),
            "prune_scale": setting.prune_scale if config.prune else 0.0,
            "engine": engine.name,
            "batch_size": batch_size,
            "threads": threads_of(engine.name),
        }
        say(f"{name}: measured, {number} of {len(settings)}")
    return rows


class _Receipts:
    """Answers of both runs row by row, and costs example by example: a question pays for all its windows."""

    def __init__(
        self,
        config: ModelConfig,
        setting: Setting,
        ours: EngineOutput,
        dense: EngineOutput,
        labels: Sequence[Label],
    ) -> None:
        self.config, self.ours, self.dense, self.labels = config, ours, dense, labels
        cost, lengths = CostModel(config), ours.num_tokens[:, 0]
        self.example = examples_of(labels)
        self.lengths = self._by_example(lengths)
        self.flops = self._by_example(flops_of(config, ours, setting))
        self.dense_flops = self._by_example(cost.dense_flops(lengths))
        self.padded_flops = self._by_example(cost.padded_dense_flops(lengths, config.max_length))

    def _by_example(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.example, weights=values)

    def summary(self, chosen: np.ndarray) -> dict[str, Any]:
        """Numbers over the chosen examples; None where there are none."""
        rows = np.flatnonzero(chosen[self.example])
        if not len(rows):
            keys = ("accuracy", "dense_accuracy", "gflops", "dense_gflops", "flops_speedup")
            return {"num_examples": 0, **dict.fromkeys(keys)}
        labels = [self.labels[int(row)] for row in rows]
        return {
            "num_examples": int(chosen.sum()),
            "accuracy": quality(self.ours.logits[rows], labels, self.config),
            "dense_accuracy": quality(self.dense.logits[rows], labels, self.config),
            "gflops": float(self.flops[chosen].mean()) / 1e9,
            "dense_gflops": float(self.dense_flops[chosen].mean()) / 1e9,
            "flops_speedup": flops_speedup(self.dense_flops[chosen], self.flops[chosen]),
        }

    def whole_encoder(self, num_layers: int) -> dict[str, Any]:
        """Against a dense model of so many layers and the same width."""
        backbone, exits = self.config.backbone.replace(num_hidden_layers=num_layers), self.config.exit
        # What is said layer by layer fits the student's layers only; a final head may have the exits' size.
        of_any_depth = exits and exits.replace(layers=None, threshold=None, tested_layers=None)
        whole = CostModel(self.config.replace(backbone=backbone, prune=None, exit=of_any_depth))
        dense_flops = self._by_example(whole.dense_flops(self.ours.num_tokens[:, 0]))
        return {
            "base_layers": num_layers,
            "flops_speedup_base": flops_speedup(dense_flops, self.flops),
        }

    def padded_speedup(self) -> float:
        """Against the dense model with every input padded to ``max_length``, as some papers count."""
        return flops_speedup(self.padded_flops, self.flops)


def _depth_and_width(config: ModelConfig, output: EngineOutput) -> dict[str, Any]:
    """How far inputs went and how many tokens were alive in the layers that ran."""
    num_layers = config.backbone.num_hidden_layers
    ran = np.arange(num_layers) <= output.exit_layer[:, None]
    alive = output.num_tokens[:, 1:]
    return {
        "mean_layers": float((output.exit_layer + 1).mean()),
        "mean_kept_tokens": float((alive * ran).sum() / ran.sum()),
        "mean_input_tokens": float(output.num_tokens[:, 0].mean()),
        "kept_tokens_per_layer": [
            float(alive[ran[:, layer], layer].mean()) if ran[:, layer].any() else None
            for layer in range(num_layers)
        ],
        "exit_distribution": np.bincount(output.exit_layer, minlength=num_layers).tolist(),
    }


def wall_clock(
    engine: Engine,
    encoded: EncodedTexts,
    *,
    settings: Mapping[str, Setting],
    batch_size: int | None,
    repeats: int,
    baseline: Engine | None = None,
    rows: int = TIMED_ROWS,
) -> dict[str, dict[str, Any]]:
    """Median time of each setting and of the dense run, all taking turns on the same texts.

    Args:
        engine: runs the settings.
        encoded: the texts; at most ``rows`` of them are timed, at even distances over the lengths.
        settings: by name.
        batch_size: as ``Engine.run`` takes it.
        repeats: timed runs of each; with 0 the times are None.
        baseline: runs the dense model, where that is another one; None: the same weights.
        rows: most texts that are timed.
    """
    if not repeats:
        return {name: {"wall_clock_speedup": None, "timed_examples": 0, "repeats": 0} for name in settings}
    sample = encoded.over_lengths(rows)
    count = len(sample)
    dense = ("dense" if baseline else "ours", DENSE)
    turns = list(dict.fromkeys([dense, *(("ours", setting) for setting in settings.values())]))
    engines = {"dense": baseline or engine, "ours": engine}
    seconds: dict[tuple[str, Setting], list[float]] = {turn: [] for turn in turns}
    for owner, setting in turns:
        engines[owner].run(sample.select(range(min(count, 8))), setting=setting, batch_size=batch_size)
    for _ in range(repeats):
        for owner, setting in turns:
            started_s = time.perf_counter()
            engines[owner].run(sample, setting=setting, batch_size=batch_size)
            seconds[owner, setting].append(time.perf_counter() - started_s)
    medians = {turn: median(times) for turn, times in seconds.items()}
    return {
        name: {
            "wall_clock_speedup": medians[dense] / medians["ours", setting],
            "latency_ms": 1000 * medians["ours", setting] / count,
            "dense_latency_ms": 1000 * medians[dense] / count,
            "throughput": count / medians["ours", setting],
            "timed_examples": count,
            "repeats": repeats,
        }
        for name, setting in settings.items()
    }

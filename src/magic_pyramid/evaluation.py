"""What a setting costs and keeps, measured against the same weights with pruning and exits off."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

from magic_pyramid.config import ModelConfig
from magic_pyramid.cost import CostModel, flops_speedup
from magic_pyramid.engine.interface import DENSE, Engine, EngineOutput, Setting
from magic_pyramid.metrics import METRIC_NAMES, Label, quality
from magic_pyramid.tokenization import EncodedTexts

BUCKETS: dict[str, tuple[int, float]] = {"1-35": (1, 35), "36-70": (36, 70), ">70": (71, float("inf"))}
"""The paper's length buckets (Magic Pyramid, figure 1), in tokens, special tokens included."""
TIMED_ROWS = 256
"""Texts whose run is timed; a larger set is sampled evenly over its lengths."""


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
    ours = engine.run(encoded, setting=setting, batch_size=batch_size)
    dense = engine.run(encoded, setting=DENSE, batch_size=batch_size)
    receipts = _Receipts(config, setting, ours, dense, labels)
    everything = np.ones(len(encoded), dtype=bool)
    lengths = np.asarray(encoded.lengths)
    return {
        **receipts.summary(everything),
        "flops_speedup_padded": receipts.padded_speedup(),
        **_wall_clock(engine, encoded, setting=setting, batch_size=batch_size, repeats=repeats),
        **_depth_and_width(config, ours),
        "by_length": {
            name: receipts.summary((lengths >= low) & (lengths <= high))
            for name, (low, high) in BUCKETS.items()
        },
        "metric": METRIC_NAMES[config.problem_type],
        "exit_threshold": setting.exit_threshold if config.exit else None,
        "prune_scale": setting.prune_scale if config.prune else 0.0,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
    }


class _Receipts:
    """Answers and costs of both runs, row by row."""

    def __init__(
        self,
        config: ModelConfig,
        setting: Setting,
        ours: EngineOutput,
        dense: EngineOutput,
        labels: Sequence[Label],
    ) -> None:
        self.config, self.ours, self.dense, self.labels = config, ours, dense, labels
        cost = CostModel(config)
        self.flops = flops_of(config, ours, setting)
        self.dense_flops = cost.dense_flops(ours.num_tokens[:, 0])
        self.padded_flops = cost.padded_dense_flops(ours.num_tokens[:, 0], config.max_length)

    def summary(self, rows: np.ndarray) -> dict[str, Any]:
        """Numbers over the chosen rows; None where there are none."""
        chosen = np.flatnonzero(rows)
        if not len(chosen):
            keys = ("accuracy", "dense_accuracy", "gflops", "dense_gflops", "flops_speedup")
            return {"num_examples": 0, **dict.fromkeys(keys)}
        labels = [self.labels[row] for row in chosen]
        problem = self.config.problem_type
        return {
            "num_examples": len(chosen),
            "accuracy": quality(self.ours.logits[chosen], labels, problem),
            "dense_accuracy": quality(self.dense.logits[chosen], labels, problem),
            "gflops": float(self.flops[chosen].mean()) / 1e9,
            "dense_gflops": float(self.dense_flops[chosen].mean()) / 1e9,
            "flops_speedup": flops_speedup(self.dense_flops[chosen], self.flops[chosen]),
        }

    def padded_speedup(self) -> float:
        """Against the dense model with every input padded to ``max_length``, as some papers count."""
        return flops_speedup(self.padded_flops, self.flops)


def flops_of(config: ModelConfig, output: EngineOutput, setting: Setting) -> np.ndarray:
    """FLOPs of each input; exit heads are charged when exits were on."""
    charges = setting.exit_threshold is not None
    return CostModel(config).flops(output.num_tokens, output.exit_layer, charges_exits=charges)


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


def _wall_clock(
    engine: Engine, encoded: EncodedTexts, *, setting: Setting, batch_size: int | None, repeats: int
) -> dict[str, Any]:
    by_length = np.argsort(np.asarray(encoded.lengths), kind="stable")
    count = min(len(by_length), TIMED_ROWS)
    sample = encoded.select(by_length[np.linspace(0, len(by_length) - 1, count).round().astype(int)].tolist())
    seconds: dict[str, list[float]] = {"dense": [], "ours": []}
    for _ in range(repeats):
        for name, timed in (("dense", DENSE), ("ours", setting)):
            started_s = time.perf_counter()
            engine.run(sample, setting=timed, batch_size=batch_size)
            seconds[name].append(time.perf_counter() - started_s)
    if not repeats:
        return {"wall_clock_speedup": None, "timed_examples": 0, "repeats": 0}
    dense_s, ours_s = median(seconds["dense"]), median(seconds["ours"])
    return {
        "wall_clock_speedup": dense_s / ours_s,
        "latency_ms": 1000 * ours_s / count,
        "dense_latency_ms": 1000 * dense_s / count,
        "throughput": count / ours_s,
        "timed_examples": count,
        "repeats": repeats,
    }

"""What was measured as rows: the numbers of one contender, and its speed-ups over named baselines."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from magic_pyramid.bench.contender import OURS, Contender
from magic_pyramid.bench.texts import BenchTexts
from magic_pyramid.bench.turns import Timings, percentiles, quartiles
from magic_pyramid.bench.verdict import Verdict
from magic_pyramid.config import ModelConfig
from magic_pyramid.cost import CostModel
from magic_pyramid.engine.interface import DENSE, default_setting, layers_tested

COLUMNS = {
    "engine": "who ran the model; ours begin with magic_pyramid",
    "adaptive": "pruning and exits as stored in the model; False: every token through every layer",
    "precision": "fp32 or int8",
    "accuracy": "quality of the answers on the texts, by the metric named on top",
    "logit_difference": "largest difference from the same setting in our PyTorch engine",
    "agreement": "share of texts with the answer of the same setting in our PyTorch engine",
    "throughput": "texts a second at batch_size: texts over the median seconds of a pass",
    "throughput_quartiles": "texts a second at the quartiles of the repeats",
    "latency_ms": "milliseconds of one text by itself (batch size 1), over all texts and repeats",
    "peak_memory_mb": "highest resident memory of its process: interpreter, libraries, weights and values",
    "cold_start_s": "from starting the process to its first answer, converted weights on disk",
    "gflops": "GFLOPs an answer needs, without padding, convention 'actual', exit heads charged",
    "share_of_peak": "gflops times throughput over the machine's measured fp32 peak at these threads",
    "padding_share": "share of positions of its batches that hold no token",
    "speedup_own_dense": "throughput over that of our dense row of the same engine, precision and batch size",
    "speedup_best_dense_peer": "throughput over that of the fastest dense peer of any precision",
    "latency_speedup_best_dense_peer": "its p50 latency, over ours",
}
"""What the keys of a row mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One contender at one number of threads."""

    contender: Contender
    accuracy: float
    verdict: Verdict
    gflops: float
    """Per text."""
    cold_start_s: float
    peak_memory_mb: float
    timings: Timings


def gflops_of(
    config: ModelConfig,
    contender: Contender,
    texts: BenchTexts,
    *,
    exit_layer: list[int] | None,
    num_tokens: list[list[int]] | None,
) -> float:
    """Mean GFLOPs per text: from the receipts, or by the formula of the dense model."""
    cost = CostModel(config)
    if exit_layer is None or num_tokens is None:
        flops = cost.dense_flops(np.asarray(texts.encoded.lengths), convention="actual")
    else:
        setting = default_setting(config) if contender.adaptive else DENSE
        flops = cost.flops(
            np.asarray(num_tokens),
            np.asarray(exit_layer),
            convention="actual",
            tested_layers=layers_tested(config, setting),
            prune_scale=setting.prune_scale,
        )
    return float(flops.mean()) / 1e9


def rows_of(
    found: Sequence[Measured],
    texts: BenchTexts,
    *,
    batch_sizes: Sequence[int],
    threads: int,
    peak_gflops: float,
) -> list[dict[str, Any]]:
    """One row for each contender and batch size."""
    rows = [
        _row(one, texts, batch_size=size, threads=threads, peak_gflops=peak_gflops)
        for one in found
        for size in batch_sizes
    ]
    return [{**row, **_speedups(row, rows)} for row in rows]


def _row(
    one: Measured, texts: BenchTexts, *, batch_size: int, threads: int, peak_gflops: float
) -> dict[str, Any]:
    contender = one.contender
    seconds = one.timings.passes["texts", batch_size]
    spread = quartiles(seconds)
    throughput = len(texts) / spread["median"]
    return {
        "name": contender.name,
        "engine": contender.engine,
        "adaptive": contender.adaptive,
        "precision": contender.precision,
        "threads": threads,
        "batch_size": batch_size,
        "accuracy": one.accuracy,
        "logit_difference": one.verdict.logit_difference,
        "agreement": one.verdict.agreement,
        "throughput": throughput,
        "throughput_quartiles": [len(texts) / spread["q3"], len(texts) / spread["q1"]],
        "latency_ms": percentiles([1000 * call for call in one.timings.calls]),
        "peak_memory_mb": one.peak_memory_mb,
        "cold_start_s": one.cold_start_s,
        "gflops": one.gflops,
        "share_of_peak": one.gflops * throughput / peak_gflops,
        "padding_share": texts.padding_share(batch_size) if contender.pads else 0.0,
        "includes_tokenising": contender.takes == "texts",
        "note": contender.note,
    }


def _speedups(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    same = [other for other in rows if other["batch_size"] == row["batch_size"] and not other["adaptive"]]
    own = [other for other in same if _is_ours(row) and _twin(other) == _twin(row)]
    peers = [other for other in same if not _is_ours(other)]
    fastest = max(peers, key=lambda other: float(other["throughput"]), default=None)
    quickest = min(peers, key=lambda other: float(other["latency_ms"]["p50"]), default=None)
    return {
        "speedup_own_dense": row["throughput"] / own[0]["throughput"] if own else None,
        "speedup_best_dense_peer": row["throughput"] / fastest["throughput"] if fastest else None,
        "best_dense_peer": fastest["name"] if fastest else None,
        "latency_speedup_best_dense_peer": (
            quickest["latency_ms"]["p50"] / row["latency_ms"]["p50"] if quickest else None
        ),
        "best_dense_peer_latency": quickest["name"] if quickest else None,
    }


def _is_ours(row: dict[str, Any]) -> bool:
    return str(row["engine"]).startswith(OURS)


def _twin(row: dict[str, Any]) -> tuple[str, str]:
    return str(row["engine"]), str(row["precision"])


def growth_of(found: Sequence[Measured], counts: dict[int, int], *, threads: int) -> list[dict[str, Any]]:
    """Sequences a second at batch size 1 by length; ``counts`` says how many sequences a length has."""
    rows = []
    for one in found:
        by_length = {
            str(length): count / median(one.timings.passes[f"length_{length}", 1])
            for length, count in counts.items()
            if (f"length_{length}", 1) in one.timings.passes
        }
        if by_length:
            rows.append({"name": one.contender.name, "threads": threads, "throughput": by_length})
    return rows

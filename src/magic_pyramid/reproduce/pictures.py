"""The figures of a report as panels, one for each dataset, with all methods in each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from magic_pyramid.report.panels import Axis, Panel, Points, draw_panels
from magic_pyramid.report.sweep_plot import unbeaten
from magic_pyramid.reproduce.summary import Results, Row, in_bucket, points_of, spread
from magic_pyramid.reproduce.tables import Curves

MOST_LOST = 15.0
"""Points below the best at which a curve is cut, so that the rest stays readable."""


def draw_pareto(results: Results, curves: Curves, path: Path) -> Path:
    """Quality over the FLOPs saved: the settings that no other beats on validation, as they are on test."""
    return _draw(
        results,
        lambda dataset, method: _front(_mean_curve(curves, dataset, method)),
        path,
        across=Axis(name="fewer FLOPs than the dense teacher", is_log=True, unit="x"),
        up=lambda dataset: _quality_axis(results, dataset),
        title="Quality and FLOPs",
        subtitle="settings that no other beats on validation, as they are on test; mean of seeds",
    )


def draw_latency(results: Results, path: Path) -> Path | None:
    """Quality over measured time; None where no time was measured."""
    if not any(row.get("latency_ms") for row in results.rows):
        return None
    return _draw(
        results,
        lambda dataset, method: _latencies(results, dataset, method),
        path,
        across=Axis(name="faster than the dense teacher", is_log=True, unit="x"),
        up=lambda dataset: _quality_axis(results, dataset),
        title="Quality and time",
        subtitle="the named settings on test; mean of seeds",
    )


def draw_lengths(results: Results, path: Path) -> Path:
    """Speed-up by length of the text (Magic Pyramid, figure 1)."""
    buckets = {
        dataset: list(next(row for row in results.rows if row["dataset"] == dataset)["by_length"])
        for dataset in results.datasets
    }

    def points(dataset: str, method: str) -> Points:
        found = results.of(dataset, method, results.main_setting)
        values = [spread(found, in_bucket(bucket, "flops_speedup")) for bucket in buckets[dataset]]
        return [(float(place), value.mean) for place, value in enumerate(values) if value is not None]

    return _draw(
        results, points, path,
        across=lambda dataset: Axis(name="tokens of the text", categories=tuple(buckets[dataset])),
        up=lambda _: Axis(name="fewer FLOPs", is_log=True, unit="x"),
        title="Speed-up by length of the text",
        subtitle=_chosen(results),
    )  # fmt: skip


def draw_alive(results: Results, path: Path) -> Path:
    """Tokens alive per layer, over all texts: what was pruned or has left is not there any more."""
    return _draw(
        results,
        lambda dataset, method: _by_layer(
            results.of(dataset, method, results.main_setting), lambda row: row["tokens_alive"]
        ),
        path,
        across=Axis(name="after layer (0: the input)", is_whole=True),
        up=lambda _: Axis(name="tokens alive, mean of all texts", begins=0.0),
        title="Tokens alive",
        subtitle=f"{_chosen(results)}; a text that has left has no tokens",
    )


def draw_exits(results: Results, path: Path) -> Path | None:
    """Share of the texts that have left by each layer; None where no method has exits."""

    def left(row: Row) -> list[float]:
        counts = row["exit_distribution"]
        return [100 * sum(counts[: layer + 1]) / sum(counts) for layer in range(len(counts))]

    exiting = {row["method"] for row in results.rows if row["exit_threshold"] is not None}

    def points(dataset: str, method: str) -> Points:
        found = results.of(dataset, method, results.main_setting) if method in exiting else []
        return [(layer + 1, share) for layer, share in _by_layer(found, left)]

    if not any(points(dataset, method) for dataset in results.datasets for method in results.methods):
        return None
    return _draw(
        results, points, path,
        across=Axis(name="after layer", is_whole=True),
        up=lambda _: Axis(name="texts that have left, %", begins=0.0),
        title="Where texts leave",
        subtitle=f"{_chosen(results)}; layers counted from 1",
    )  # fmt: skip


def _draw(
    results: Results,
    points: Callable[[str, str], Points],
    path: Path,
    *,
    across: Axis | Callable[[str], Axis],
    up: Callable[[str], Axis],
    title: str,
    subtitle: str,
) -> Path:
    panels = [
        Panel(
            title=dataset,
            series={method: points(dataset, method) for method in results.methods},
            across=across if isinstance(across, Axis) else across(dataset),
            up=up(dataset),
        )
        for dataset in results.datasets
    ]
    return draw_panels(panels, results.methods, path, title=title, subtitle=subtitle)


def _chosen(results: Results) -> str:
    most = points_of(max(results.suite.max_drops))
    return f"the fastest setting that lost at most {most} on validation; mean of seeds"


def _quality_axis(results: Results, dataset: str) -> Axis:
    qualities = [100 * row["quality"] for row in results.rows if row["dataset"] == dataset]
    return Axis(name=f"{results.metric(dataset)} %", cut=max(qualities) - MOST_LOST)


def _by_layer(rows: Sequence[Row], values: Callable[[Row], Sequence[float]]) -> Points:
    found = [values(row) for row in rows]
    return [(float(layer), mean(column)) for layer, column in enumerate(zip(*found, strict=True))]


def _mean_curve(curves: Curves, dataset: str, method: str) -> list[dict[str, Any]]:
    """The means over the seeds of each setting that all have."""
    seeds = [
        {(point["prune_scale"], point["exit_threshold"]): point for point in curve}
        for (name, other, _), curve in curves.items()
        if (name, other) == (dataset, method)
    ]
    shared = [setting for setting in seeds[0] if all(setting in seed for seed in seeds)] if seeds else []
    return [
        {
            split: {
                key: mean(seed[setting][split][key] for seed in seeds) for key in ("quality", "flops_speedup")
            }
            for split in ("validation", "test")
        }
        for setting in shared
    ]


def _front(curve: Iterable[Mapping[str, Any]]) -> Points:
    points = [
        {
            "flops_speedup": p["validation"]["flops_speedup"],
            "accuracy": p["validation"]["quality"],
            "test": p["test"],
        }
        for p in curve
    ]
    kept = [p["test"] for p in unbeaten(points)]
    return sorted((p["flops_speedup"], 100 * p["quality"]) for p in kept)


def _latencies(results: Results, dataset: str, method: str) -> Points:
    """One point for each named setting, all seeds together."""
    names = dict.fromkeys(
        row["setting"] for row in results.rows if (row["dataset"], row["method"]) == (dataset, method)
    )
    points = []
    for name in names:
        found = results.of(dataset, method, name)
        faster, quality = (
            spread(found, lambda row: row.get("wall_clock_speedup")),
            spread(found, lambda row: row["quality"]),
        )
        if faster is not None and quality is not None:
            points.append({"flops_speedup": faster.mean, "accuracy": quality.mean})
    return sorted((p["flops_speedup"], 100 * p["accuracy"]) for p in unbeaten(points))

"""The tables of a report: the papers' and our own; printed numbers stand beside and are marked as theirs."""

from collections.abc import Mapping, Sequence
from math import exp, log
from statistics import mean
from typing import Any

from magic_pyramid.config import STAGE_NAMES
from magic_pyramid.report.sections import Grid
from magic_pyramid.reproduce.measure import AS_TRAINED, OWN_DENSE, within
from magic_pyramid.reproduce.published import PRINTED_LENGTHS, Printed, is_same_dataset, printed_for
from magic_pyramid.reproduce.summary import (
    MISSING,
    NEVER,
    Results,
    Row,
    Spread,
    in_bucket,
    points_of,
    spread,
)

SPEEDUPS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
"""Speed-ups at which the quality of every method is asked for."""
RATIOS = (
    ("flops_speedup", "fewer FLOPs, padding not counted"),
    ("flops_speedup_padded", "fewer FLOPs, every text padded to the longest allowed"),
    ("wall_clock_speedup", "faster, measured in turns with the dense teacher in the same engine"),
)
"""Ways to compare costs, the fairest first."""

Curves = Mapping[tuple[str, str, int], Sequence[Mapping[str, Any]]]
"""Every setting of a run, by dataset, method and seed."""


def comparison(results: Results, drop: float) -> list[tuple[str, Grid]]:
    """Speed-up on test of the fastest setting that lost at most ``drop`` points on validation."""
    setting = within(drop)
    grids = []
    for key, words in RATIOS:
        if not any(row.get(key) is not None for row in results.rows):
            continue
        # Padded, the teacher that stands in for a method has a ratio of its own on each dataset.
        together = key != "flops_speedup_padded" and len(results.datasets) > 1
        rows, used = [], []
        for method in results.methods:
            cells = [method]
            for dataset in results.datasets:
                found = results.of(dataset, method, setting)
                used += found
                cells.append(_comparison_cell(found, key, results.num_seeds(dataset, method)))
            rows.append([*cells, *([_mean_cell(results, method, setting, key)] if together else [])])
        headings = ["method", *results.datasets, *(["all"] if together else [])]
        grid = Grid(headings=headings, rows=rows, source=results.source_of(used))
        grids.append(
            (f"At most {points_of(drop)} lost on validation: {words} (change on test, points)", grid)
        )
    return grids


def _comparison_cell(found: Sequence[Row], key: str, num_seeds: int) -> str:
    faster = spread(found, lambda row: row.get(key))
    change = spread(found, _change)
    if not found and num_seeds:
        return NEVER
    if faster is None or change is None:
        return MISSING
    missing = f", {len(found)} of {num_seeds} seeds" if len(found) < num_seeds else ""
    return f"{faster.write('.2f', unit='x')} ({change.mean:+.1f}{missing})"


def _mean_cell(results: Results, method: str, setting: str, key: str) -> str:
    """Over all datasets; where a method never came so near, the dense teacher answers in its place."""
    ratios, changes = [], []
    for dataset in results.datasets:
        if not results.num_seeds(dataset, method):
            return MISSING
        found = results.of(dataset, method, setting)
        if any(row.get(key) is None for row in found):
            return MISSING
        fallbacks = results.num_seeds(dataset, method) - len(found)
        ratios.append(mean([*(log(row[key]) for row in found), *[0.0] * fallbacks]))
        changes.append(mean([*(_change(row) for row in found), *[0.0] * fallbacks]))
    return f"{exp(mean(ratios)):.2f}x ({mean(changes):+.1f})"


def _change(row: Row) -> float:
    return 100 * float(row["quality"] - row["teacher_quality"])


def main_table(results: Results) -> Grid:
    """Quality and GFLOPs of every method (Magic Pyramid, table 3)."""
    found = {
        (dataset, method): results.of(dataset, method, results.main_setting)
        for method in results.methods
        for dataset in results.datasets
    }
    return Grid(
        headings=["method", *(_main_heading(results, dataset) for dataset in results.datasets)],
        rows=[
            [method, *(_main_cell(found[dataset, method]) for dataset in results.datasets)]
            for method in results.methods
        ],
        source=results.source_of([row for rows in found.values() for row in rows]),
    )


def printed_table(results: Results, dataset: str) -> Grid | None:
    """Quality and GFLOPs on a dataset beside what papers print; None where they print nothing."""
    presets = results.presets()
    printed = [row for row in printed_for([dataset], list(presets.values())) if row.quality is not None]
    sources = list(dict.fromkeys(row.source for row in printed))
    rows, used = [], []
    for method in results.methods:
        theirs = [_printed_cell(printed, presets[method], source) for source in sources]
        if set(theirs) <= {MISSING}:
            continue
        found = results.of(dataset, method, results.main_setting)
        used += found
        rows.append([method, _main_cell(found), *theirs])
    if not rows:
        return None
    headings = ["method", _main_heading(results, dataset), *(f"printed: {source}" for source in sources)]
    theirs_at = frozenset(range(2, len(headings)))
    return Grid(headings=headings, rows=rows, printed=theirs_at, source=results.source_of(used))


def _main_heading(results: Results, dataset: str) -> str:
    return f"{dataset}: {results.metric(dataset)} % / GFLOPs (x)"


def _main_cell(found: Sequence[Row]) -> str:
    quality = spread(found, lambda row: 100 * row["quality"])
    gflops, faster = spread(found, lambda row: row["gflops"]), spread(found, lambda row: row["flops_speedup"])
    if quality is None or gflops is None or faster is None:
        return MISSING
    return f"{quality.write('.1f')} / {gflops.mean:.3g} ({faster.mean:.2f}x)"


def _printed_cell(printed: Sequence[Printed], preset: str, source: str) -> str:
    """The row of a paper that names no threshold, or else the one of the smallest."""
    rows = [row for row in printed if (row.source, row.preset) == (source, preset)]
    if not rows:
        return MISSING
    row = min(rows, key=lambda row: row.threshold or 0.0)
    metric = "" if row.metric == "accuracy" else f" {row.metric}"
    dense = "" if row.dense_quality in (None, row.quality) else f", dense {row.dense_quality:g}"
    gflops = "" if row.gflops is None else f" / {row.gflops:g}"
    return f"{row.quality:g}{metric}{dense}{gflops} ({row.speedup:.2f}x)"


def threshold_table(results: Results, dataset: str) -> Grid | None:
    """Speed-up and quality by exit threshold (Magic Pyramid, table 4); None where no method has exits."""
    thresholds = results.suite.thresholds
    presets = results.presets()
    printed = [row for row in printed_for([dataset], list(presets.values())) if row.threshold is not None]
    sources = list(dict.fromkeys(row.source for row in printed))
    headings = ["method", *(f"tau {value:g}: {results.metric(dataset)} % (x)" for value in thresholds)]
    theirs = frozenset(range(len(headings), len(headings) + len(sources)))
    headings += [f"printed: {source}" for source in sources]
    rows, used = [], []
    for method in results.methods:
        found = {value: results.of(dataset, method, f"tau={value:g}") for value in thresholds}
        if not any(found.values()):
            continue
        used += [row for seeds in found.values() for row in seeds]
        theirs_cells = [
            ", ".join(
                f"tau {row.threshold:g}: {row.speedup:.2f}x"
                for row in printed
                if (row.source, row.preset) == (source, presets[method])
            )
            or MISSING
            for source in sources
        ]
        rows.append([method, *(_quality_cell(found[value]) for value in thresholds), *theirs_cells])
    return (
        Grid(headings=headings, rows=rows, printed=theirs, source=results.source_of(used)) if rows else None
    )


def _quality_cell(found: Sequence[Row]) -> str:
    quality = spread(found, lambda row: 100 * row["quality"])
    faster = spread(found, lambda row: row["flops_speedup"])
    if quality is None or faster is None:
        return MISSING
    return f"{quality.write('.1f')} ({faster.write('.2f', unit='x')})"


def length_table(results: Results, dataset: str) -> Grid:
    """Speed-up by length of the text (Magic Pyramid, figure 1), and what the paper's bars say."""
    setting = results.main_setting
    every = [row for row in results.rows if row["dataset"] == dataset]
    buckets = list(every[0]["by_length"]) if every else []
    presets = results.presets()
    printed = [row for row in PRINTED_LENGTHS if is_same_dataset(row.dataset, dataset)]
    there = {row.preset: row for row in printed if row.preset in presets.values()}
    headings = ["method", *(_bucket_heading(every, bucket) for bucket in buckets)]
    theirs = frozenset({len(headings)} if there else ())
    headings += [f"printed: {next(iter(there.values())).source}"] if there else []
    rows, used = [], []
    for method in results.methods:
        found = results.of(dataset, method, setting)
        used += found
        cells = [_bucket_cell(found, bucket) for bucket in buckets]
        if there:
            row = there.get(presets[method])
            cells.append(" / ".join(f"{value:.2f}x" for value in row.speedups) if row else MISSING)
        rows.append([method, *cells])
    return Grid(headings=headings, rows=rows, printed=theirs, source=results.source_of(used))


def _bucket_heading(rows: Sequence[Row], bucket: str) -> str:
    return f"{bucket} tokens ({rows[0]['by_length'][bucket]['num_examples']:,} texts)"


def _bucket_cell(found: Sequence[Row], bucket: str) -> str:
    faster = spread(found, in_bucket(bucket, "flops_speedup"))
    quality = spread(found, in_bucket(bucket, "quality"))
    return (
        MISSING
        if faster is None or quality is None
        else f"{faster.write('.2f', unit='x')} ({100 * quality.mean:.1f} %)"
    )


def speedup_table(results: Results, curves: Curves, dataset: str) -> Grid:
    """Quality on test of the setting that is best on validation among those that are fast enough there."""
    headings = ["method", *(f"{wanted:g}x" for wanted in SPEEDUPS)]
    rows = []
    for method in results.methods:
        seeds = [curve for (name, other, _), curve in curves.items() if (name, other) == (dataset, method)]
        rows.append([method, *(_speedup_cell(seeds, wanted) for wanted in SPEEDUPS)])
    used = [row for row in results.rows if row["dataset"] == dataset]
    return Grid(headings=headings, rows=rows, source=results.source_of(used))


def _speedup_cell(seeds: Sequence[Sequence[Mapping[str, Any]]], wanted: float) -> str:
    found = []
    for curve in seeds:
        fast_enough = [point for point in curve if point["validation"]["flops_speedup"] >= wanted - 1e-9]
        if fast_enough:
            best = max(
                fast_enough, key=lambda p: (p["validation"]["quality"], p["validation"]["flops_speedup"])
            )
            found.append(best["test"])
    if len(found) < len(seeds) or not found:
        return MISSING
    quality = Spread.of([100 * point["quality"] for point in found])
    faster = Spread.of([point["flops_speedup"] for point in found])
    assert quality is not None
    assert faster is not None
    return f"{quality.write('.1f')} ({faster.mean:.1f}x)"


def rows_table(results: Results) -> Grid:
    """Which rows trained, chose and tested, by dataset."""
    facts: dict[str, Mapping[str, Any]] = {row["dataset"]: row["provenance"] for row in results.rows}
    rows = [
        [
            dataset,
            f"{facts[dataset]['train_rows']:,}",
            f"{facts[dataset]['validation_rows']:,}, {facts[dataset]['validation']}",
            f"{facts[dataset]['test_rows']:,}, {facts[dataset]['tested']}",
            results.metric(dataset),
            _percent(facts[dataset].get("commonest_label")),
        ]
        for dataset in results.datasets
    ]
    headings = ["dataset", "train rows", "validation rows", "test rows", "quality", "commonest label"]
    return Grid(headings=headings, rows=rows)


def training_table(results: Results) -> Grid:
    """Epochs of each method by stage, and what it is told beyond the labels; on the first dataset it has."""
    of_method = {row["method"]: row["training"] for row in reversed(results.rows)}
    stages = [name for name in STAGE_NAMES if any(name in facts["epochs"] for facts in of_method.values())]
    rows = []
    for method in results.methods:
        if method in of_method:
            facts = of_method[method]
            epochs = [f"{facts['epochs'][name]:g}" if name in facts["epochs"] else MISSING for name in stages]
            asked = MISSING if facts["target_speedup"] is None else f"{facts['target_speedup']:g}x"
            rows.append([method, *epochs, _percent(facts["teacher_share"] or None), asked])
    return Grid(headings=["method", *stages, "teacher in the later loss", "speed-up asked for"], rows=rows)


def target_table(results: Results) -> Grid | None:
    """Quality and FLOPs speed-up of what was trained towards a speed-up, as trained; None without such."""
    asked = {
        row["method"]: row["training"]["target_speedup"]
        for row in results.rows
        if row["setting"] == AS_TRAINED and row["training"]["target_speedup"] is not None
    }
    rows, used = [], []
    for method in results.methods:
        if method in asked:
            found = {dataset: results.of(dataset, method, AS_TRAINED) for dataset in results.datasets}
            used += [row for seeds in found.values() for row in seeds]
            rows.append([method, f"{asked[method]:g}x", *(_quality_cell(seeds) for seeds in found.values())])
    if not rows:
        return None
    headings = [f"{dataset}: {results.metric(dataset)} % (x reached)" for dataset in results.datasets]
    return Grid(headings=["method", "asked for", *headings], rows=rows, source=results.source_of(used))


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.1f} %"


def dense_table(results: Results) -> Grid:
    """Quality of every method with pruning and exits off; the teacher is one of them."""
    rows, used = [], []
    for method in results.methods:
        found = {dataset: results.of(dataset, method, OWN_DENSE) for dataset in results.datasets}
        used += [row for seeds in found.values() for row in seeds]
        rows.append([method, *(_dense_cell(seeds) for seeds in found.values())])
    headings = ["method", *(f"{dataset}: {results.metric(dataset)} %" for dataset in results.datasets)]
    return Grid(headings=headings, rows=rows, source=results.source_of(used))


def _dense_cell(found: Sequence[Row]) -> str:
    """Every score by which this kind of task is judged, the main one first."""
    names = list(found[0]["scores"]) if found else []
    return " / ".join(_score_cell(found, name) for name in names) or MISSING


def _score_cell(found: Sequence[Row], name: str) -> str:
    value = spread(found, lambda row: 100 * row["scores"][name])
    return MISSING if value is None else value.write(".1f")

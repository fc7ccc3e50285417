"""Results as a report: Markdown with pictures beside it, and one HTML file that needs nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from magic_pyramid.checkpoint.save import WEIGHTS_FILE
from magic_pyramid.classifier import Classifier
from magic_pyramid.report.attention import draw_attention
from magic_pyramid.report.sections import Section, report_html, report_markdown
from magic_pyramid.reproduce import pictures, tables
from magic_pyramid.reproduce.plan import cells_of
from magic_pyramid.reproduce.results import measured_runs
from magic_pyramid.reproduce.rows import SuiteRows
from magic_pyramid.reproduce.suite import Suite
from magic_pyramid.reproduce.summary import Results, distinct, points_of

PICTURES = "pictures"
HOW_TO_READ = (
    "Every speed-up is against the fine-tuned dense teacher of the same dataset and seed: the same encoder, "
    "the same rows, every token through every layer. FLOPs are a multiply-add as two, exit heads charged, "
    "padding not counted unless a title says so. Settings were chosen on validation; the numbers are from "
    "test, which chose nothing. All datasets together: the geometric mean of the speed-ups and the mean "
    "change; where a method never came so near, the dense teacher stands in for it. What has a dash was not "
    "measured. Behind ± stands the standard deviation over seeds."
)
THEIRS = (
    "Columns named printed, in italics, are numbers that papers state for their own backbone and training. "
    "They were not measured here, and the papers chose thresholds on the rows that they report."
)
_LONGEST_SHOWN = 40
"""Tokens of the longest text whose attention is drawn."""


def write_report(
    suite: Suite, rows: Sequence[dict[str, Any]], output: Path, *, texts: dict[str, SuiteRows]
) -> Path:
    """Write report.md, report.html and their pictures; gives the Markdown file.

    Args:
        suite: what was measured.
        rows: as ``results.jsonl`` has them; at least one.
        output: the folder of the suite.
        texts: rows of the datasets that are loaded; one text of theirs is followed through a model.
    """
    results = Results(suite, rows)
    folder = output / PICTURES
    folder.mkdir(exist_ok=True)
    sections = _sections(results, _curves(suite, output), output, texts)
    title = f"Suite {suite.name}"
    report = output / "report.md"
    report.write_text(report_markdown(title, sections, folder=output), encoding="utf-8")
    (output / "report.html").write_text(report_html(title, sections), encoding="utf-8")
    return report


def _curves(suite: Suite, output: Path) -> tables.Curves:
    return {
        (run.cell.dataset.name, run.cell.method.name, run.cell.seed): run.measured["curve"]
        for run in measured_runs(suite, output)
    }


def _sections(
    results: Results, curves: tables.Curves, output: Path, texts: dict[str, SuiteRows]
) -> list[Section]:
    folder = output / PICTURES
    by_threshold = [(name, tables.threshold_table(results, name)) for name in results.datasets]
    printed = [(name, tables.printed_table(results, name)) for name in results.datasets]
    reached = tables.target_table(results)
    drop = max(results.suite.max_drops)
    return [
        Section(title="What was measured", words=[*filter(None, [results.suite.about]), HOW_TO_READ, THEIRS],
                grids=[("Rows", tables.rows_table(results)),
                       ("Epochs of training, by stage", tables.training_table(results))]),
        *(
            Section(title=f"Speed-up at most {points_of(value)} below the teacher",
                    grids=tables.comparison(results, value))
            for value in results.suite.max_drops
        ),
        Section(title="Quality and GFLOPs (Magic Pyramid, table 3)",
                words=[f"The fastest setting that lost at most {points_of(drop)} on validation."],
                grids=[("Measured here", tables.main_table(results)),
                       *((f"{name}, beside printed numbers", grid) for name, grid in printed if grid)]),
        Section(title="Quality and FLOPs: every method",
                picture=pictures.draw_pareto(results, curves, folder / "flops.png"),
                caption="Quality over the FLOPs saved, one panel for each dataset.",
                grids=[(f"{name}: quality at a speed-up, in brackets the one reached on test",
                        tables.speedup_table(results, curves, name)) for name in results.datasets]),
        *([] if reached is None else [
            Section(title="Speed-up asked for, and reached on test",
                    words=["Models that were trained towards a speed-up, with pruning as it was trained."],
                    grids=[("Quality, and FLOPs against the dense teacher", reached)])]),
        *_picture("Quality and time: every method", pictures.draw_latency(results, folder / "time.png"),
                  "Quality over the measured speed-up, one panel for each dataset."),
        Section(title="Speed-up by exit threshold (Magic Pyramid, table 4)",
                grids=[(name, grid) for name, grid in by_threshold if grid is not None]),
        Section(title="Speed-up by length (Magic Pyramid, figure 1)",
                picture=pictures.draw_lengths(results, folder / "lengths.png"),
                caption="FLOPs speed-up by length of the text, one panel for each dataset.",
                grids=[(name, tables.length_table(results, name)) for name in results.datasets]),
        Section(title="Tokens alive per layer", picture=pictures.draw_alive(results, folder / "alive.png"),
                caption="Mean tokens alive after each layer, over all test texts."),
        *_picture("Where texts leave", pictures.draw_exits(results, folder / "exits.png"),
                  "Share of the test texts that have left by each layer."),
        *_picture("Which token falls (Magic Pyramid, figure 3)", _attention(results, output, texts),
                  "One layer, one test text: a token whose column mean stays below the line falls."),
        Section(title="Own dense weights",
                words=["What each model answers with pruning and exits off."],
                grids=[("Quality on test", tables.dense_table(results))]),
        Section(title="Provenance", words=[
            results.source_of(results.rows),
            *(f"Command {place}: {command}" for place, command in enumerate(results.commands, start=1)),
            *_timing(results),
        ]),
    ]  # fmt: skip


def _picture(title: str, picture: Path | None, caption: str) -> list[Section]:
    return [] if picture is None else [Section(title=title, picture=picture, caption=caption)]


def _timing(results: Results) -> list[str]:
    timed = [row["provenance"] for row in results.rows if row.get("latency_ms")]
    if not timed:
        return []
    repeats, rows, size, threads, where, commit, against = (
        distinct(timed, f"timed_{name}")
        for name in ("repeats", "rows", "batch_size", "threads", "machine", "commit", "against")
    )
    return [
        f"Time: medians of {repeats} runs of {rows} texts at even distances over their lengths, batches of "
        f"{size}, {threads} thread(s), {where}, commit {commit}; against {against}."
    ]


def _attention(results: Results, output: Path, texts: dict[str, SuiteRows]) -> Path | None:
    """The layer that drops most tokens of one test text, in the first stored model that prunes."""
    shown = results.suite.shows_text_of
    for cell in cells_of(results.suite):
        rows, may_show = texts.get(cell.dataset.name), shown is None or cell.dataset.name in shown
        has_weights = (cell.folder(output) / WEIGHTS_FILE).exists()
        if rows is None or not may_show or not cell.is_reported or not has_weights:
            continue
        classifier = Classifier.from_pretrained(cell.folder(output))
        if classifier.config.prune is None or classifier.config.span is not None:
            continue
        lengths = classifier.encode([example.inputs for example in rows.test]).lengths
        short = [place for place, length in enumerate(lengths) if length <= _LONGEST_SHOWN]
        place = max(short, key=lambda place: lengths[place], default=0)
        trace = classifier.explain(
            rows.test[place].inputs, prune_scale=1.0, exit_threshold=None, with_attention=True
        )
        layer = max(range(trace.num_layers_run), key=lambda layer: len(trace.layers[layer].dropped))
        return draw_attention(trace, layer, output / PICTURES / "attention.png")
    return None

"""`magic-pyramid calibrate`: a speed setting with a guarantee, from held-out texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table
from rich.text import Text

from magic_pyramid.cli.evaluate import load_for
from magic_pyramid.cli.options import (
    DataOption,
    JsonOption,
    LabelColumn,
    PairColumn,
    TextColumn,
    ThreadsOption,
    WhereOption,
    columns_of,
    read_pairs,
)
from magic_pyramid.cli.output import print_json, say, show, typed
from magic_pyramid.data import Columns, Example, iter_rows
from magic_pyramid.errors import ConfigError, InputError

if TYPE_CHECKING:
    from magic_pyramid.certify import Certificate, Goal
    from magic_pyramid.classifier import EngineName

EXAMPLES = (
    "magic-pyramid calibrate runs/reviews --data held_out.jsonl --max-drop 0.5 --confidence 0.95",
    "magic-pyramid calibrate runs/reviews --data logs.csv --unlabelled --per-layer",
    "magic-pyramid calibrate runs/reviews --data held_out.jsonl --target-speedup 5",
    "magic-pyramid calibrate runs/reviews --data held_out.jsonl --target-latency-ms 4 --threads 1",
)
"""Shown by ``--help``."""


def calibrate(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="DIR", show_default=False, help="Model folder, or an export for the native engine."
        ),
    ],
    data: DataOption,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop", metavar="POINTS", help="Points of accuracy that may be lost; default 0.5."
        ),
    ] = None,
    target_speedup: Annotated[
        float | None,
        typer.Option(
            "--target-speedup",
            metavar="X",
            help="Instead: save so many times the FLOPs, and say what is lost.",
        ),
    ] = None,
    target_latency_ms: Annotated[
        float | None,
        typer.Option(
            "--target-latency-ms",
            metavar="MS",
            help="Instead: answer a single text in so long on this machine.",
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option("--confidence", metavar="C", help="How sure the promise is, in [0.5, 0.999].")
    ] = 0.95,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Agree with the dense model instead of with labels.")
    ] = False,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Also try a threshold of its own for each exit head.")
    ] = False,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "validation",
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Go on although rows were seen in training.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the split into searching and testing halves.")] = 0,
    engine: Annotated[str, typer.Option("--engine", help="auto, native or torch.")] = "auto",
    text_column: TextColumn = None,
    text_pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    where: WhereOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the fastest setting whose loss against the dense model is bounded with confidence, and store it.

    Half of the rows suggest a path of settings, the other half tests it. The rows must not have been used in
    training. The folder's default, speed=certified, balanced and fastest are written into it.
    """
    goal = goal_of(
        {"max_drop": max_drop, "target_speedup": target_speedup, "target_latency_ms": target_latency_ms},
        confidence=confidence, is_labelled=not unlabelled, per_layer=per_layer, seed=seed,
    )  # fmt: skip
    columns = columns_of(text_column, text_pair_column, label_column)
    conditions = read_pairs(where, option="--where")
    from magic_pyramid import tuning
    from magic_pyramid.classifier import Classifier, use_threads
    from magic_pyramid.data import fingerprint_of

    if threads is not None:
        use_threads(threads)
    if unlabelled and Path(data).is_file():
        name, examples = Path(data).name, texts_of(data, columns, where=conditions)
    else:
        config = Classifier.from_pretrained(model).config
        labelled = load_for(config, data, model=model, split=split, columns=columns, where=conditions)
        ((found, examples), *_), name = labelled.splits.items(), labelled.name
        name = name if Path(data).is_file() else f"{name}, {found}"
    certificate = tuning.certify_folder(
        model,
        examples,
        goal=goal,
        engine=cast("EngineName", engine),
        allow_overlap=allow_overlap,
        provenance={
            "data": name,
            "fingerprint": fingerprint_of(examples),
            "command": typed(context.obj["argv"]),
        },
        say=say,
    )
    if as_json:
        print_json({"model": model, **certificate.to_dict()})
        return
    show(curve_table(certificate), Text(), speeds_table(certificate), Text(), *map(Text, notes(certificate)))


def goal_of(values: dict[str, float | None], **options: Any) -> "Goal":
    """The one goal that was named; otherwise half a point.

    Raises:
        ConfigError: several were named, or the value is impossible.
    """
    from magic_pyramid.certify import Goal

    given = {kind: value for kind, value in values.items() if value is not None}
    if len(given) > 1:
        names = ", ".join(f"--{kind.replace('_', '-')}" for kind in given)
        raise ConfigError(f"{names} were given; give one of them")
    kind, value = next(iter(given.items()), ("max_drop", 0.5))
    return Goal(kind=kind, value=value, **options)  # type: ignore[arg-type]


def texts_of(data: str, columns: Columns, *, where: Mapping[str, str]) -> list[Example]:
    """The texts of a file without labels, of rows whose columns have the values.

    Raises:
        InputError: a row is bad, or none is left.
    """
    examples = []
    for row in iter_rows(data, columns=columns):
        if any(str(row.raw.get(column)) != value for column, value in where.items()):
            continue
        if row.example is None:
            raise InputError(f"{data}, line {row.line}: {row.error}")
        examples.append(row.example)
    if not examples:
        asked = ", ".join(f"{column}={value}" for column, value in where.items()) or "a text"
        raise InputError(f"{data}: no row has {asked}")
    return examples


def curve_table(certificate: "Certificate") -> Table:
    """Points of the path from the dense model to the fastest setting, the certified one among them."""
    table = _table("path, safest first", ("fewer FLOPs", "drop", "p", "", "prune scale", "exit thresholds"))
    for point in certificate.excerpt():
        p_value = "" if point.p_value is None else f"{point.p_value:.3f}"
        mark = "◀ certified" if point.is_certified else ""
        _add(table, point, f"{point.drop:.2f}", p_value, mark)
    return table


def speeds_table(certificate: "Certificate") -> Table:
    """The settings that have a name."""
    table = _table("speeds", ("speed", "fewer FLOPs", "drop", "prune scale", "exit thresholds"))
    for speed in certificate.speeds:
        _add(table, speed, f"{speed.drop:.2f}", before=(speed.name,))
    return table


def notes(certificate: "Certificate") -> list[str]:
    """The promise in one sentence, and what must be known beside it."""
    lines = [certificate.sentence()]
    if not certificate.is_certified:
        lines.append("speed=certified and the folder's default run the dense model.")
    if certificate.latency_ms is not None:
        lines.append(f"measured here: {certificate.latency_ms:.2f} ms a text (median of single texts)")
    overlap = certificate.provenance.get("overlap_with_training")
    if overlap is None:
        lines.append(
            "The folder does not say which rows it was trained on; make sure that it saw none of these."
        )
    elif overlap:
        lines.append(f"{overlap:,} rows were seen in training, so the promise is not to be relied on.")
    return lines


def _table(title: str, headings: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.title_style, table.header_style = "bold", "bright_black"
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("", "speed", "exit thresholds") else "right")
    return table


def _add(table: Table, point: Any, *cells: str, before: tuple[str, ...] = ()) -> None:
    from magic_pyramid.report.card import threshold_words

    table.add_row(
        *before,
        f"{point.flops_speedup:.2f}x",
        *cells,
        f"{point.prune_scale:g}",
        threshold_words(point.exit_thresholds),
    )

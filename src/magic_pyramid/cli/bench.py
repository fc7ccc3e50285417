"""`magic-pyramid bench`: every engine on the same weights, texts and threads, measured in turns."""

from pathlib import Path
from typing import Annotated, Any

import typer

from magic_pyramid.cli.evaluate import load_for
from magic_pyramid.cli.options import (
    DEMO,
    JsonOption,
    LabelColumn,
    ModelArgument,
    PairColumn,
    TextColumn,
    WhereOption,
    columns_of,
    read_pairs,
)
from magic_pyramid.cli.output import PICTURE_SUFFIXES, check_target, plain, print_json, say, show, typed
from magic_pyramid.data import Columns, Example
from magic_pyramid.errors import ConfigError, InputError

EXAMPLES = (
    "magic-pyramid bench demo --max-rows 100",
    "magic-pyramid bench runs/reviews --data reviews/ --threads 1,2 --markdown bench.md --plot bench.png",
    "magic-pyramid bench demo --only magic_pyramid_native,openvino --lengths 16,64,256 --growth-plot g.png",
)
"""Shown by ``--help``."""


def bench(
    context: typer.Context,
    model: ModelArgument,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Labelled texts, as for evaluate; the packaged ones for the model demo."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    max_rows: Annotated[
        int | None, typer.Option("--max-rows", min=1, help="Use at most so many rows, labels in proportion.")
    ] = None,
    threads: Annotated[
        str, typer.Option("--threads", metavar="N,...", help="Numbers of CPU threads, one after the other.")
    ] = "1",
    batch: Annotated[
        str,
        typer.Option("--batch", metavar="N,...", help="Batch sizes; 1 is always measured, for the latency."),
    ] = "1,32,128",
    lengths: Annotated[
        str | None,
        typer.Option("--lengths", metavar="N,...", help="Measure random sequences of these lengths too."),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Timed passes of each contender, alternating.")
    ] = 3,
    only: Annotated[
        str | None, typer.Option("--only", metavar="NAME,...", help="Contenders or engines; otherwise all.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of rows and the random sequences.")] = 0,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write the tables into this file too.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw accuracy and latency of all of them, as PNG.")
    ] = None,
    growth_plot: Annotated[
        Path | None, typer.Option("--growth-plot", help="Draw time over the --lengths, as PNG.")
    ] = None,
    text_column: TextColumn = None,
    text_pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    where: WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure our engines, dense and adaptive, against the engines a user would pick instead.

    Peers: transformers (eager, compiled, pipeline), ONNX Runtime, OpenVINO, CTranslate2 and
    sentence-transformers; the extra named bench installs them. What is missing or does not apply is skipped
    with the reason; a contender whose answers are not the model's is refused.
    """
    from magic_pyramid.bench.run import BenchOptions, run_bench

    options = BenchOptions(
        threads=read_counts(threads, option="--threads"),
        batch_sizes=read_counts(batch, option="--batch"),
        lengths=read_counts(lengths, option="--lengths") if lengths else (),
        repeats=repeats,
        only=tuple(name.strip() for name in only.split(",")) if only else (),
        seed=seed,
    )
    if growth_plot is not None and not options.lengths:
        raise ConfigError("--growth-plot draws time over lengths; give --lengths 16,64,256 too")
    check_target(markdown)
    for picture in (plot, growth_plot):
        check_target(picture, suffixes=PICTURE_SUFFIXES)
    conditions = read_pairs(where, option="--where")
    columns = columns_of(text_column, text_pair_column, label_column)
    if data is None and model != DEMO:
        raise InputError("bench needs labelled texts: give --data")
    from magic_pyramid.classifier import Classifier
    from magic_pyramid.data.sampling import subset

    classifier = Classifier.from_pretrained(model, engine="torch")
    examples = _examples(classifier, data, model=model, split=split, columns=columns, where=conditions)
    if max_rows is not None:
        examples = subset(examples, rows=max_rows, seed=seed)
    say(f"{len(examples):,} texts")
    result = run_bench(classifier, examples, options=options, say=say)
    command = typed(context.obj["argv"])
    result["provenance"] = {"command": command, "model": model, "data": data or DEMO, **result["provenance"]}
    result = plain(result)
    if as_json:
        print_json(result)
    _write(result, markdown=markdown, plot=plot, growth_plot=growth_plot, to_screen=not as_json)


def _examples(
    classifier: Any,
    data: str | None,
    *,
    model: str,
    split: str,
    columns: Columns,
    where: dict[str, str],
) -> list[Example]:
    if data is None:
        from magic_pyramid.demo import demo_data

        return [example for rows in demo_data().values() for example in rows]
    labelled = load_for(classifier.config, data, model=model, split=split, columns=columns, where=where)
    (examples, *_) = labelled.splits.values()
    return list(examples)


def _write(
    result: dict[str, Any],
    *,
    markdown: Path | None,
    plot: Path | None,
    growth_plot: Path | None,
    to_screen: bool,
) -> None:
    from magic_pyramid.report.bench_table import bench_markdown, bench_renderable

    if to_screen:
        show(bench_renderable(result))
    if markdown is not None:
        markdown.write_text(bench_markdown(result), encoding="utf-8")
    if plot is not None:
        from magic_pyramid.report.bench_plot import draw_bench

        draw_bench(result, plot)
    if growth_plot is not None:
        from magic_pyramid.report.growth_plot import draw_growth

        draw_growth(result, growth_plot)


def read_counts(text: str, *, option: str) -> tuple[int, ...]:
    """Positive whole numbers between commas.

    Raises:
        ConfigError: something else stands there, or a number twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts) or len(set(parts)) != len(parts):
        raise ConfigError(f"{option} is {text!r}; give different whole numbers of at least 1: {option} 1,2")
    return tuple(map(int, parts))

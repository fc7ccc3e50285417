"""`magic-pyramid predict`: answer texts, or a stream of rows of any length."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.table import Table
from rich.text import Text

from magic_pyramid.cli.options import (
    BatchOption,
    DeviceOption,
    JsonOption,
    ModelArgument,
    PairColumn,
    ScaleOption,
    SpeedOption,
    TextColumn,
    ThreadsOption,
    ThresholdOption,
    choose_device,
    columns_of,
    knobs,
    read_batch_size,
)
from magic_pyramid.cli.output import check_target, say, show
from magic_pyramid.data import Columns, Example, Row, iter_rows
from magic_pyramid.errors import ConfigError

_BAD_ROWS = 1
STANDARD = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Where rows come from and where answers go."""

    source: str | None
    """File, ``-`` for standard input, or None: the texts of the command line."""
    texts: tuple[Row, ...]
    source_format: str
    target: Path | None
    """None: standard output."""
    target_format: str
    columns: Columns
    resume: bool
    speed_column: str | None = None

    def rows(self) -> Iterator[Row]:
        """The rows of the input."""
        if self.source is None:
            return iter(self.texts)
        return iter_rows(self.source, format=self.source_format, columns=self.columns)


EXAMPLES = (
    'magic-pyramid predict demo "A quiet, lovely film." "Two hours I want back."',
    "magic-pyramid predict demo --input reviews.csv --output answers.csv",
    "cat reviews.jsonl | magic-pyramid predict demo --exit-threshold 0.3 > answers.jsonl",
    "magic-pyramid predict demo --input reviews.csv --output answers.csv --resume",
    'magic-pyramid predict runs/squad "Who won?" --text-pair "Denver won the final."',
)
"""Shown by ``--help``."""


def predict(
    model: ModelArgument,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", show_default=False, help="Texts to answer.")
    ] = None,
    text_pair: Annotated[
        str | None,
        typer.Option("--text-pair", metavar="TEXT", help="The second text or the context, beside one TEXT."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--input", metavar="FILE", help="Rows to answer: a file, or - for standard input."),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write here (.jsonl, .csv, .tsv) instead of stdout."),
    ] = None,
    source_format: Annotated[
        str | None,
        typer.Option(
            "--format", help="jsonl, json, csv, tsv, txt or parquet; otherwise told by the file's name."
        ),
    ] = None,
    target_format: Annotated[
        str | None,
        typer.Option("--output-format", help="jsonl, csv or tsv; otherwise as --output or --input is named."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the rows that --output lacks after an interruption.")
    ] = False,
    text_column: TextColumn = None,
    text_pair_column: PairColumn = None,
    exit_threshold: ThresholdOption = None,
    prune_scale: ScaleOption = None,
    speed: SpeedOption = None,
    speed_column: Annotated[
        str | None,
        typer.Option("--speed-column", help="Column that names the speed of each row; empty: as calibrated."),
    ] = None,
    batch_size: BatchOption = None,
    chunk_rows: Annotated[
        int, typer.Option("--chunk-rows", min=1, help="Rows read and answered together; memory is for these.")
    ] = 1024,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Answer texts, or every row of a file, with what each answer cost.

    A row keeps its columns (one called like ours becomes input_...) and gains label, score, probabilities,
    exit_layer, num_layers_run, tokens, num_tokens and gflops. Of a model that answers questions, a row needs
    question and context, and gains answer, start, end and num_windows in place of label, probabilities and
    exit_layer. A bad row gains error instead, is reported, and the exit code is 1 at the end. Memory does not
    grow with the number of rows.
    """
    check_target(target)
    if as_json and _target_format(target, target_format, "jsonl") != "jsonl":
        raise ConfigError("--json writes JSON lines; leave it out, or name an output of .jsonl")
    job = plan_job(
        texts or [],
        text_pair=text_pair,
        source=source,
        target=target,
        source_format=source_format,
        target_format="jsonl" if as_json else target_format,
        columns=columns_of(text_column, text_pair_column),
        resume=resume,
        speed_column=speed_column,
    )
    knobs_given = any(knob is not None for knob in (exit_threshold, prune_scale, speed))
    if speed_column is not None and knobs_given:
        raise ConfigError("--speed-column names the speed of each row; give it, or the knobs of all rows")
    given, size = knobs(exit_threshold, prune_scale, speed), read_batch_size(batch_size)
    rows = job.rows()
    predictor = _load(model, threads=threads, device=device)
    answer = _answering(predictor, batch_size=size, knobs=given)
    if job.source is None and job.target is None and target_format is None and not as_json:
        num_bad = show_answers(job, rows, answer, predictor.config)
    else:
        num_bad = stream_answers(job, rows, answer, predictor.config, chunk_rows=chunk_rows)
    if num_bad:
        raise typer.Exit(_BAD_ROWS)


def _load(model: str, *, threads: int | None, device: str) -> Any:
    """An exported folder without PyTorch, anything else with it."""
    from magic_pyramid.engine.exported import exported_for
    from magic_pyramid.engine.threads import prefer_threads

    if exported_for(model) is not None:
        from magic_pyramid.predictor import Predictor

        if threads is not None:
            prefer_threads(threads)
        return Predictor.from_pretrained(model)
    from magic_pyramid.classifier import Classifier, use_threads

    if threads is not None:
        use_threads(threads)
    loaded = Classifier.from_pretrained(model, device=choose_device(device))
    if loaded.config.span is None:
        return loaded
    from magic_pyramid.question_answering import QuestionAnswering

    return QuestionAnswering(loaded.model, loaded.encoder, info=loaded.info)


def _answering(predictor: Any, *, batch_size: int | None, knobs: dict[str, Any]) -> Callable[[Any], Any]:
    if predictor.config.span is not None:
        return _answering_questions(predictor, batch_size=batch_size, knobs=knobs)

    def answer(texts: Any, **own: Any) -> Any:
        return predictor.predict(texts, batch_size=batch_size, **knobs, **own)

    return answer


def _answering_questions(
    model: Any, *, batch_size: int | None, knobs: dict[str, Any]
) -> Callable[[Any], Any]:
    other = [name for name in knobs if name != "prune_scale"]
    if other:
        option = f"--{other[0].replace('_', '-')}"
        raise ConfigError(f"{option} does nothing: a model that answers questions has --prune-scale alone")

    def answer(pairs: Any, *, speed: Any = None) -> Any:
        if speed is not None:
            raise ConfigError("--speed-column does nothing: a model that answers questions has no speeds")
        return [found[0] for found in model.answer(pairs, batch_size=batch_size, **knobs)]

    return answer


def plan_job(
    texts: Sequence[str],
    *,
    text_pair: str | None,
    source: str | None,
    target: Path | None,
    source_format: str | None,
    target_format: str | None,
    columns: Columns,
    resume: bool,
    speed_column: str | None = None,
) -> Job:
    """Settle where rows come from, where answers go, and in which formats.

    Raises:
        ConfigError: the options contradict each other or name an unknown format.
    """
    if texts and source is not None:
        raise ConfigError("texts and --input were given; give one of them")
    if not texts and source is None:
        if sys.stdin.isatty():
            raise ConfigError("nothing to answer; give texts, --input FILE, or rows on standard input")
        source = STANDARD
    if texts and speed_column is not None:
        raise ConfigError("--speed-column names a column of rows; texts have none: give --input, or --speed")
    if text_pair is not None and len(texts) != 1:
        raise ConfigError(f"--text-pair goes with one text; {len(texts)} were given; use --input for pairs")
    if resume and (target is None or source is None):
        raise ConfigError("--resume goes on with a file; give --input and --output FILE")
    used_source = _source_format(source, source_format)
    used_target = _target_format(target, target_format, used_source)
    if source is not None and _is_same_file(Path(source), target):
        raise ConfigError("--input and --output are the same file; name another --output")
    return Job(
        source=source,
        texts=tuple(_text_row(place, text, text_pair) for place, text in enumerate(texts, start=1)),
        source_format=used_source,
        target=target,
        target_format=used_target,
        columns=columns,
        resume=resume,
        speed_column=speed_column,
    )


def _is_same_file(source: Path, target: Path | None) -> bool:
    return target is not None and target.exists() and source.exists() and target.samefile(source)


def _source_format(source: str | None, name: str | None) -> str:
    from magic_pyramid.data.records import check_format, format_of

    if name is not None:
        return check_format(name)
    return "jsonl" if source in (None, STANDARD) else format_of(str(source))


def _target_format(target: Path | None, name: str | None, source_format: str) -> str:
    from magic_pyramid.cli.row_files import OUTPUT_FORMATS, check_output_format

    if name is not None:
        return check_output_format(name)
    if target is not None and target.suffix:
        return check_output_format(target.suffix.removeprefix("."))
    return source_format if source_format in OUTPUT_FORMATS else "jsonl"


def _text_row(line: int, text: str, pair: str | None) -> Row:
    raw = {"text": text} if pair is None else {"text": text, "text_pair": pair}
    if not text.strip() or (pair is not None and not pair.strip()):
        return Row(line=line, example=None, raw=raw, error="the text is empty; write a text")
    return Row(line=line, example=Example(text=text, text_pair=pair), raw=raw)


def stream_answers(
    job: Job, rows: Iterator[Row], answer: Callable[[Any], Any], config: Any, *, chunk_rows: int
) -> int:
    """Answer every row and write it; give the number of bad ones, earlier runs included."""
    from magic_pyramid.cli.resuming import NOTHING, finished_rows
    from magic_pyramid.cli.row_files import TableRows, row_writer
    from magic_pyramid.prediction_stream import StreamTotals, answer_rows, fields_of

    done, names = NOTHING, fields_of(config)
    if job.resume and job.target is not None:
        done = finished_rows(job.target, rows, format=job.target_format, labels=config.labels, names=names)
        say(f"{job.target}: {done.num_rows:,} rows are finished; going on")
    totals, started_s = StreamTotals(), time.perf_counter()
    with _target(job.target, keep_bytes=done.num_bytes) as stream:
        writer = row_writer(stream, job.target_format, header=done.header, names=names)
        try:
            for chunk in answer_rows(
                rows, answer, config=config, chunk_rows=chunk_rows, speed_field=job.speed_column
            ):
                writer.write([row.fields() for row in chunk])
                totals.add(chunk)
                _report_bad(job, chunk)
            writer.close()
        except KeyboardInterrupt:
            if job.target is not None and job.source is not None:
                count = totals.num_rows + done.num_rows
                say(f"{count:,} rows are in {job.target}; --resume goes on from there")
            raise
    if isinstance(writer, TableRows) and writer.left_out:
        left_out = ", ".join(sorted(writer.left_out))
        say(f"left out, because the first row does not have them: columns {left_out}")
    say(_summary(totals, done.num_bad, seconds=time.perf_counter() - started_s, config=config))
    return totals.num_bad + done.num_bad


@contextmanager
def _target(path: Path | None, *, keep_bytes: int) -> Iterator[BinaryIO]:
    if path is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        return
    with path.open("r+b" if keep_bytes else "wb") as stream:
        stream.truncate(keep_bytes)
        stream.seek(keep_bytes)
        yield stream


def _report_bad(job: Job, chunk: Sequence[Any]) -> None:
    name = {None: "text", STANDARD: "standard input, line"}.get(job.source, f"{job.source}, line")
    for answered in chunk:
        if answered.answer is None:
            say(f"{name} {answered.row.line}: {answered.error}")


def _summary(totals: Any, bad_before: int, *, seconds: float, config: Any) -> str:
    means = totals.means()
    parts = [f"{totals.num_rows:,} rows in {seconds:.1f} s"]
    if totals.num_bad or bad_before:
        before = f" and {bad_before:,} earlier" if bad_before else ""
        parts.append(f"{totals.num_bad:,} bad{before}")
    if means["gflops"] is not None:
        layers = config.backbone.num_hidden_layers
        parts.append(f"{means['mean_layers']:.1f} of {layers} layers, {means['gflops']:.3g} GFLOPs a row")
    return "; ".join(parts)


def show_answers(job: Job, rows: Iterator[Row], answer: Callable[[Any], Any], config: Any) -> int:
    """Print the answers to the texts of the command line as a table; give the number of bad ones."""
    from magic_pyramid.prediction_stream import answer_rows

    table = Table(box=None, pad_edge=False, header_style="bright_black")
    for heading in (
        "text",
        "label" if config.span is None else "answer",
        "score",
        "layers",
        "tokens",
        "GFLOPs",
    ):
        table.add_column(heading, justify="left" if heading in ("text", "label", "answer") else "right")
    num_bad = 0
    for chunk in answer_rows(rows, answer, config=config):
        _report_bad(job, chunk)
        for row in chunk:
            if row.answer is None:
                num_bad += 1
                continue
            table.add_row(*_cells(row.row.raw, row.answer, config))
    if table.row_count:
        show(table)
    return num_bad


def _cells(raw: dict[str, Any], answer: Any, config: Any) -> list[Text]:
    label = answer["label"] if config.span is None else answer["answer"] or "no answer"
    alive = answer["num_tokens"][answer["num_layers_run"]]
    cells = [
        " | ".join(raw.values()),
        _label_text(label),
        f"{answer['score']:.3f}",
        f"{answer['num_layers_run']} of {config.backbone.num_hidden_layers}",
        f"{answer['tokens']} → {alive}",
        f"{answer['gflops']:.3g}",
    ]
    return [Text(cell) for cell in cells]


def _label_text(label: Any) -> str:
    if isinstance(label, list):
        return ", ".join(label) or "no label"
    return f"{label:.3g}" if isinstance(label, float) else str(label)

"""`magic-pyramid evaluate`: accuracy, FLOPs and wall-clock on labelled texts, against the dense twin."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magic_pyramid.cli.options import (
    BatchOption,
    DataOption,
    DeviceOption,
    JsonOption,
    LabelColumn,
    ModelArgument,
    PairColumn,
    ScaleOption,
    SpeedOption,
    TestShare,
    TextColumn,
    ThreadsOption,
    ThresholdOption,
    WhereOption,
    choose_device,
    columns_of,
    knobs,
    read_batch_size,
    read_pairs,
)
from magic_pyramid.cli.output import PICTURE_SUFFIXES, check_target, print_json, say, show
from magic_pyramid.config import ModelConfig
from magic_pyramid.data import Columns, LabelledData, load_data
from magic_pyramid.errors import InputError

if TYPE_CHECKING:
    from magic_pyramid.classifier import Classifier
    from magic_pyramid.data import Example

EXAMPLES = (
    "magic-pyramid evaluate runs/reviews --data reviews/ --split test",
    "magic-pyramid evaluate demo --data my_reviews.csv --exit-threshold 0.3 --json",
)
"""Shown by ``--help``."""


def evaluate(
    model: ModelArgument,
    data: DataOption,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    exit_threshold: ThresholdOption = None,
    prune_scale: ScaleOption = None,
    speed: SpeedOption = None,
    batch_size: BatchOption = "32",
    repeats: Annotated[
        int, typer.Option("--repeats", min=0, help="Timed runs of each side, alternating; 0 times nothing.")
    ] = 5,
    max_rows: Annotated[
        int | None,
        typer.Option("--max-rows", min=1, help="Evaluate at most so many rows, labels in proportion."),
    ] = None,
    text_column: TextColumn = None,
    text_pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    where: WhereOption = None,
    test_share: TestShare = 0.0,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--sweep", metavar="FILE", help="Draw accuracy over FLOPs of every setting (.png, .svg)."
        ),
    ] = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure a model on labelled texts, next to the same weights with pruning and exits off."""
    given = knobs(exit_threshold, prune_scale, speed)
    size, conditions = read_batch_size(batch_size), read_pairs(where, option="--where")
    columns = columns_of(text_column, text_pair_column, label_column)
    check_target(picture, suffixes=PICTURE_SUFFIXES)
    from magic_pyramid.classifier import Classifier, use_threads

    if threads is not None:
        use_threads(threads)
    classifier = Classifier.from_pretrained(model, device=choose_device(device))
    if picture is not None:
        # An engine that cannot draw the curve says so before anything is measured.
        _ = classifier.all_heads_engine
    labelled = load_for(
        classifier.config,
        data,
        model=model,
        split=split,
        columns=columns,
        where=conditions,
        test_share=test_share,
    )
    # One split was asked for, and it may go by another name here ("dev").
    (found, examples), *_ = labelled.splits.items()
    if max_rows is not None:
        from magic_pyramid.data.sampling import subset

        examples = subset(examples, rows=max_rows, seed=0)
    say(f"{labelled.name}, {found}: {len(examples):,} texts")
    row = {
        "model": model,
        "data": labelled.name,
        "split": found,
        **classifier.evaluate(examples, batch_size=size, repeats=repeats, **given),
    }
    if picture is not None:
        row["sweep"] = draw(classifier, examples, picture, title=f"{model} on {labelled.name}, {found}")
    if as_json:
        print_json(row)
        return
    from magic_pyramid.report.table import evaluation_renderable

    show(evaluation_renderable([row], title=f"{model} on {labelled.name}, {found}"))


def draw(classifier: "Classifier", examples: "list[Example]", picture: Path, *, title: str) -> dict[str, Any]:
    """Draw the curve of a model, with the stored speeds marked; gives its points."""
    from magic_pyramid.certify import SPEEDS
    from magic_pyramid.certify.certificate import stored_certificate
    from magic_pyramid.engine.interface import DENSE
    from magic_pyramid.labelled_rows import label_rows
    from magic_pyramid.metrics import METRIC_NAMES
    from magic_pyramid.report.sweep_plot import draw_sweep
    from magic_pyramid.sweep import sweep

    config = classifier.config
    named = {"dense": DENSE, "default": classifier.setting()}
    if stored_certificate(classifier.info) is not None:
        named = {"dense": DENSE, **{name: classifier.setting(speed=name) for name in SPEEDS}}
    rows = label_rows(classifier.encoder, examples, config)
    points, marked = sweep(classifier.all_heads_engine, config, rows.encoded, rows.labels, named=named)
    draw_sweep(points, marked, picture, title=title, metric=METRIC_NAMES[config.problem_type])
    say(f"drawn: {picture}")
    return {"points": points, "named": marked}


def load_for(
    config: ModelConfig,
    data: str,
    *,
    model: str,
    split: str,
    columns: Columns,
    where: dict[str, str],
    test_share: float = 0.0,
) -> LabelledData:
    """One split of the data, its labels numbered as the model numbers them.

    Raises:
        InputError: the data cannot be used, has no such split, or has other labels than the model.
    """
    wanted: dict[str, Any] = {"columns": columns, "where": where, "split": split, "test_share": test_share}
    try:
        return load_data(data, labels=config.labels, problem_type=config.problem_type, **wanted)
    except InputError as error:
        strangers = _unknown_labels(config, data, wanted)
        if not strangers:
            raise
        raise InputError(
            f"the labels of {data} are not those of the model {model}: the data has {_named(strangers)}; "
            f"the model knows {_named(config.labels)}; use data with the model's labels, "
            "or name another --label-column"
        ) from error


def _unknown_labels(config: ModelConfig, data: str, wanted: dict[str, Any]) -> tuple[str, ...]:
    """Labels of the data, in case the model does not know all of them; otherwise nothing."""
    try:
        found = load_data(data, problem_type=config.problem_type, **wanted).labels
    except InputError:
        return ()
    return () if set(found) <= set(config.labels) else found


def _named(labels: tuple[str, ...]) -> str:
    most = 12
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(map(repr, labels[:most])) + more

"""`magic-pyramid tune-engine`: ask only the exit heads that pay on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table
from rich.text import Text

from magic_pyramid.cli.evaluate import load_for
from magic_pyramid.cli.options import (
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
from magic_pyramid.errors import ConfigError

if TYPE_CHECKING:
    from magic_pyramid.classifier import Classifier, EngineName
    from magic_pyramid.data import Example

EXAMPLES = (
    "magic-pyramid tune-engine runs/reviews --threads 1",
    "magic-pyramid tune-engine runs/reviews --batch-size 1 --data reviews/",
    "magic-pyramid tune-engine runs/reviews --undo",
)
"""Shown by ``--help``."""
REPEATS = 5
"""Timed runs of each setting on the texts of ``--data``, alternating."""


def tune_engine(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="DIR", show_default=False, help="Model folder or exported folder.")
    ],
    engine: Annotated[
        str,
        typer.Option("--engine", help="auto, native, onnx or torch; auto is the default engine."),
    ] = "auto",
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Texts per batch; 1 for the latency of single texts.")
    ] = 32,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Labelled texts on which accuracy and time before and after are compared; also looked at "
            "where the folder holds no exit statistics.",
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "validation",
    max_rows: Annotated[int, typer.Option("--max-rows", min=1, help="Use at most so many texts.")] = 1000,
    again: Annotated[
        bool, typer.Option("--again", help="Measure even if this machine's costs are stored.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Ask the heads as calibrated, and forget the costs.")
    ] = False,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.0, help="About how long to measure layers and heads.")
    ] = 6.0,
    text_column: TextColumn = None,
    text_pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    where: WhereOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the exit heads that pay on this machine, and write the choice into the folder.

    Layers and heads are timed for some seconds; what the heads would do was stored at calibration. The folder
    then asks only the heads whose texts save more than the asking costs. Those skipped let no text leave, so
    some texts run deeper: --data shows what that does to the accuracy.
    """
    if undo and (data is not None or again):
        raise ConfigError("--undo goes alone: it only removes what tune-engine wrote")
    conditions = read_pairs(where, option="--where")
    columns = columns_of(text_column, text_pair_column, label_column)
    from magic_pyramid import tuning
    from magic_pyramid.classifier import Classifier, use_threads

    if undo:
        is_undone = tuning.undo(model)
        words = (
            "the exit heads are asked as calibrated" if is_undone else "tune-engine has changed nothing here"
        )
        say(f"{model}: {words}")
        if as_json:
            print_json({"model": model, "undone": is_undone})
        return
    if threads is not None:
        use_threads(threads)
    examples = None
    if data is not None:
        config = Classifier.from_pretrained(model).config
        labelled = load_for(config, data, model=model, split=split, columns=columns, where=conditions)
        (_, rows), *_ = labelled.splits.items()
        from magic_pyramid.data.sampling import subset

        examples = subset(rows, rows=max_rows, seed=0)
    found = tuning.tune(
        model,
        engine=cast("EngineName", engine),
        batch_size=batch_size,
        examples=examples,
        again=again,
        command=typed(context.obj["argv"]),
        budget_s=seconds,
    ).to_dict()
    from magic_pyramid.certify.certificate import stored_certificate
    from magic_pyramid.folder_info import read_info

    if stored_certificate(read_info(Path(model))) is not None:
        say("the default may ask other heads than the certified setting did; speed=certified has not changed")
    compared = None
    if examples is not None:
        tuned = Classifier.from_pretrained(model, engine=cast("EngineName", engine))
        compared = compare(tuned, examples, batch_size=batch_size)
    if as_json:
        print_json({"model": model, **found, "compared": compared})
        return
    show(heads_table(found), Text(), *summary(found))
    if compared is not None:
        from magic_pyramid.report.table import evaluation_renderable

        rows_of = [{"setting": name, **row} for name, row in compared.items()]
        show(Text(), evaluation_renderable(rows_of, title="before and after"))


def compare(classifier: "Classifier", examples: "list[Example]", *, batch_size: int) -> dict[str, Any]:
    """Accuracy and time with every head, as tuned and with exits off, in turns."""
    settings = {
        "every head": classifier.setting(exit_layers=None),
        "as tuned": classifier.setting(),
        "exits off": classifier.setting(exit_threshold=None),
    }
    return classifier.compare(examples, settings=settings, batch_size=batch_size, repeats=REPEATS)


def heads_table(found: dict[str, Any]) -> Table:
    """A row for each exit head: whether it is asked, who leaves, what it costs and saves for each text."""
    table = Table(title="exit heads", title_justify="left", box=None, pad_edge=False)
    table.title_style, table.header_style = "bold", "bright_black"
    for heading in ("layer", "tested", "arriving %", "leaving %", "costs us", "saves us"):
        table.add_column(heading, justify="right")
    for head in found["heads"]:
        table.add_row(
            str(head["layer"]),
            "yes" if head["is_tested"] else "no",
            f"{100 * head['arriving']:.1f}",
            f"{100 * head['leaving']:.1f}",
            f"{1e6 * head['head_s']:.1f}",
            f"{1e6 * head['saved_s']:.1f}",
        )
    return table


def summary(found: dict[str, Any]) -> list[Text]:
    """What is expected of the plan, and where the numbers come from."""
    expected = ", ".join(
        f"{name} {1e3 * found[key]:.3f}"
        for name, key in (
            ("as tuned", "seconds"),
            ("every head", "seconds_all"),
            ("exits off", "seconds_none"),
        )
    )
    source = "stored costs" if found["costs_were_stored"] else "costs measured now"
    return [
        Text(f"expected ms a text in layers and exit heads: {expected}"),
        Text(
            f"{source}: {found['engine']}, {found['threads']} threads, batches of {found['batch_size']}; "
            f"statistics of {found['num_texts']} texts"
        ),
    ]

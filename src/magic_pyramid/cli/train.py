"""`magic-pyramid train`: from an encoder and labelled texts to a model folder."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from magic_pyramid.cli.options import (
    DataOption,
    DeviceOption,
    JsonOption,
    LabelColumn,
    PairColumn,
    TestShare,
    TextColumn,
    ThreadsOption,
    WhereOption,
    choose_device,
    columns_of,
    read_epochs,
    read_labels,
    read_pairs,
    setting_doc,
)
from magic_pyramid.cli.output import print_json, say, show, typed
from magic_pyramid.data import LabelledData, load_data
from magic_pyramid.errors import ConfigError
from magic_pyramid.presets import PRESETS, RECIPES
from magic_pyramid.settings import read_value, train_settings

EXAMPLES = (
    "magic-pyramid train --model encoder/ --data reviews/ --output runs/reviews",
    "magic-pyramid train ... --preset pyramid --target-speedup 6",
    "magic-pyramid train ... --preset ltp --train-rows 8000 --set prune.penalty=0.1",
    "magic-pyramid train --model encoder/ --data squad/ --output runs/squad --preset ltp",
    "magic-pyramid train ... --epochs finetune=3,distill_exits=2 --resume",
    "torchrun --nproc-per-node 2 -m magic_pyramid train ...",
)
"""Shown by ``--help``."""


def train(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Option("--model", show_default=False, help="Encoder to begin with: a folder or a hub name."),
    ],
    data: DataOption,
    output: Annotated[
        Path, typer.Option("--output", show_default=False, help="Folder of the finished model.")
    ],
    preset: Annotated[
        str,
        typer.Option("--preset", help="; ".join(f"{name}: {row.summary}" for name, row in PRESETS.items())),
    ] = "magic_pyramid",
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help=f"Training settings to begin with: {', '.join(RECIPES)}. Default: the preset's own, "
            "which another cannot replace where it defines the method.",
        ),
    ] = None,
    epochs: Annotated[
        str | None,
        typer.Option(
            "--epochs",
            metavar="STAGE=N,...",
            help="Epochs of some stages, as in finetune=3,soft_prune=1,hard_prune=2,distill_exits=2; "
            "0 skips a stage. Others keep the recipe's.",
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option("--max-length", min=2, help="Cut texts to so many tokens. Default: as the data needs."),
    ] = None,
    target_speedup: Annotated[
        float | None,
        typer.Option("--target-speedup", metavar="TIMES", help=setting_doc("target_speedup")),
    ] = None,
    train_rows: Annotated[
        int | None, typer.Option("--train-rows", min=1, help="Train on so many rows, labels in proportion.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help=setting_doc("seed"))] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run with the same settings stopped.")
    ] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other setting, such as prune.temperature=1e-3 or exit.head=cls; repeatable. "
            "magic-pyramid info lists them.",
        ),
    ] = None,
    text_column: TextColumn = None,
    text_pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", metavar="A,B,...", help="Label names in the order of the logits."),
    ] = None,
    where: WhereOption = None,
    validation_share: Annotated[
        float | None, typer.Option("--validation-share", help=setting_doc("validation_share"))
    ] = None,
    test_share: TestShare = 0.0,
    precision: Annotated[str | None, typer.Option("--precision", help=setting_doc("precision"))] = None,
    tokens_per_batch: Annotated[
        int | None, typer.Option("--tokens-per-batch", help=setting_doc("tokens_per_batch"))
    ] = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a classifier that drops tokens and leaves early, and calibrate and save it.

    Data with question, context and answers (SQuAD's files among them) trains a model that answers questions.
    """
    assigned = read_pairs(assignments, option="--set")
    settings = train_settings(
        preset=preset,
        recipe=recipe,
        values={key: read_value(text) for key, text in assigned.items()},
        epochs=read_epochs(epochs),
        max_length=max_length,
        train_options={
            "seed": seed,
            "validation_share": validation_share,
            "precision": precision,
            "tokens_per_batch": tokens_per_batch,
            "target_speedup": target_speedup,
        },
    )
    check_output(output)
    labelled = load_data(
        data,
        columns=columns_of(text_column, text_pair_column, label_column),
        labels=read_labels(labels),
        where=read_pairs(where, option="--where"),
        validation_share=settings.config.validation_share,
        test_share=test_share,
        seed=settings.config.seed,
        train_rows=train_rows,
    )
    from magic_pyramid.classifier import use_threads
    from magic_pyramid.fitting import fit

    if threads is not None:
        use_threads(threads)
    chosen_device = None if device == "auto" else choose_device(device)
    is_main = os.environ.get("RANK", "0") == "0"
    if is_main:
        say(data_line(labelled))
    with _progress(is_main) as on_event:
        report = fit(
            model=source_of(model),
            data=labelled,
            output=output,
            preset=preset,
            config=settings.config,
            model_changes=settings.model_changes,
            resume=resume,
            on_event=on_event,
            command=typed(context.obj["argv"]),
            device=chosen_device,
        )
    if is_main:
        print_report(report, as_json=as_json)


def check_output(output: Path) -> None:
    """Raise ConfigError when the output cannot be a folder."""
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file; name a folder")


def source_of(model: str) -> str:
    """The folder or name to load: the word demo stands for the packaged model."""
    from magic_pyramid.cli.options import DEMO
    from magic_pyramid.demo import demo_model_path

    return str(demo_model_path()) if model == DEMO else model


def data_line(data: LabelledData) -> str:
    """What will be trained on, in one line."""
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in data.splits.items())
    held_out = " (validation held out of train)" if data.held_out else ""
    task = (
        "question answering"
        if data.problem_type == "span"
        else f"{len(data.labels)} labels, {data.problem_type}"
    )
    return f"{data.name}: {counts}{held_out}; {task}"


def _progress(is_main: bool) -> AbstractContextManager[Any]:
    from magic_pyramid.training import show_progress

    return show_progress() if is_main else nullcontext()


def print_report(report: dict[str, Any], *, as_json: bool) -> None:
    """What came out, for programs or for people."""
    if as_json:
        print_json(report)
        return
    parts: list[Any] = [_stages_table(report["training"]["stages"]), Text()]
    if report.get("validation"):
        from magic_pyramid.report.table import evaluation_renderable

        parts += [evaluation_renderable([report["validation"]], title="on validation, as calibrated"), Text()]
    calibration = report.get("calibration") or {}
    if calibration:
        from magic_pyramid.report.card import setting_words, target_words

        parts.append(Text(f"calibrated: {setting_words(calibration)}"))
        if calibration["at_target"]:
            parts.append(Text(f"on validation {target_words(calibration)}"))
    parts.append(Text(f"saved: {report['output']}"))
    show(*parts)


def _stages_table(stages: list[dict[str, Any]]) -> Table:
    table = Table(title="training", title_justify="left", box=None, pad_edge=False)
    table.title_style, table.header_style = "bold", "bright_black"
    for heading in ("stage", "steps", "seconds", "validation", "GFLOPs"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage in stages:
        kept = stage.get("kept") or {}
        table.add_row(
            stage["name"],
            str(stage["num_steps"]),
            f"{stage['seconds']:.0f}",
            f"{kept['metric']} {kept['quality']:.4f}" if "quality" in kept else "-",
            f"{kept['gflops']:.3g}" if "gflops" in kept else "-",
        )
    return table

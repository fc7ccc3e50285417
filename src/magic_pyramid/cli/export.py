"""`magic-pyramid export`: a trained model for one engine, compared with the model before it is kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from magic_pyramid.cli.evaluate import load_for
from magic_pyramid.cli.options import (
    JsonOption,
    LabelColumn,
    ModelArgument,
    PairColumn,
    TextColumn,
    ThreadsOption,
    WhereOption,
    columns_of,
    read_pairs,
)
from magic_pyramid.cli.output import print_json, say
from magic_pyramid.errors import ConfigError, nearest

EXAMPLES = (
    "magic-pyramid export runs/reviews --to onnx --output deploy/reviews",
    "magic-pyramid export runs/reviews --to onnx --precision int8 --data reviews/ --output deploy/small",
    "magic-pyramid export runs/reviews --to native --precision int8 --data reviews/ --output deploy/fast",
    "magic-pyramid export runs/reviews --to onnx-single --output deploy/browser",
)
"""Shown by ``--help``."""
FORMATS = ("onnx", "onnx-single", "native")
"""Segments for ONNX Runtime, one graph for any program that answers one text a call, our own engine."""


def export(
    model: ModelArgument,
    output: Annotated[
        Path,
        typer.Option("--output", show_default=False, help="New folder, or an older export to be replaced."),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="onnx: segments for ONNX Runtime; onnx-single: one file, for browsers and other languages; "
            "native: for our engine in C++, the fastest on a CPU.",
        ),
    ] = "onnx",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, or int8: a quarter of the size, faster, not exact.")
    ] = "fp32",
    data: Annotated[
        str | None,
        typer.Option("--data", help="Labelled texts on which the accuracy before and after is compared."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "validation",
    max_rows: Annotated[
        int, typer.Option("--max-rows", min=1, help="Compare on at most so many texts.")
    ] = 1000,
    max_drop: Annotated[
        float, typer.Option("--max-drop", min=0.0, help="Points that the export may lose on --data.")
    ] = 0.5,
    force: Annotated[
        bool, typer.Option("--force", help="Keep the export whatever it loses on --data.")
    ] = False,
    text_column: TextColumn = None,
    text_pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    where: WhereOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model for the native engine or ONNX Runtime: pruning, exits and the speed knob stay.

    The folder is run and compared with the model first: on random inputs, and on --data if it is given.
    """
    if to not in FORMATS:
        raise ConfigError(f"--to is {to!r}; {nearest(to, FORMATS)}")
    conditions = read_pairs(where, option="--where")
    columns = columns_of(text_column, text_pair_column, label_column)
    from magic_pyramid.certify.certificate import stored_certificate, without_certificate
    from magic_pyramid.classifier import Classifier, use_threads
    from magic_pyramid.export import accept_export, export_native, export_onnx, export_single_graph
    from magic_pyramid.labelled_rows import label_rows

    if threads is not None:
        use_threads(threads)
    classifier = Classifier.from_pretrained(model, engine="torch")
    encoded, labels = None, None
    if data is not None:
        labelled = load_for(
            classifier.config, data, model=model, split=split, columns=columns, where=conditions
        )
        (_, examples), *_ = labelled.splits.items()
        from magic_pyramid.data.sampling import subset

        examples = subset(examples, rows=max_rows, seed=0)
        rows = label_rows(classifier.encoder, examples, classifier.config)
        encoded, labels = rows.encoded, rows.labels
    found: dict[str, Any] = {}

    def accept(folder: Path) -> None:
        classifier.carry_seen_rows(folder)
        found.update(
            accept_export(
                classifier.model,
                folder,
                encoded=encoded,
                labels=labels,
                max_drop=None if force else max_drop,
            )
        )

    writers: dict[str, Callable[..., Any]] = {
        "onnx": export_onnx,
        "onnx-single": export_single_graph,
        "native": export_native,
    }
    written = writers[to](
        classifier.model,
        output,
        encoder=classifier.encoder,
        precision=precision,
        info=classifier.info if precision == "fp32" else without_certificate(classifier.info),
        accept=accept,
    )
    row = {
        "model": model,
        "output": str(output),
        "format": to,
        "precision": written.precision,
        **({} if to == "native" else {"opset": written.opset}),
        **({"segments": len(written.segments)} if to == "onnx" else {}),
        "bytes": sum(file.stat().st_size for file in output.iterdir()),
        **found,
    }
    if precision != "fp32" and stored_certificate(classifier.info) is not None:
        say(f"the certificate is of fp32 and was left out; {_RECERTIFY[to]}")
    if as_json:
        print_json(row)
        return
    say(f"{output}: for {to}, {row['bytes'] / 1e6:.1f} MB, {written.precision}")
    for line in _lines(found):
        say(line)


_RECERTIFY = {
    "native": "for a promise about this export: magic-pyramid calibrate EXPORT --data HELD_OUT_ROWS",
    "onnx": "exports to ONNX cannot be calibrated",
    "onnx-single": "exports to ONNX cannot be calibrated",
}
"""What to do about an export whose precision is not the calibrated one."""


def _lines(found: dict[str, Any]) -> list[str]:
    random, texts = found["random"], found["texts"]
    lines = [
        f"{random['num_examples']} random inputs: logits differ by at most {random['logit_difference']:.2g}"
    ]
    if texts is not None:
        lines.append(
            f"{texts['num_examples']} texts: quality {texts['accuracy']:.4f} before, "
            f"{texts['exported_accuracy']:.4f} after, {texts['changed_answers']} answers changed, "
            f"logits differ by at most {texts['logit_difference']:.2g}"
        )
    return lines

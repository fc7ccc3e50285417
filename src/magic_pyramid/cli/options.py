"""Options that several verbs share, and how their values are read."""

import json
from typing import Annotated, Any

import typer

from magic_pyramid.config import STAGE_NAMES, TrainConfig, check_exit_threshold, field_docs
from magic_pyramid.data import Columns
from magic_pyramid.errors import ConfigError, nearest

DEVICES = ("auto", "cpu", "cuda", "mps")
DEMO = "demo"

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", show_default=False, help="Model folder, hub name, or demo for the packaged model."
    ),
]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        show_default=False,
        help="Labelled texts: a file (CSV, TSV, JSONL, JSON, Parquet, each also .gz), a folder of "
        "splits, or a dataset of the hub.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON with stable keys on stdout, and nothing else there.")
]
TextColumn = Annotated[
    str | None, typer.Option("--text-column", help="Column of the text; otherwise found by its name.")
]
PairColumn = Annotated[
    str | None, typer.Option("--text-pair-column", help="Column of the second text of a pair.")
]
LabelColumn = Annotated[str | None, typer.Option("--label-column", help="Column of the label.")]
WhereOption = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="COLUMN=VALUE", help="Keep only the rows with this value; repeatable."),
]
TestShare = Annotated[
    float,
    typer.Option(
        "--test-share",
        metavar="SHARE",
        help="Where the data has no test split, this part of train is one, always the same rows; of "
        "questions it is a part of the articles.",
    ),
]
ThresholdOption = Annotated[
    str | None,
    typer.Option(
        "--exit-threshold",
        metavar="X",
        help="Depth knob: in [0, 1], larger leaves earlier; one for each exit head as in 0.1,0.3; none runs "
        "every layer. Default: as calibrated.",
    ),
]
ScaleOption = Annotated[
    float | None,
    typer.Option(
        "--prune-scale",
        metavar="X",
        help="Width knob: multiplier of the token thresholds, larger drops more, 0 drops nothing. "
        "Default: as calibrated.",
    ),
]
SpeedOption = Annotated[
    str | None,
    typer.Option(
        "--speed", help="certified, balanced or fastest, as calibrate stored them; instead of both knobs."
    ),
]
BatchOption = Annotated[
    str | None,
    typer.Option(
        "--batch-size", metavar="N", help="Texts per batch; auto fills batches up to a budget of tokens."
    ),
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads to use.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help=f"One of {', '.join(DEVICES)}; auto takes a GPU where there is one.")
]


def setting_doc(name: str) -> str:
    """Help of an option that sets a field of the training config: the field's own description."""
    return field_docs(TrainConfig)[name]


def columns_of(text: str | None, pair: str | None, label: str | None = None) -> Columns:
    """The columns that were named."""
    return Columns(text=text, text_pair=pair, label=label)


def knobs(exit_threshold: str | None, prune_scale: float | None, speed: str | None = None) -> dict[str, Any]:
    """The speed knobs that were given, by the classifier's names; those not given stay calibrated.

    Raises:
        ConfigError: a threshold cannot be read, or a speed was given beside another knob.
    """
    if speed is not None and (exit_threshold is not None or prune_scale is not None):
        raise ConfigError(
            "--speed sets exit threshold and prune scale; give it, or --exit-threshold and --prune-scale"
        )
    given: dict[str, Any] = {} if speed is None else {"speed": speed}
    if exit_threshold is not None:
        given["exit_threshold"] = read_exit_threshold(exit_threshold)
    if prune_scale is not None:
        given["prune_scale"] = prune_scale
    return given


def read_exit_threshold(text: str) -> float | tuple[float, ...] | None:
    """A number in [0, 1], several with commas, or none.

    Raises:
        ConfigError: it is none of these.
    """
    if text.strip().lower() == "none":
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--exit-threshold is {text!r}; give a number in [0, 1] (larger leaves earlier), "
            "one for each exit head with commas, or none to run every layer"
        ) from None
    value = values if len(values) > 1 else values[0]
    check_exit_threshold(value)
    return value


def read_batch_size(text: str | None) -> int | None:
    """A count of texts; None for auto or nothing.

    Raises:
        ConfigError: it is no positive whole number.
    """
    if text is None or text.strip().lower() == "auto":
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise ConfigError(f"--batch-size is {text!r}; give a whole number of at least 1, or auto")
    return int(text)


def read_pairs(values: list[str] | None, *, option: str) -> dict[str, str]:
    """KEY=VALUE texts as a dictionary.

    Raises:
        ConfigError: a text has no equals sign, or a key comes twice.
    """
    pairs: dict[str, str] = {}
    for value in values or []:
        key, separator, content = value.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"{option} is {value!r}; write it as KEY=VALUE")
        if key.strip() in pairs:
            raise ConfigError(f"{option} gives {key.strip()!r} twice; give it once")
        pairs[key.strip()] = content
    return pairs


def read_epochs(text: str | None) -> dict[str, float]:
    """Epochs by stage from ``finetune=3,soft_prune=1``.

    Raises:
        ConfigError: a stage is unknown or a value is no number.
    """
    found: dict[str, float] = {}
    for part in text.split(",") if text else []:
        stage, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator:
            raise ConfigError(f"--epochs is {text!r}; write it as finetune=3,soft_prune=1")
        if stage not in STAGE_NAMES:
            raise ConfigError(f"--epochs names the stage {stage!r}; {nearest(stage, STAGE_NAMES)}")
        try:
            found[stage] = float(value)
        except ValueError:
            raise ConfigError(f"--epochs gives {stage} {value!r} epochs; give a number") from None
    return found


def read_labels(text: str | None) -> list[str] | None:
    """Label names from a list with commas, or from a JSON list where a name holds a comma itself.

    Raises:
        ConfigError: it looks like JSON and is none.
    """
    if text is None:
        return None
    if not text.lstrip().startswith("["):
        return [name.strip() for name in text.split(",")]
    try:
        return [str(name) for name in json.loads(text)]
    except ValueError:
        raise ConfigError(f'--labels is {text!r}, which is no JSON list; write a,b or ["a", "b"]') from None


def choose_device(name: str) -> str:
    """The device of this name, checked to be here.

    Raises:
        ConfigError: there is no such device.
    """
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise ConfigError(f"--device is {name!r}; {nearest(name, DEVICES)}")
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not found.get(kind, False):
        raise ConfigError(f"--device is {name!r}, which is not here; use cpu or auto")
    return name

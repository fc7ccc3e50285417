"""`magic-pyramid info`: what a model folder holds, or what this program knows."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from magic_pyramid.cli.options import DEMO, JsonOption
from magic_pyramid.cli.output import print_json, show
from magic_pyramid.config import STAGE_NAMES
from magic_pyramid.presets import PRESETS, RECIPES
from magic_pyramid.settings import settable_fields

_MOST_LABELS = 20

EXAMPLES = (
    "magic-pyramid info runs/reviews",
    "magic-pyramid info demo --json",
    "magic-pyramid info",
)
"""Shown by ``--help``."""


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            show_default=False,
            help="Model folder, hub name, or demo; without it: presets, recipes, stages and settings.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a model's settings, thresholds, calibration and provenance; or what can be chosen."""
    if model is None:
        known = known_things()
        if as_json:
            print_json(known)
        else:
            _show_known(known)
        return
    found = model_facts(model)
    if as_json:
        print_json(found)
    else:
        _show_model(found)


def known_things() -> dict[str, Any]:
    """Everything a command line can name."""
    return {
        "presets": {name: preset.summary for name, preset in PRESETS.items()},
        "recipes": {name: recipe.to_dict() for name, recipe in RECIPES.items()},
        "stages": list(STAGE_NAMES),
        "settings": settable_fields(),
    }


def model_facts(model: str) -> dict[str, Any]:
    """Everything a model folder says about itself."""
    from magic_pyramid.classifier import Classifier
    from magic_pyramid.engine.exported import exported_for
    from magic_pyramid.engine.interface import layers_tested

    classifier = Classifier.from_pretrained(model)
    setting = classifier.setting()
    network = classifier.model if exported_for(model) is None else None
    folder = _folder(model)
    return {
        "model": model,
        "config": classifier.config.to_dict(),
        "exit_threshold": setting.exit_threshold,
        "prune_scale": setting.prune_scale,
        "exit_layers": list(classifier.config.exit_layers),
        "tested_layers": list(layers_tested(classifier.config, setting)),
        "pruner": network.pruner.learned() if network and network.pruner else None,
        "calibration": classifier.info.get("calibration", {}),
        "provenance": classifier.info.get("provenance", {}),
        "tuning": classifier.info.get("tuning", {}),
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()) if network else None,
        "bytes": None if folder is None else sum(f.stat().st_size for f in folder.iterdir() if f.is_file()),
    }


def _folder(model: str) -> Path | None:
    """Where the files lie; None for a name of the hub."""
    if model == DEMO:
        from magic_pyramid.demo import demo_model_path

        return demo_model_path()
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else None


def _show_model(found: dict[str, Any]) -> None:
    config = found["config"]
    backbone, labels = config["backbone"], config["labels"]
    more = f" and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else ""
    rows = {
        "encoder": f"{backbone['model_type']}, {backbone['num_hidden_layers']} layers of width "
        f"{backbone['hidden_size']}{_parameters(found['num_parameters'])}",
        "on disk": "-" if found["bytes"] is None else f"{found['bytes'] / 1e6:.1f} MB",
        "task": f"{config['problem_type']}: {', '.join(labels[:_MOST_LABELS])}{more}",
        "longest input": f"{config['max_length']} tokens",
        "exits": _exits_line(found),
        "pruning": _pruning_line(found),
    }
    sections = [_section(name, found[name]) for name in ("calibration", "tuning", "provenance")]
    show(_table(found["model"], rows), *(part for parts in sections for part in parts))


def _section(name: str, content: dict[str, Any]) -> list[Any]:
    """What a folder says about itself under a name, without what is long; nothing where it says nothing."""
    short = {key: value for key, value in content.items() if not isinstance(value, dict | list)}
    return [Text(), _table(name, short)] if short else []


def _parameters(count: int | None) -> str:
    return "" if count is None else f", {count / 1e6:.1f} million parameters"


def _exits_line(found: dict[str, Any]) -> str:
    exits = found["config"]["exit"]
    if exits is None:
        return "none"
    threshold = found["exit_threshold"]
    words = f"{threshold:g}" if isinstance(threshold, float) else f"{list(threshold or ())}, one a head"
    when = "off by default" if threshold is None else f"{exits['criterion']} at most {words}"
    layers = ", ".join(map(str, found["exit_layers"]))
    asked = ", ".join(map(str, found["tested_layers"])) or "none"
    tuned = "" if exits["tested_layers"] is None else f"; asked: {asked}"
    return f"{exits['head']} heads after layers {layers}; {when}{tuned}"


def _pruning_line(found: dict[str, Any]) -> str:
    if found["config"]["prune"] is None:
        return "none"
    # An exported folder has what was learned inside the graphs.
    learned = [
        f", {name.replace('_', ' ')} {' '.join(f'{value:.4f}' for value in values)}"
        for name, values in (found["pruner"] or {}).items()
    ]
    return f"scale {found['prune_scale']:g}{''.join(learned)}"


def _show_known(known: dict[str, Any]) -> None:
    recipes = {
        name: ", ".join(f"{stage} {epochs:g}" for stage, epochs in recipe["epochs"].items())
        for name, recipe in known["recipes"].items()
    }
    show(
        _table("presets (--preset)", known["presets"]),
        Text(),
        _table("recipes (--recipe) and their epochs (--epochs)", recipes),
        Text(),
        _table("settings (--set KEY=VALUE)", known["settings"]),
    )


def _table(title: str, rows: dict[str, Any]) -> Group:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), Text(str(value)))
    return Group(Text(title, style="bold"), table)

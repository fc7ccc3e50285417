"""Training settings by name: a recipe, what overrides it, and the fields of the model."""

import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from magic_pyramid.config import (
    PRUNE_KINDS,
    Config,
    ExitConfig,
    ModelConfig,
    SpanConfig,
    TrainConfig,
    field_docs,
)
from magic_pyramid.errors import ConfigError, nearest
from magic_pyramid.presets import Preset, find_preset, find_recipe

_MODEL_FIELDS = ("max_length", "final_head")
_PARTS = ("prune", "exit", "span", "train", "model")
"""What `--set` names a field of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """What a training was asked for, checked."""

    config: TrainConfig
    model_changes: dict[str, Any]
    """Fields over the preset's, by the names that ``fit`` takes."""


def settable_fields() -> dict[str, str]:
    """Every setting that has a name, with its description."""
    return {
        f"{part}.{name}": doc
        for part in _PARTS
        for config in reversed(_configs_of(part))
        for name, doc in field_docs(cast("Any", config)).items()
        if name != "kind" and (part != "model" or name in _MODEL_FIELDS)
    }


def train_settings(
    *,
    preset: str,
    recipe: str | None = None,
    values: Mapping[str, Any],
    epochs: Mapping[str, float] | None = None,
    max_length: int | None = None,
    train_options: Mapping[str, Any] | None = None,
) -> TrainSettings:
    """Put a recipe and everything that overrides it together; what has an argument counts more than a value.

    Args:
        preset: name of the method.
        recipe: name of the training settings to begin with; None: the preset's own. A preset that has its
            own is defined by it and takes no other.
        values: other settings, by the names of ``settable_fields``.
        epochs: by stage; the stages it does not name keep the recipe's epochs.
        max_length: longest input in tokens; None leaves it to ``fit``.
        train_options: fields of the training config; those that are None are left out.

    Raises:
        ConfigError: a name is unknown (the nearest is given) or a value impossible; another recipe than the
            preset's own.
    """
    chosen = find_preset(preset)
    base = find_recipe(recipe or chosen.recipe)
    if recipe is not None and chosen.recipe not in ("default", recipe):
        raise ConfigError(
            f"preset {preset!r} is defined by its own recipe {chosen.recipe!r}, got {recipe!r}; leave the "
            "recipe out, and change single settings of the training instead"
        )
    _check_keys(values)
    fields = {part: _fields_of(part, values) for part in _PARTS}
    _check_types(chosen, fields)
    _check_parts(chosen, fields, preset)
    given = {name: value for name, value in (train_options or {}).items() if value is not None}
    changes = {**fields["train"], **given}
    if epochs or "epochs" in changes:
        # Whoever says how many epochs means just as many.
        changes.setdefault("min_steps", 0)
    changes["epochs"] = {**base.epochs, **changes.get("epochs", {}), **(epochs or {})}
    model_changes = {
        key: value for key, value in values.items() if key.startswith(("prune.", "exit.", "span."))
    }
    model_changes |= fields["model"]
    if max_length is not None:
        model_changes["max_length"] = max_length
    return TrainSettings(config=base.replace(**changes), model_changes=model_changes)


def read_value(text: str) -> Any:
    """A JSON value, or the text itself; none, true and false in any case."""
    plain = {"none": None, "null": None, "true": True, "false": False}
    if text.strip().lower() in plain:
        return plain[text.strip().lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _configs_of(part: str) -> tuple[type[Config], ...]:
    """The configs whose fields a part may have."""
    configs: dict[str, tuple[type[Config], ...]] = {
        "prune": tuple(PRUNE_KINDS.values()),
        "exit": (ExitConfig,),
        "span": (SpanConfig,),
        "train": (TrainConfig,),
        "model": (ModelConfig,),
    }
    return configs[part]


def _check_keys(values: Mapping[str, Any]) -> None:
    known = settable_fields()
    for key in values:
        if key not in known:
            part = key.partition(".")[0]
            near = [name for name in known if name.startswith(f"{part}.")] or list(known)
            raise ConfigError(f"there is no setting {key!r}; {nearest(key, near)}")


def _fields_of(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{part}.")}


def _check_types(chosen: Preset, fields: Mapping[str, Mapping[str, Any]]) -> None:
    if not any(fields.values()):
        return
    # Imported late: it brings torch along, and most command lines set nothing here.
    from magic_pyramid.checkpoint.typed import type_problems

    if not isinstance(fields["train"].get("epochs", {}), Mapping):
        raise ConfigError('train.epochs must be an object, such as {"finetune": 3}')
    configs = {part: _configs_of(part)[0] for part in _PARTS}
    if chosen.prune is not None:
        configs["prune"] = type(chosen.prune)
    hints = {part: typing.get_type_hints(config) for part, config in configs.items()}
    problems = [
        problem
        for part, values in fields.items()
        for name, value in values.items()
        if name in hints[part]
        for problem in type_problems(hints[part][name], value, f"{part}.{name}")
    ]
    if problems:
        raise ConfigError("; ".join(problems))


def _check_parts(chosen: Preset, fields: Mapping[str, Mapping[str, Any]], preset: str) -> None:
    for part, config in (("prune", chosen.prune), ("exit", chosen.exit)):
        if fields[part] and config is None:
            name = next(iter(fields[part]))
            raise ConfigError(
                f"{part}.{name} does nothing: the preset {preset} has no {part}; choose magic_pyramid "
                "or another preset that has it"
            )
        if config is not None:
            config.replace(**fields[part])

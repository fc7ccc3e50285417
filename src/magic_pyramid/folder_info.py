"""What a model folder says about itself, exported or not; needs no PyTorch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magic_pyramid.errors import CheckpointError

CONFIG_FILE = "config.json"
"""File of the model config, and of all below."""
INFO_KEYS = ("calibration", "provenance", "tuning", "temperatures")
"""Objects beside the config: how thresholds were chosen, where the model comes from, what heads are asked,
and by layer what the logits of a head were divided by, which is folded into its weights."""


def read_info(folder: Path) -> dict[str, Any]:
    """An object for each of ``INFO_KEYS``.

    Raises:
        CheckpointError: the config is missing or damaged.
    """
    config = read_object(folder / CONFIG_FILE)
    wrong = info_problems(config)
    if wrong:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {'; '.join(wrong)}")
    return info_of(config)


def info_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The objects in the content of a config file; empty ones for those that it lacks."""
    return {key: dict(config.get(key, {})) for key in INFO_KEYS}


def info_problems(config: Mapping[str, Any]) -> list[str]:
    """What of them is no object."""
    values = {key: config.get(key, {}) for key in INFO_KEYS}
    return [
        f"{key} is {value!r}; it must be an object"
        for key, value in values.items()
        if not isinstance(value, dict)
    ]


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model folder.

    Raises:
        CheckpointError: it is missing or no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; {path.parent} is no model folder") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); copy or download it again") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds {type(data).__name__}; it must hold an object")
    return data

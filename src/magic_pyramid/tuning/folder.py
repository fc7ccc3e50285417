"""Give a folder another config without touching its weights, all of it or nothing."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from magic_pyramid.checkpoint import replacing_files, write_config
from magic_pyramid.classifier import Classifier, EngineName
from magic_pyramid.config import ModelConfig
from magic_pyramid.engine import native_folder, plan_files, segments
from magic_pyramid.errors import InputError
from magic_pyramid.folder_info import CONFIG_FILE

_PLANS: Mapping[str, type[segments.SegmentPlan] | type[native_folder.NativePlan]] = {
    segments.PLAN_FILE: segments.SegmentPlan,
    native_folder.PLAN_FILE: native_folder.NativePlan,
}
"""What exported folders say about themselves: the config once more, and checksums of their files."""


def open_folder(folder: str | Path, engine: EngineName, command: str) -> Classifier:
    """The model of a folder that a command is going to write into.

    Raises:
        InputError: it is no folder.
        CheckpointError: it cannot be read.
    """
    if not Path(folder).is_dir():
        raise InputError(
            f"{folder} is no folder; {command} writes into a model folder: save or copy the model first"
        )
    return Classifier.from_pretrained(Path(folder).absolute(), engine=engine)


def rewrite_config(
    folder: Path,
    config: ModelConfig,
    *,
    info: Mapping[str, Any],
    also: Callable[[Path], None] = lambda _: None,
) -> None:
    """Replace the config and info of a model folder; of an exported one also its plan and checksum.

    ``also`` writes other files that are to change in the same step.

    Raises:
        CheckpointError: the folder is damaged or cannot be written.
    """
    plans = {name: kind.read(folder) for name, kind in _PLANS.items() if (folder / name).is_file()}
    with replacing_files(folder) as staging:
        write_config(staging, config, info=info)
        also(staging)
        checksum = plan_files.file_sha256(staging / CONFIG_FILE)
        for name, plan in plans.items():
            changed = replace(plan, config=config, sha256={**plan.sha256, CONFIG_FILE: checksum})
            (staging / name).write_text(changed.to_json(), encoding="utf-8")

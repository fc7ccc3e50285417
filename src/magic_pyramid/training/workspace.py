"""The folder that training works in: its plan, finished stages, and the running stage's checkpoints.

``.training/plan.json``, ``.training/<stage>.running/`` while a stage runs, ``.training/<stage>/`` afterwards.
A folder or file appears under its final name only when it is complete.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file, save_file
from torch import Tensor

from magic_pyramid.errors import ConfigError
from magic_pyramid.training.processes import Processes
from magic_pyramid.training.record import StageReport

FOLDER = ".training"
COMPLETE = "complete.json"
"""Written last into a checkpoint; one without it was cut short and is ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Reads by every process, writes by the main one."""

    folder: Path
    processes: Processes

    @classmethod
    def open(cls, output: Path, *, plan: Mapping[str, Any], resume: bool, processes: Processes) -> Self:
        """Start a folder for this plan, or go on in the one that has it.

        Raises:
            ConfigError: there is training already and ``resume`` is off, or it follows another plan.
        """
        folder = output / FOLDER
        _check_plan(folder, plan, resume=resume)
        processes.wait()
        workspace = cls(folder=folder, processes=processes)
        if processes.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "plan.json", plan)
        processes.wait()
        return workspace

    def running(self, stage: str) -> Path:
        """Folder of a stage that is not finished."""
        return self.folder / f"{stage}.running"

    def finished(self, stage: str) -> StageReport | None:
        """The report of a finished stage; None where it is not finished."""
        file = self.folder / stage / "metrics.json"
        return StageReport.from_dict(read_json(file)) if file.exists() else None

    def weights(self, stage: str) -> dict[str, Tensor]:
        """The weights that a finished stage hands on."""
        return load_file(self.folder / stage / "model.safetensors")

    def finish(self, report: StageReport, weights: Mapping[str, Tensor]) -> None:
        """Put a finished stage in place and clear what it needed while running."""
        self.processes.wait()
        if self.processes.is_main:
            running, ready = self.running(report.name), self.folder / f"{report.name}.ready"
            shutil.rmtree(ready, ignore_errors=True)
            ready.mkdir(parents=True)
            save_tensors(ready / "model.safetensors", weights)
            write_json(ready / "metrics.json", report.to_dict())
            ready.rename(self.folder / report.name)
            shutil.rmtree(running, ignore_errors=True)
        self.processes.wait()

    def cached(self, name: str) -> dict[str, Tensor] | None:
        """Tensors kept between stages; None where there are none."""
        file = self.folder / f"{name}.safetensors"
        return load_file(file) if file.exists() else None

    def cache(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors between stages."""
        if self.processes.is_main:
            save_tensors(self.folder / f"{name}.safetensors", tensors)
        self.processes.wait()


def last_checkpoint(running: Path) -> Path | None:
    """The newest complete checkpoint of a running stage."""
    complete = [file.parent for file in running.glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def drop_checkpoints_except(running: Path, kept: Path) -> None:
    """Remove all checkpoints but one."""
    for folder in running.glob("checkpoint-*"):
        if folder != kept:
            shutil.rmtree(folder, ignore_errors=True)


def save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors so that the file is either whole or not there."""
    partial = file.with_name(f"{file.name}.partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(file)


def digest_of(*tensors: Tensor) -> str:
    """A short name for the values of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """Write JSON so that the file is either whole or not there."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(data, indent=1), encoding="utf-8")
    partial.replace(file)


def read_json(file: Path) -> dict[str, Any]:
    """Read what ``write_json`` wrote."""
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return data


def _check_plan(folder: Path, plan: Mapping[str, Any], *, resume: bool) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not resume:
        raise ConfigError(
            f"{folder} holds an earlier training; add --resume to go on with it, or choose another output"
        )
    if not (folder / "plan.json").exists():
        return
    different = differences(read_json(folder / "plan.json"), json.loads(json.dumps(plan)))
    if different:
        raise ConfigError(
            f"{folder} follows another plan: {'; '.join(different)}. "
            "Resume with the same settings and data, or choose another output"
        )


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Where two JSON values differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            found += differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        return found
    return [] if old == new else [f"{name} was {old!r} and is now {new!r}"]

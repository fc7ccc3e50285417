"""Stages that several trainings have in common: what one has finished, the others take over.

Two trainings share a stage when it would be the same computation: the same rows, the same settings as far as
the stage reads them, and the same weights to begin with in every part that it runs.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load_file
from torch import Tensor

from magic_pyramid.config import ModelConfig, TrainConfig
from magic_pyramid.model import ParameterGroup, PyramidModel
from magic_pyramid.training.record import StageReport
from magic_pyramid.training.stages import Stage, learning_rates
from magic_pyramid.training.workspace import read_json, save_tensors, write_json

_ELSEWHERE = frozenset({
    *("epochs", "min_steps", "warmup", "distill_weight", "joint_exits", "joint_from"),
    *("exit_teacher", "exit_weights"),
    *("target_speedup", "budget_ramp", "reach_temperature", "rank_weight", "rank_floor"),
    *("learning_rate", "learning_rate_final_head", "learning_rate_exits", "learning_rate_thresholds"),
    *("learning_rate_pruning", "dropout", "max_drop", "validation_share", "student_keeps", "student_layers"),
})  # fmt: skip
"""Training settings that reach a stage through its row, its learning rates, the model or the rows; or never.

A setting that is not named here counts, so that a new one can only prevent sharing."""
_OF_BUDGET = frozenset({"budget_exact", "learning_rate_budget"})
_OF_TEACHER = frozenset({"distill_temperature", "rank_top_k"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedStages:
    """A folder with one folder for each finished stage, by its key."""

    folder: Path

    def held(self, key: str) -> AbstractContextManager[Any]:
        """Hold a stage while it is looked for or trained; another process waits for it meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / f"{key}.lock")

    def find(self, key: str) -> tuple[StageReport, dict[str, Tensor]] | None:
        """What a finished stage reported and learned; None where nobody has finished it."""
        ready = self.folder / key
        if not ready.exists():
            return None
        report = StageReport.from_dict(read_json(ready / "metrics.json"))
        return report, load_file(ready / "model.safetensors")

    def keep(self, key: str, report: StageReport, learned: Mapping[str, Tensor]) -> None:
        """Put a finished stage in place, all of it or nothing."""
        partial = self.folder / f"{key}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_tensors(partial / "model.safetensors", learned)
        write_json(partial / "metrics.json", report.to_dict())
        partial.rename(self.folder / key)


def stage_facts(stage: Stage, model: ModelConfig, train: TrainConfig) -> dict[str, Any]:
    """What decides a stage apart from rows and weights: its row, and of each config what it reads."""
    unread = set(_ELSEWHERE)
    unread |= set() if stage.target_speedup is not None else _OF_BUDGET
    unread |= set() if stage.asks_teacher else _OF_TEACHER
    rates = learning_rates(stage, model, train)
    # A `fastbert` final head has the sizes of the exit heads, and a budget charges them.
    reads_exits = stage.asks_exits or stage.target_speedup is not None or model.final_head == "fastbert"
    parts = {
        "prune": None if stage.masking == "none" else model.prune,
        "exit": model.exit if reads_exits else None,
    }
    if stage.masking == "hard" and model.prune is not None and model.prune.meets_budget:
        # Its pruner was set to the speed-up before the first stage.
        unread.discard("target_speedup")
    row = stage.to_dict()
    if not stage.asks_exits:
        del row["exit_weights"]
    return {
        "stage": row,
        "learning_rates": {group: rates[group] for group in stage.trains},
        "train": {name: value for name, value in train.to_dict().items() if name not in unread},
        "model": model.replace(**parts).to_dict(),
    }


def groups_read(stage: Stage) -> tuple[ParameterGroup, ...]:
    """The parameter groups whose values decide what a stage does."""
    groups: list[ParameterGroup] = ["backbone", "final_head"]
    groups += ["thresholds"] if stage.masking != "none" else []
    groups += ["exit_heads"] if stage.asks_exits else []
    return tuple(groups)


def learned_by(stage: Stage, model: PyramidModel) -> dict[str, Tensor]:
    """The parameters that a stage trains, by name."""
    learning = {id(parameter) for group in stage.trains for parameter in model.parameter_group(group)}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in learning}


def key_of(facts: Mapping[str, Any]) -> str:
    """A short name for JSON data, the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

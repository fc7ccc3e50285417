"""Numbers of single runs, and the one file that collects them."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magic_pyramid.config import ModelConfig, TrainConfig
from magic_pyramid.reproduce.measure import OWN_DENSE
from magic_pyramid.reproduce.plan import PLAN_FILE, Cell, cells_of
from magic_pyramid.reproduce.suite import Suite
from magic_pyramid.training.stages import stages_of
from magic_pyramid.training.workspace import read_json

MEASURED_FILE, TIMED_FILE = "measured.json", "timed.json"
"""In a run's folder: quality and FLOPs, and wall-clock."""
RESULTS_FILE = "results.jsonl"
"""In the output folder: one line for each run and setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """A run with its numbers, and its teacher's."""

    cell: Cell
    measured: dict[str, Any]
    teacher: dict[str, Any]


def measured_runs(suite: Suite, output: Path) -> list[MeasuredRun]:
    """The runs of the tables that have been measured, in the order of the suite.

    Those that were measured beside an earlier measurement of their teacher are left out until they are
    measured again.
    """
    found = []
    teachers: dict[tuple[str, int], dict[str, Any]] = {}
    for cell in cells_of(suite):
        measured = numbers(cell, output, MEASURED_FILE)
        if measured is None:
            continue
        if cell.method.name == suite.teacher_method.name:
            teachers[cell.dataset.name, cell.seed] = measured
        teacher = teachers.get((cell.dataset.name, cell.seed))
        if not cell.is_reported or teacher is None:
            continue
        if measured is teacher or measured.get("teacher") == teacher["key"]:
            found.append(MeasuredRun(cell=cell, measured=measured, teacher=teacher))
    return found


def result_rows(suite: Suite, output: Path) -> list[dict[str, Any]]:
    """A row for each setting of each measured run; times of settings that are measured anew are left out."""
    rows = []
    for run in measured_runs(suite, output):
        cell, measured = run.cell, run.measured
        (dense,) = (row for row in run.teacher["rows"] if row["setting"] == OWN_DENSE)
        times = numbers(cell, output, TIMED_FILE)
        if times is None or times.get("measured") != measured["key"]:
            times = {"rows": {}, "provenance": {}}
        training = _training(read_json(cell.folder(output) / PLAN_FILE))
        for row in measured["rows"]:
            rows.append({
                "suite": suite.name,
                "dataset": cell.dataset.name,
                "method": cell.method.name,
                "preset": cell.method.preset,
                "seed": cell.seed,
                "metric": measured["metric"],
                "teacher_quality": dense["quality"],
                "training": training,
                **row,
                **times["rows"].get(row["setting"], {}),
                "provenance": {**measured["provenance"], **times["provenance"]},
            })  # fmt: skip
    return rows


def _training(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Of what decides a training, what a reader must know to compare methods."""
    train = TrainConfig.from_dict(facts["train"])
    stages = stages_of(ModelConfig.from_dict(facts["model"]), train)
    return {
        "epochs": {stage.name: stage.epochs for stage in stages},
        "teacher_share": train.distill_weight if any(stage.distill_weight for stage in stages) else 0.0,
        "target_speedup": train.target_speedup,
    }


def numbers(cell: Cell, output: Path, name: str) -> dict[str, Any] | None:
    """What was measured of a run; None where nothing was."""
    file = cell.folder(output) / name
    return read_json(file) if file.exists() else None


def write_results(rows: Sequence[Mapping[str, Any]], output: Path) -> Path:
    """Replace the file as a whole, so that several processes may do so."""
    file = output / RESULTS_FILE
    partial = file.with_name(f"{RESULTS_FILE}.{os.getpid()}")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(file)
    return file

"""Train what is missing, measure what is new, and collect all numbers; any of it may be done already."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from magic_pyramid.checkpoint import load_model
from magic_pyramid.classifier import Classifier, EngineName, use_threads
from magic_pyramid.config import STAGE_NAMES
from magic_pyramid.data.loading import fingerprint_of
from magic_pyramid.engine.interface import Setting
from magic_pyramid.engine.threads import threads_of
from magic_pyramid.evaluation import wall_clock
from magic_pyramid.fitting import arithmetic, commit, fit, machine
from magic_pyramid.labelled_rows import label_rows
from magic_pyramid.reproduce.measure import measure
from magic_pyramid.reproduce.plan import PLAN_FILE, Cell, Only, Run, check_folders, plan_runs, teacher_of
from magic_pyramid.reproduce.report import write_report
from magic_pyramid.reproduce.results import (
    MEASURED_FILE,
    TIMED_FILE,
    numbers,
    result_rows,
    write_results,
)
from magic_pyramid.reproduce.rows import SuiteRows, commonest_share, read_rows
from magic_pyramid.reproduce.suite import Suite
from magic_pyramid.sweep import PRUNE_SCALES
from magic_pyramid.tokenization import TextEncoder
from magic_pyramid.training.record import OnEvent
from magic_pyramid.training.sharing import SharedStages, key_of
from magic_pyramid.training.workspace import FOLDER as WORK_FOLDER
from magic_pyramid.training.workspace import digest_of, read_json, write_json

LOCK_FILE = ".lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A suite whose trainings are worked out and checked."""

    suite: Suite
    only: Only
    output: Path
    rows: dict[str, SuiteRows]
    runs: list[Run]
    """Of the chosen datasets, all methods and seeds."""

    @property
    def chosen(self) -> list[Run]:
        """The runs to work on."""
        return [run for run in self.runs if self.only.has(run.cell)]

    @property
    def needed(self) -> list[Run]:
        """The chosen runs, and the teachers that they are compared with, each before its first student."""
        pairs = ((teacher_of(run, self.runs, self.suite), run) for run in self.chosen)
        return list({run.cell.name: run for pair in pairs for run in pair}.values())


def prepare(
    suite: Suite, *, output: Path | None = None, data_folder: Path | None = None, only: Only | None = None
) -> Prepared:
    """Load backbone and rows, and work out every training.

    Args:
        suite: what is asked for.
        output: folder of all results; None: the suite's own.
        data_folder: where relative data paths are looked for first.
        only: the part to work on.

    Raises:
        ConfigError: a setting or a target is impossible, or a folder holds another training.
        InputError: a dataset cannot be used, or is too small for what is asked of it.
        CheckpointError: the backbone cannot be loaded.
    """
    only = only or Only()
    only.check(suite)
    loaded = load_model(suite.backbone)
    encoder = TextEncoder.from_pretrained(loaded.folder)
    longest = loaded.model.config.backbone.max_length
    rows = {
        dataset.name: read_rows(dataset, encoder, folder=data_folder, longest=longest)
        for dataset in suite.datasets
        if only.has_dataset(dataset)
    }
    weights = digest_of(*loaded.model.parameter_group("backbone"))
    runs = plan_runs(suite, rows, base=loaded.model.config, encoder=encoder, weights=weights)
    output = output or Path(suite.output or Path("runs") / suite.name)
    check_folders(runs, output)
    return Prepared(suite=suite, only=only, output=output, rows=rows, runs=runs)


def reproduce(
    prepared: Prepared,
    *,
    command: str,
    say: Callable[[str], None],
    progress: Callable[[], AbstractContextManager[OnEvent]],
    device: str = "cpu",
    times: bool = True,
) -> list[dict[str, Any]]:
    """Train and measure the chosen runs, and give the rows of all runs that are measured by then.

    Several processes may work on one output folder: each run has one of them, and a stage that two need at
    once is trained by one while the other waits.

    Args:
        prepared: the suite.
        command: what the user typed, without folders of this machine.
        say: called with a line for each step.
        progress: gives a watcher for one training.
        device: where PyTorch trains and measures; "cpu" measures with the native engine where it can.
        times: also measure wall-clock, where the suite asks for it.
    """
    suite, output = prepared.suite, prepared.output
    use_threads(suite.timing.threads)
    worker = _Worker(prepared, command=command, say=say, progress=progress, device=device, times=times)
    left = [run for run in prepared.chosen if not worker.complete(run, waits=False)]
    for run in left:
        say(f"{run.cell.name}: another process is at it; waiting")
        worker.complete(run, waits=True)
    rows = result_rows(suite, output)
    write_results(rows, output)
    if rows:
        write_report(suite, rows, output, texts=prepared.rows)
    return rows


class _Worker:
    """One process at work on a suite."""

    def __init__(
        self,
        prepared: Prepared,
        *,
        command: str,
        say: Callable[[str], None],
        progress: Callable[[], AbstractContextManager[OnEvent]],
        device: str,
        times: bool,
    ) -> None:
        self.prepared, self.suite, self.output = prepared, prepared.suite, prepared.output
        self.command, self.say, self.progress = command, say, progress
        self.device, self.times = device, times
        self.commit = commit()

    def complete(self, run: Run, *, waits: bool) -> bool:
        """Do what is missing of a run, its teacher's first; False where another process has it."""
        teacher = teacher_of(run, self.prepared.runs, self.suite)
        if teacher is not run:
            self.complete(teacher, waits=True)
        folder = run.cell.folder(self.output)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / LOCK_FILE, timeout=-1 if waits else 0):
                is_new = self._train(run) | self._measure(run, teacher) | self._time(run, teacher)
        except Timeout:
            return False
        if is_new:
            write_results(result_rows(self.suite, self.output), self.output)
        return True

    def _train(self, run: Run) -> bool:
        cell, folder = run.cell, run.cell.folder(self.output)
        work = folder / WORK_FOLDER
        if cell.is_trained(self.output) and not work.exists():
            return False
        self.say(f"{cell.name}: {'goes on' if work.exists() else 'trains'}")
        write_json(folder / PLAN_FILE, run.facts)
        with self.progress() as on_event:
            fit(
                model=self.suite.backbone,
                data=self.prepared.rows[cell.dataset.name].data,
                output=folder,
                preset=cell.method.preset,
                config=run.settings.config,
                model_changes=run.settings.model_changes,
                device=self.device,
                resume=work.exists(),
                on_event=on_event,
                command=self.command,
                shared=cell.shared(self.output),
            )
        self._tidy(run)
        shutil.rmtree(work)
        return True

    def _tidy(self, run: Run) -> None:
        """Drop shared stages that no run waits for; fine-tuned models stay, for methods added later."""
        cell = run.cell
        same = [
            other.cell
            for other in self.prepared.runs
            if (other.cell.dataset.name, other.cell.seed) == (cell.dataset.name, cell.seed)
        ]
        if not all(other.is_trained(self.output) for other in same):
            return
        shared = SharedStages(folder=cell.shared(self.output))
        with shared.held("tidy"):
            for metrics in shared.folder.glob("*/metrics.json"):
                if read_json(metrics)["name"] != STAGE_NAMES[0]:
                    shutil.rmtree(metrics.parent)

    def _measure(self, run: Run, teacher: Run) -> bool:
        cell, rows, suite = run.cell, self.prepared.rows[run.cell.dataset.name], self.suite
        base = None if teacher is run else numbers(teacher.cell, self.output, MEASURED_FILE)
        asked = {
            "training": read_json(cell.folder(self.output) / PLAN_FILE),
            "test": fingerprint_of(rows.test),
            "buckets": list(rows.buckets),
            "teacher": base and base["key"],
            "thresholds": suite.thresholds,
            "max_drops": suite.max_drops,
            "prune_scales": PRUNE_SCALES if run.fit.model.prune else (),
            **_patience(run),
        }
        folder = cell.folder(self.output)
        if _is_stored(cell, self.output, MEASURED_FILE, key_of(asked)):
            return False
        self.say(f"{cell.name}: is measured on {len(rows.test):,} texts")
        classifier = Classifier.from_pretrained(folder, device=self.device)
        found = measure(
            classifier,
            validation=rows.data.splits["validation"],
            test=rows.test,
            buckets=rows.buckets,
            planned=run.fit.model,
            dense=teacher.fit.model,
            teacher_quality=base["validation_quality"] if base else None,
            thresholds=suite.thresholds,
            max_drops=suite.max_drops,
        )
        provenance = {
            "command": self.command,
            "commit": self.commit,
            "machine": machine(),
            "threads": threads_of(found["engine"]),
            "dtype": arithmetic(self.device),
            "engine": found["engine"],
            "backbone": Path(suite.backbone).name,
            "seed": cell.seed,
            "train_rows": len(rows.data.splits["train"]),
            "validation_rows": len(rows.data.splits["validation"]),
            "validation": "held out of train" if rows.data.held_out else "the data's own split",
            "test_rows": len(rows.test),
            "tested": rows.tested,
            "commonest_label": commonest_share(rows.test),
            "train_commit": classifier.info["provenance"].get("commit"),
            "train_machine": classifier.info["provenance"].get("machine"),
            "date": _today(),
        }
        measured = {
            "key": key_of(asked), "teacher": asked["teacher"], **found, "provenance": provenance
        }  # fmt: skip
        write_json(folder / MEASURED_FILE, measured)
        return True

    def _time(self, run: Run, teacher: Run) -> bool:
        """Wall-clock of every named setting, in turns with the dense teacher in the same engine."""
        timing, folder = self.suite.timing, run.cell.folder(self.output)
        measured = numbers(run.cell, self.output, MEASURED_FILE)
        assert measured is not None
        key = key_of({"measured": measured["key"], **timing.to_dict()})
        if not self.times or not timing.repeats or _is_stored(run.cell, self.output, TIMED_FILE, key):
            return False
        self.say(f"{run.cell.name}: is timed")
        ours = Classifier.from_pretrained(folder, device=self.device)
        engine = cast("EngineName", ours.engine.name)
        dense = Classifier.from_pretrained(
            teacher.cell.folder(self.output), device=self.device, engine=engine
        )
        test = self.prepared.rows[run.cell.dataset.name].test
        settings = {
            row["setting"]: Setting(prune_scale=row["prune_scale"], exit_threshold=_threshold(row))
            for row in measured["rows"]
        }
        times = wall_clock(
            ours.engine,
            label_rows(ours.encoder, test, ours.config).encoded,
            settings=settings,
            batch_size=timing.batch_size,
            repeats=timing.repeats,
            baseline=None if teacher is run else dense.engine,
            rows=timing.rows,
        )
        provenance = {
            "timed_engine": ours.engine.name,
            "timed_against": f"{teacher.cell.method.name}, dense, in the engine {dense.engine.name}",
            "timed_machine": machine(),
            "timed_threads": threads_of(ours.engine.name),
            "timed_batch_size": timing.batch_size,
            "timed_rows": timing.rows,
            "timed_repeats": timing.repeats,
            "timed_commit": self.commit,
            "timed_date": _today(),
        }
        timed = {"key": key, "measured": measured["key"], "rows": times, "provenance": provenance}
        write_json(folder / TIMED_FILE, timed)
        return True


def _patience(run: Run) -> dict[str, Any]:
    """The threshold of the row as trained, where the suite does not give it."""
    exits = run.fit.model.exit
    return {"patience": exits.threshold} if exits and exits.criterion == "patience" else {}


def _is_stored(cell: Cell, output: Path, name: str, key: str) -> bool:
    found = numbers(cell, output, name)
    return found is not None and found["key"] == key


def _threshold(row: dict[str, Any]) -> float | tuple[float, ...] | None:
    """A stored threshold; JSON has no tuples."""
    value = row["exit_threshold"]
    return tuple(value) if isinstance(value, list) else value


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")

"""Every training of a suite, worked out and checked before the first one starts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magic_pyramid.config import ModelConfig, TrainConfig
from magic_pyramid.errors import ConfigError, MagicPyramidError, nearest
from magic_pyramid.fitting import FitPlan, plan_fit, train_lengths
from magic_pyramid.folder_info import CONFIG_FILE
from magic_pyramid.reproduce.rows import SuiteRows
from magic_pyramid.reproduce.suite import Dataset, Method, Suite, folder_name
from magic_pyramid.settings import TrainSettings
from magic_pyramid.tokenization import TextEncoder
from magic_pyramid.training import stages_of
from magic_pyramid.training.budget import check_budget
from magic_pyramid.training.sharing import key_of, stage_facts
from magic_pyramid.training.workspace import differences, read_json

PLAN_FILE = "training.json"
"""In a run's folder: everything that decides its training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage of one training."""

    name: str
    key: str
    """The same for stages that will be one computation."""
    token_steps: float
    """Tokens that it reads, epochs counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A dataset, a method and a seed."""

    dataset: Dataset
    method: Method
    seed: int
    is_reported: bool
    """False: the dense teacher of a suite whose tables do not have it."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.dataset.name}, {self.method.name}, seed {self.seed}"

    def folder(self, output: Path) -> Path:
        """Where the model and its numbers lie."""
        return output / folder_name(self.dataset.name) / folder_name(self.method.name) / f"seed{self.seed}"

    def shared(self, output: Path) -> Path:
        """Where stages lie that other methods take over."""
        return output / folder_name(self.dataset.name) / ".shared" / f"seed{self.seed}"

    def is_trained(self, output: Path) -> bool:
        """Whether its model is there."""
        return (self.folder(output) / CONFIG_FILE).exists()


def cells_of(suite: Suite) -> list[Cell]:
    """All of them by dataset, seed and method; the dense teacher always comes first."""
    reported = {method.name for method in suite.methods}
    return [
        Cell(dataset=dataset, method=method, seed=seed, is_reported=method.name in reported)
        for dataset in suite.datasets
        for seed in suite.seeds
        for method in suite.trained_methods
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training, worked out."""

    cell: Cell
    settings: TrainSettings
    fit: FitPlan
    facts: Mapping[str, Any]
    """Everything that decides the training, as JSON."""
    stages: tuple[StagePlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Only:
    """Which part of a suite to work on; an empty choice is everything."""

    datasets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def check(self, suite: Suite) -> None:
        """Raise ConfigError for a name that the suite does not have."""
        known: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {
            "dataset": (self.datasets, [dataset.name for dataset in suite.datasets]),
            "method": (self.methods, [method.name for method in suite.trained_methods]),
            "seed": (self.seeds, suite.seeds),
        }
        for kind, (asked, there) in known.items():
            for name in asked:
                if name not in there:
                    raise ConfigError(f"the suite has no {kind} {name!r}; {nearest(str(name), there)}")

    def has_dataset(self, dataset: Dataset) -> bool:
        """Whether it is chosen."""
        return not self.datasets or dataset.name in self.datasets

    def has(self, cell: Cell) -> bool:
        """Whether it is chosen; a teacher that no table has only if it is asked for."""
        method = cell.method.name in self.methods if self.methods else cell.is_reported
        return self.has_dataset(cell.dataset) and method and (not self.seeds or cell.seed in self.seeds)


def plan_runs(
    suite: Suite, rows: Mapping[str, SuiteRows], *, base: ModelConfig, encoder: TextEncoder, weights: str
) -> list[Run]:
    """Every training on these datasets, by dataset, seed and method; the dense teacher always comes first.

    Args:
        suite: what is asked for.
        rows: of each dataset, by name.
        base: config of the backbone.
        encoder: its tokenizer.
        weights: a name of its weights.

    Raises:
        ConfigError: a setting or a target is impossible; the dataset and the method are named.
    """
    lengths = {name: train_lengths(base, encoder, there.data) for name, there in rows.items()}
    runs = []
    for cell in cells_of(suite):
        name = cell.dataset.name
        if name not in rows:
            continue
        try:
            settings = suite.settings(cell.dataset, cell.method, cell.seed)
            fit = plan_fit(
                base,
                encoder,
                rows[name].data,
                preset=cell.method.preset,
                config=settings.config,
                model_changes=settings.model_changes,
                lengths=lengths[name],
            )
            check_budget(fit.model, fit.train, fit.lengths)
        except MagicPyramidError as error:
            raise type(error)(f"{name}, {cell.method.name}: {error}") from None
        facts = _facts(fit, rows[name], preset=cell.method.preset, weights=weights)
        runs.append(Run(cell=cell, settings=settings, fit=fit, facts=facts, stages=_stages(fit, facts)))
    return runs


def check_folders(runs: Iterable[Run], output: Path) -> None:
    """Raise ConfigError where a folder holds a training with other settings or rows."""
    for run in runs:
        file = run.cell.folder(output) / PLAN_FILE
        different = differences(_decisive(read_json(file)), _decisive(run.facts)) if file.exists() else []
        if different:
            raise ConfigError(
                f"{run.cell.folder(output)} was trained otherwise: {'; '.join(different[:5])}; "
                "delete it, or choose another output"
            )


def new_stages(runs: Iterable[Run]) -> list[tuple[Run, list[StagePlan]]]:
    """The stages that each run trains itself when all run in this order: those that none before it has."""
    done: set[str] = set()
    found = []
    for run in runs:
        found.append((run, [stage for stage in run.stages if stage.key not in done]))
        done |= {stage.key for stage in run.stages}
    return found


def _decisive(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts with the settings that have come since they were stored, and epochs of the stages that run."""
    try:
        model, train = ModelConfig.from_dict(facts["model"]), TrainConfig.from_dict(facts["train"])
    except ConfigError:
        return dict(facts)
    epochs = {stage.name: stage.epochs for stage in stages_of(model, train)}
    return {**facts, "model": model.to_dict(), "train": {**train.to_dict(), "epochs": epochs}}


def _facts(fit: FitPlan, rows: SuiteRows, *, preset: str, weights: str) -> dict[str, Any]:
    return {
        "preset": preset,
        "model": fit.model.to_dict(),
        "train": fit.train.to_dict(),
        "data": {split: rows.data.fingerprint(split) for split in ("train", "validation")},
        "encoder weights": weights,
    }


def _stages(fit: FitPlan, facts: Mapping[str, Any]) -> tuple[StagePlan, ...]:
    """The stages in order; the key of each names all that came before it."""
    before = key_of({"data": facts["data"], "seed": fit.train.seed})
    stages = []
    for stage in stages_of(fit.model, fit.train):
        before = key_of({"before": before, **stage_facts(stage, fit.model, fit.train)})
        steps = stage.epochs * float(fit.lengths.sum())
        stages.append(StagePlan(name=stage.name, key=before, token_steps=steps))
    return tuple(stages)


def teacher_of(run: Run, runs: Sequence[Run], suite: Suite) -> Run:
    """The dense teacher with the run's rows and seed."""
    name, cell = suite.teacher_method.name, run.cell
    return next(
        other
        for other in runs
        if other.cell.method.name == name
        and (other.cell.dataset.name, other.cell.seed) == (cell.dataset.name, cell.seed)
    )

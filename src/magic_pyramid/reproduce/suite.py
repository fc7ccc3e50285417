"""The suite file: which datasets, methods and seeds, and how all of them are trained and measured."""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from magic_pyramid.checkpoint.typed import type_problems
from magic_pyramid.config import STAGE_NAMES, ProblemType
from magic_pyramid.config.base import Config, check_choice, check_within
from magic_pyramid.data import Columns
from magic_pyramid.errors import ConfigError, InputError, nearest
from magic_pyramid.presets import PRESETS, find_preset, find_recipe
from magic_pyramid.settings import TrainSettings, read_value, train_settings

MEDIAN = "median"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training(Config):
    """How models are trained; what a method says counts more than its dataset, and that than the defaults."""

    recipe: str | None = None
    """Training settings to begin with; None: the preset's own."""
    epochs: dict[str, float] = field(default_factory=dict)
    """Epochs by stage; the stages that are not named keep the recipe's."""
    set: dict[str, Any] = field(default_factory=dict)
    """Any other setting, as `train --set` takes them."""

    def __post_init__(self) -> None:
        check_training(self.recipe, self.epochs, self.set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(Config):
    """Labelled texts, and which of them train, choose and test."""

    name: str
    """What tables and folders call it."""
    data: str
    """File, folder of splits or hub dataset."""
    where: dict[str, str] = field(default_factory=dict)
    """Keep the rows whose column has the value; splits without the column stay whole."""
    text_column: str | None = None
    """Column of the text; None: found by its name."""
    text_pair_column: str | None = None
    """Column of the second text of a pair."""
    label_column: str | None = None
    """Column of the label."""
    problem_type: ProblemType | None = None
    """`single_label`, `multi_label` or `regression`; None: as the labels look."""
    train_rows: int | None = None
    """Rows to train on, labels in proportion; None: all."""
    train_max_tokens: int | str | None = None
    """Train and choose on texts of at most so many tokens, or `median` of the train texts; test all."""
    validation_rows: int | None = None
    """Rows that choose settings; None: the whole validation split, or a tenth of train if there is none."""
    test: Literal["test", "validation"] = "test"
    """The split that is tested; where it is `validation`, rows held out of train choose settings."""
    test_share: float = 0.0
    """Part of train to test where there is no test split, in [0, 0.9]; questions are divided by article."""
    test_rows: int | None = None
    """Rows tested, labels in proportion; None: all."""
    max_length: int | None = None
    """Cut texts to so many tokens; None: as the suite says."""
    recipe: str | None = None
    """Training settings of this dataset to begin with; None: as the suite says."""
    epochs: dict[str, float] = field(default_factory=dict)
    """Epochs by stage on this dataset."""
    set: dict[str, Any] = field(default_factory=dict)
    """Settings of this dataset."""

    def __post_init__(self) -> None:
        check_name(self.name)
        check_mapping("where", self.where)
        check_choice("dataset", "test", self.test, Literal["test", "validation"])
        if self.problem_type is not None:
            check_choice("dataset", "problem_type", self.problem_type, ProblemType)
        for name in ("train_rows", "validation_rows", "test_rows"):
            if getattr(self, name) is not None:
                check_within("dataset", name, getattr(self, name), 1, 10**9)
        check_within("dataset", "test_share", self.test_share, 0.0, 0.9)
        tokens = self.train_max_tokens
        if tokens not in (None, MEDIAN) and (not isinstance(tokens, int) or tokens < 2):
            raise ConfigError(f"train_max_tokens is {tokens!r}; give a number of at least 2, or {MEDIAN}")
        check_training(self.recipe, self.epochs, self.set)

    @property
    def columns(self) -> Columns:
        """The columns that were named."""
        return Columns(text=self.text_column, text_pair=self.text_pair_column, label=self.label_column)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method(Config):
    """A preset, and what is changed about it."""

    name: str
    """What tables and folders call it."""
    preset: str
    """The method, as `train --preset` names it; None: the name is the preset's."""
    recipe: str | None = None
    """Training settings to begin with; None: the dataset's, the suite's or the preset's own."""
    epochs: dict[str, float] = field(default_factory=dict)
    """Epochs by stage of this method."""
    target_speedup: float | None = None
    """Dense FLOPs over FLOPs that it learns to reach; None: as its recipe says."""
    set: dict[str, Any] = field(default_factory=dict)
    """Settings of this method."""

    def __post_init__(self) -> None:
        check_name(self.name)
        find_preset(self.preset)
        check_training(self.recipe, self.epochs, self.set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing(Config):
    """How time is measured."""

    threads: int = 1
    """CPU threads."""
    batch_size: int = 32
    """Texts in a batch."""
    repeats: int = 5
    """Timed runs of each setting, in turns with the dense teacher; 0: time is not measured."""
    rows: int = 128
    """Test texts that are timed, at even distances over their lengths."""

    def __post_init__(self) -> None:
        for name, least in (("threads", 1), ("batch_size", 1), ("repeats", 0), ("rows", 1)):
            check_within("timing", name, getattr(self, name), least, 10**6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite(Config):
    """Everything that is to be trained and measured."""

    name: str
    """What the report is called."""
    backbone: str
    """Encoder to begin with: a folder or a hub name."""
    datasets: tuple[Dataset, ...]
    """The datasets, in the order of the tables."""
    methods: tuple[Method, ...]
    """The methods, in the order of the tables."""
    output: str | None = None
    """Folder of all results; None: `runs/` and the name."""
    about: str = ""
    """A sentence or two for the report."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of initialisation, order and dropout; the rows are the same for all."""
    teacher: str = "bert"
    """The fine-tuned dense model that quality, FLOPs and time are compared with: a method, or a preset."""
    defaults: Training = field(default_factory=Training)
    """What holds for all trainings."""
    max_length: int | None = 128
    """Cut texts to so many tokens; None: as the data needs."""
    thresholds: tuple[float, ...] = (0.1, 0.5, 0.8)
    """Exit thresholds that are reported."""
    max_drops: tuple[float, ...] = (0.5, 1.0)
    """Points of the dense teacher's validation quality that a chosen setting may lose."""
    timing: Timing = field(default_factory=Timing)
    """How time is measured."""
    shows_text_of: tuple[str, ...] | None = None
    """Datasets of which the report may show a text, as where a licence allows it; None: any."""

    def __post_init__(self) -> None:
        check_name(self.name)
        for kind, found in (("dataset", self.datasets), ("method", self.methods), ("seed", self.seeds)):
            if not found:
                raise ConfigError(f"the suite has no {kind}; name at least one")
        _check_different("datasets", [folder_name(dataset.name) for dataset in self.datasets])
        _check_different("methods", [folder_name(method.name) for method in self.methods])
        _check_different("seeds", self.seeds)
        _check_different("thresholds", self.thresholds)
        for value in self.thresholds:
            check_within("suite", "thresholds", value, 0.0, 1.0)
        if not self.max_drops:
            raise ConfigError("max_drops is empty; give at least one number of points")
        for value in self.max_drops:
            check_within("suite", "max_drops", value, 0.0, 100.0)
        if self.teacher not in (known := [*(method.name for method in self.methods), *PRESETS]):
            raise ConfigError(f"teacher is {self.teacher!r}; {nearest(self.teacher, known)}")
        there = [dataset.name for dataset in self.datasets]
        for name in self.shows_text_of or ():
            if name not in there:
                raise ConfigError(f"shows_text_of names {name!r}; {nearest(name, there)}")
        teacher = find_preset(self.teacher_method.preset)
        is_student = find_recipe(self.teacher_method.recipe or teacher.recipe).student_keeps != "all"
        if teacher.prune is not None or teacher.exit is not None or is_student:
            raise ConfigError(
                f"teacher is {self.teacher!r}, which prunes, exits or keeps few layers; name a dense method"
            )

    @property
    def teacher_method(self) -> Method:
        """The dense teacher; it is trained even where it is no method of the tables."""
        named = {method.name: method for method in self.methods}
        return named.get(self.teacher) or Method(name=self.teacher, preset=self.teacher)

    @property
    def trained_methods(self) -> tuple[Method, ...]:
        """The teacher, and then every other method."""
        teacher = self.teacher_method
        return (teacher, *(method for method in self.methods if method.name != teacher.name))

    def settings(self, dataset: Dataset, method: Method, seed: int) -> TrainSettings:
        """How one model is trained.

        Raises:
            ConfigError: a value is impossible. What the defaults or the dataset say about a part that the
                method lacks is left out; said by the method itself it is an error.
        """
        preset = find_preset(method.preset)
        lacks = tuple(
            f"{part}." for part, config in (("prune", preset.prune), ("exit", preset.exit)) if config is None
        )
        general = {**self.defaults.set, **dataset.set}
        general = {key: value for key, value in general.items() if not lacks or not key.startswith(lacks)}
        values = {**general, **method.set}
        # A preset that has a recipe of its own is defined by it.
        recipe = (dataset.recipe or self.defaults.recipe) if preset.recipe == "default" else None
        return train_settings(
            preset=method.preset,
            recipe=method.recipe or recipe,
            values={key: _plain_value(value) for key, value in values.items()},
            epochs={**self.defaults.epochs, **dataset.epochs, **method.epochs},
            max_length=None if "model.max_length" in values else dataset.max_length or self.max_length,
            train_options={"seed": seed, "target_speedup": method.target_speedup},
        )


def read_suite(path: str | Path) -> Suite:
    """Read and check a suite file.

    Raises:
        InputError: there is no such file, or it is no YAML.
        ConfigError: a key is unknown (the nearest is named), or a value is missing, impossible or of another
            type.
    """
    path = Path(path)
    try:
        return suite_of(_read_yaml(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give a suite file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is no YAML: {' '.join(str(error).split())}") from None
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None


def suite_of(content: Any) -> Suite:
    """The suite that YAML or JSON data describes; a method may be the name of a preset alone.

    Raises:
        ConfigError: as ``read_suite``.
    """
    if not isinstance(content, Mapping):
        raise ConfigError("a suite is a mapping with name, backbone, datasets and methods")
    whole = dict(content)
    Suite.check_keys(map(str, whole))
    if isinstance(whole.get("methods"), list):
        whole["methods"] = [_whole_method(entry) for entry in whole["methods"]]
    known = {"datasets": Dataset, "methods": Method}
    for key, config in known.items():
        for entry in whole.get(key) or () if isinstance(whole.get(key), list) else ():
            _check_entry(config, entry, key)
    problems = list(type_problems(Suite, whole, "suite"))
    if problems:
        raise ConfigError("; ".join(problem.removeprefix("suite.") for problem in problems))
    return Suite.from_dict(whole)


def _whole_method(entry: Any) -> Any:
    if isinstance(entry, str):
        return {"name": entry, "preset": entry}
    return {"preset": entry.get("name"), **entry} if isinstance(entry, Mapping) else entry


def _check_entry(config: type[Config], entry: Any, key: str) -> None:
    """Build one entry alone, so that what is wrong with it is said under its name."""
    if not isinstance(entry, Mapping) or list(type_problems(config, entry, key)):
        return
    try:
        config.from_dict(entry)
    except ConfigError as error:
        raise ConfigError(f"{key}, {entry['name']}: {error}") from None


def _plain_value(value: Any) -> Any:
    # YAML 1.1 takes 1e-3, without a point, for a text.
    return read_value(value) if isinstance(value, str) else value


def check_name(name: str) -> None:
    """Raise ConfigError unless the name can stand in a table and, with its spaces replaced, be a folder."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"name is {name!r}; use letters, digits, spaces and . _ + -, beginning with a letter or digit"
        )


_SAID_ELSEWHERE = {
    "train.epochs": "epochs",
    "train.seed": "the suite's seeds",
    "train.validation_share": "a dataset's validation_rows",
}
"""Settings of a training that a suite says in its own words."""


def check_training(recipe: str | None, epochs: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raise ConfigError for an unknown recipe or stage, or what is no mapping."""
    check_mapping("epochs", epochs)
    check_mapping("set", values)
    if recipe is not None:
        find_recipe(recipe)
    for name, instead in _SAID_ELSEWHERE.items():
        if name in values:
            raise ConfigError(f"set names {name!r}; say {instead} instead")
    for stage, count in epochs.items():
        if stage not in STAGE_NAMES:
            raise ConfigError(f"epochs names the stage {stage!r}; {nearest(str(stage), STAGE_NAMES)}")
        check_within("training", f"epochs.{stage}", count, 0.0, 10_000.0)


def check_mapping(name: str, value: object) -> None:
    """Raise ConfigError unless the value has keys."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is {value!r}; it must be a mapping")


def folder_name(name: str) -> str:
    """A name without spaces."""
    return name.replace(" ", "_")


def _check_different(what: str, names: Iterable[Hashable]) -> None:
    seen: set[Hashable] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"{what} has {name!r} twice; give each once")
        seen.add(name)


def _read_yaml(text: str) -> Any:
    """Plain data only, and no key twice: the second would silently replace the first."""
    for node in _nodes(yaml.compose(text, Loader=yaml.SafeLoader)):
        keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"{key!r} stands twice near line {node.start_mark.line + 1}; give it once")
    return yaml.safe_load(text)


def _nodes(node: Any) -> Iterator[Any]:
    if isinstance(node, yaml.Node):
        yield node
        for child in node.value if isinstance(node.value, list) else ():
            for part in child if isinstance(child, tuple) else (child,):
                yield from _nodes(part)

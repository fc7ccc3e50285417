"""Rows of several seeds as one number and its deviation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from magic_pyramid.reproduce.measure import within
from magic_pyramid.reproduce.suite import Suite

Row = Mapping[str, Any]
MISSING = "-"
NEVER = "never"


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean over seeds, and the standard deviation; None for one seed."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """None of no values."""
        if not values:
            return None
        return cls(mean(values), stdev(values) if len(values) > 1 else None)

    def write(self, pattern: str, *, unit: str = "") -> str:
        """As ``84.2 ± 0.3``, both by the same format pattern."""
        deviation = "" if self.deviation is None else f" ± {self.deviation:{pattern}}"
        return f"{self.mean:{pattern}}{unit}{deviation}"


@dataclass(frozen=True, slots=True)
class Results:
    """The rows of a suite, and how to ask for them."""

    suite: Suite
    rows: Sequence[Row]
    """As ``results.jsonl`` has them."""

    @property
    def datasets(self) -> list[str]:
        """Those that have results, in the suite's order."""
        there = {row["dataset"] for row in self.rows}
        return [dataset.name for dataset in self.suite.datasets if dataset.name in there]

    @property
    def methods(self) -> list[str]:
        """Those that have results, in the suite's order."""
        there = {row["method"] for row in self.rows}
        return [method.name for method in self.suite.methods if method.name in there]

    def presets(self) -> dict[str, str]:
        """The preset of each method."""
        return {method.name: method.preset for method in self.suite.methods}

    def of(self, dataset: str, method: str, setting: str) -> list[Row]:
        """One row a seed, where that seed has the setting."""
        wanted = (dataset, method, setting)
        return [row for row in self.rows if (row["dataset"], row["method"], row["setting"]) == wanted]

    def num_seeds(self, dataset: str, method: str) -> int:
        """How many seeds have been measured."""
        return len(self.of(dataset, method, "dense"))

    def metric(self, dataset: str) -> str:
        """What quality means there."""
        return str(next(row["metric"] for row in self.rows if row["dataset"] == dataset))

    @property
    def main_setting(self) -> str:
        """The fastest setting within the largest of the suite's drops."""
        return within(max(self.suite.max_drops))

    @property
    def commands(self) -> list[str]:
        """That measured the rows; tables name them by their number, from 1."""
        return list(dict.fromkeys(str(row["provenance"]["command"]) for row in self.rows))

    def source_of(self, rows: Sequence[Row]) -> str:
        """Where the numbers of a table are from, in one line."""
        if not rows:
            return ""
        facts = [row["provenance"] for row in rows]
        seeds = sorted({row["seed"] for row in rows})
        commands = self.commands
        used = sorted({commands.index(str(fact["command"])) + 1 for fact in facts})
        parts = [
            f"{distinct(facts, 'backbone')}, {_plural('seed', seeds)}, {distinct(facts, 'dtype')}",
            f"engine {distinct(facts, 'engine')}, {distinct(facts, 'threads')} thread(s), "
            f"{distinct(facts, 'machine')}",
            f"commit {distinct(facts, 'commit')}, trained at {distinct(facts, 'train_commit')}",
            f"{_plural('command', used)} below",
        ]
        return "; ".join(parts)


def distinct(facts: Iterable[Mapping[str, Any]], name: str) -> str:
    """Every value that a fact has, each once."""
    return ", ".join(dict.fromkeys(str(fact[name]) for fact in facts if fact.get(name) is not None))


def _plural(word: str, numbers: Sequence[int]) -> str:
    return f"{word}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def points_of(count: float) -> str:
    """A number of points in words."""
    return f"{count:g} point{'' if count == 1 else 's'}"


def spread(rows: Iterable[Row], value: Callable[[Row], float | None]) -> Spread | None:
    """Over the rows that have the value."""
    return Spread.of([found for row in rows if (found := value(row)) is not None])


def in_bucket(bucket: str, key: str) -> Callable[[Row], float | None]:
    """A number of the texts of some lengths; None where there are no such texts."""
    return lambda row: row["by_length"][bucket].get(key)

"""Measuring in turns: each contender once, then each once more, so that the machine's moods hit all alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


class Seat(Protocol):
    """A contender that is ready and sleeps until it is asked."""

    def ask(self, **request: Any) -> dict[str, Any]:
        """Do something and give the reply.

        Raises:
            ChildProcessError: it cannot any more.
        """
        ...


@dataclass(slots=True)
class Timings:
    """What was measured of one contender."""

    passes: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    """Seconds of each pass, by name of the texts and batch size."""
    calls: list[float] = field(default_factory=list)
    """Seconds of each text by itself, over all repeats."""


@dataclass(frozen=True, slots=True)
class Task:
    """Texts to run through at a batch size."""

    texts: str
    batch_size: int


def in_turns(
    seats: Mapping[str, Seat],
    tasks: Sequence[Task],
    *,
    repeats: int,
    can_do: Callable[[str, Task], bool] = lambda _, __: True,
) -> tuple[dict[str, Timings], dict[str, str]]:
    """Time every task of every contender, A B C A B C ..., one at a time.

    Args:
        seats: the contenders by name.
        tasks: what each does.
        repeats: how often.
        can_do: whether a contender can do a task.

    Returns:
        The timings by name, and why a contender dropped out, if it did.
    """
    timings = {name: Timings() for name in seats}
    failures: dict[str, str] = {}
    for _ in range(repeats):
        for task in tasks:
            for name, seat in seats.items():
                if name in failures or not can_do(name, task):
                    continue
                try:
                    seconds = seat.ask(do="time", texts=task.texts, batch_size=task.batch_size)["seconds"]
                except ChildProcessError as error:
                    failures[name] = str(error)
                    del timings[name]
                    continue
                _note(timings[name], task, seconds)
    return timings, failures


def _note(timings: Timings, task: Task, seconds: list[float]) -> None:
    timings.passes.setdefault((task.texts, task.batch_size), []).append(sum(seconds))
    if task == LATENCY:
        timings.calls += seconds


LATENCY = Task("texts", 1)
"""Every text by itself."""


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median and both quartiles, with linear interpolation."""
    low, middle, high = np.percentile(np.asarray(values, dtype=np.float64), (25, 50, 75))
    return {"q1": float(low), "median": float(middle), "q3": float(high)}


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99, with linear interpolation."""
    found = np.percentile(np.asarray(values, dtype=np.float64), (50, 95, 99))
    return dict(zip(("p50", "p95", "p99"), map(float, found), strict=True))

"""What a person sees while training: a bar on a terminal, lines in a log; both on stderr."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from magic_pyramid.training.record import OnEvent, TrainEvent

LINE_SECONDS = 30.0
"""Time between two lines of a log."""


@contextmanager
def show_progress(stream: TextIO | None = None) -> Iterator[OnEvent]:
    """Give a watcher for ``train``: a progress bar where the stream is a terminal, plain lines elsewhere."""
    target = stream or sys.stderr
    if not target.isatty():
        yield _Lines(target)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]{task.description:>13}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=Console(file=target)) as progress:
        tasks = {}

        def show(event: TrainEvent) -> None:
            if event.stage not in tasks:
                tasks[event.stage] = progress.add_task(event.stage, total=None, state="")
            task = tasks[event.stage]
            if event.kind == "validated":
                progress.console.print(f"{event.stage:>13} {validation_line(event)}", highlight=False)
            elif event.kind == "stage_skipped":
                progress.update(task, total=1, completed=1, state="finished earlier")
            else:
                progress.update(task, total=event.num_steps, completed=event.step, state=state_line(event))

        yield show


class _Lines:
    """A line now and then, and one at each event that matters."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.shown_s = time.perf_counter()

    def __call__(self, event: TrainEvent) -> None:
        now = time.perf_counter()
        if event.kind == "step" and now - self.shown_s < LINE_SECONDS:
            return
        self.shown_s = now
        self.stream.write(f"{event.stage}: {_LINES[event.kind](event)}\n")
        self.stream.flush()


def state_line(event: TrainEvent) -> str:
    """Epoch, loss, tokens alive and projected GFLOPs, as far as they are known."""
    parts = [f"epoch {event.epoch:.2f}/{event.num_epochs:g}"]
    if event.loss is not None:
        parts.append(f"loss {event.loss:.4f}")
    if event.kept_tokens is not None:
        parts.append(f"kept {kept_line(event.kept_tokens)}")
    if event.gflops is not None:
        parts.append(f"{event.gflops:.3g} GFLOPs")
    if event.speedup is not None:
        parts.append(f"expected {event.speedup:.2f}x")
    return "  ".join(parts)


def kept_line(kept_tokens: Sequence[float]) -> str:
    """Tokens alive after each layer, first layer first; one number where all are the same."""
    rounded = [f"{tokens:.0f}" for tokens in kept_tokens]
    return rounded[0] if len(set(rounded)) == 1 else " ".join(rounded)


def validation_line(event: TrainEvent) -> str:
    """The numbers of an epoch's end."""
    values = event.validation or {}
    parts = [f"epoch {event.epoch:.2f}: validation {values['metric']} {values['quality']:.4f}"]
    if values["exit_quality"]:
        exits = list(values["exit_quality"].values())
        parts.append("exits " + " ".join(f"{quality:.3f}" for quality in exits))
    parts.append(f"kept {kept_line(values['kept_tokens'])}")
    parts.append(f"{values['gflops']:.3g} GFLOPs")
    return "  ".join(parts)


_LINES: dict[str, Callable[[TrainEvent], str]] = {
    "stage_started": lambda event: f"starts, {event.num_steps} steps",
    "step": lambda event: f"step {event.step}/{event.num_steps}  {state_line(event)}",
    "validated": validation_line,
    "stage_finished": lambda event: "done",
    "stage_skipped": lambda event: "finished earlier, not repeated",
}

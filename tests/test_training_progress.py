"""What is shown: one line per event in a log, a bar on a terminal; never on stdout."""

import io
import re

import pytest

from magic_pyramid.training import TrainEvent, show_progress
from magic_pyramid.training.progress import kept_line, state_line

VALIDATION = {
    "metric": "accuracy",
    "quality": 0.875,
    "exit_quality": {"0": 0.5, "1": 0.75},
    "kept_tokens": [9.6, 4.2],
    "gflops": 0.1234,
}
EVENTS = (
    TrainEvent(kind="stage_skipped", stage="finetune", num_epochs=1.0),
    TrainEvent(kind="stage_started", stage="soft_prune", num_steps=4, num_epochs=2.0),
    TrainEvent(
        kind="step",
        stage="soft_prune",
        step=2,
        num_steps=4,
        epoch=1.0,
        num_epochs=2.0,
        loss=0.25,
        kept_tokens=(9.6, 4.2),
        gflops=1.5,
    ),
    TrainEvent(kind="validated", stage="soft_prune", step=2, num_steps=4, epoch=1.0, validation=VALIDATION),
    TrainEvent(kind="stage_finished", stage="soft_prune", step=4, num_steps=4, epoch=2.0, num_epochs=2.0),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO) -> str:
    with show_progress(stream) as on_event:
        for event in EVENTS:
            on_event(event)
    return stream.getvalue()


def test_a_log_gets_a_line_for_each_event_that_matters(monkeypatch):
    monkeypatch.setattr("magic_pyramid.training.progress.LINE_SECONDS", 0.0)
    assert shown(io.StringIO()).splitlines() == [
        "finetune: finished earlier, not repeated",
        "soft_prune: starts, 4 steps",
        "soft_prune: step 2/4  epoch 1.00/2  loss 0.2500  kept 10 4  1.5 GFLOPs",
        "soft_prune: epoch 1.00: validation accuracy 0.8750  exits 0.500 0.750  kept 10 4  0.123 GFLOPs",
        "soft_prune: done",
    ]


def test_a_log_is_not_flooded_with_steps():
    assert "step 2/4" not in shown(io.StringIO())


def test_a_terminal_gets_a_bar_with_stage_loss_tokens_and_gflops(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(Terminal()))
    for part in ("soft_prune", "4/4", "finished earlier", "validation accuracy 0.8750"):
        assert part in text


def test_stderr_is_the_default(capsys):
    with show_progress() as on_event:
        on_event(EVENTS[1])
    assert capsys.readouterr() == ("", "soft_prune: starts, 4 steps\n")


def test_what_is_not_known_yet_is_left_out():
    assert state_line(EVENTS[1]) == "epoch 0.00/2"


def test_a_stage_with_a_budget_shows_what_it_expects_to_save():
    event = TrainEvent(kind="step", stage="soft_prune", epoch=0.5, num_epochs=1, speedup=2.345)
    assert state_line(event) == "epoch 0.50/1  expected 2.35x"


@pytest.mark.parametrize(("kept", "expected"), [((8.0, 8.2), "8"), ((8.0, 3.0), "8 3")])
def test_equal_counts_are_written_once(kept, expected):
    assert kept_line(kept) == expected

"""How many threads an engine takes that is told no number."""

import os
import threading
import time

import pytest

import tiny
from magic_pyramid import Classifier
from magic_pyramid.engine import threads
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.tokenization import TextEncoder


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("max 100000", 8), ("", 8), (None, 8)],
)
def test_a_containers_limit_counts(monkeypatch, tmp_path, limit, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "CPU_LIMIT", tmp_path / "cpu.max")
    if limit is not None:
        (tmp_path / "cpu.max").write_text(limit)
    assert threads.usable_cores() == cores


def test_a_limit_above_the_cores_adds_none(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(threads, "CPU_LIMIT", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text("800000 100000\n")
    assert threads.usable_cores() == 2


def test_threads_that_ask_at_once_get_one_engine():
    made = []

    def make_engine(model):
        time.sleep(0.05)
        made.append(TorchEngine(model))
        return made[-1]

    model = tiny.build()
    classifier = Classifier(model, TextEncoder(tiny.tokenizer()), make_engine=make_engine)
    found = []
    asking = [threading.Thread(target=lambda: found.append(classifier.engine)) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(made) == 1
    assert found == made * 4

"""A tiny classifier in a folder, and rows for the command line to read."""

import json
from pathlib import Path

import tiny
from magic_pyramid.classifier import Classifier
from magic_pyramid.cli import main
from magic_pyramid.config import ExitConfig, ModelConfig, PruneConfig
from magic_pyramid.model import PyramidModel
from magic_pyramid.tokenization import TextEncoder

CONFIG = ModelConfig(
    backbone=tiny.BACKBONE.replace(num_hidden_layers=2),
    labels=("negative", "positive"),
    max_length=16,
    prune=PruneConfig(manual_thresholds=(0.05, 0.1)),
    exit=ExitConfig(head_size=8, threshold=0.5),
)
INFO = {
    "calibration": {"exit_threshold": 0.5, "prune_scale": 1.0},
    "provenance": {"seed": 7, "data": "toy"},
}
REVIEWS = [
    {"text": "a quiet lovely film", "label": "positive"},
    {"text": "the plot was dull and very long", "label": "negative"},
    {"text": "good", "label": "positive"},
    {"text": "not a loud scene", "label": "negative"},
]


def save_tiny(folder: Path) -> Path:
    model: PyramidModel = tiny.build(CONFIG)
    Classifier(model, TextEncoder(tiny.tokenizer()), info=INFO).save_pretrained(folder, readme="# Tiny\n")
    return folder


def write_rows(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def numbered_rows(path: Path, count: int) -> Path:
    return write_rows(path, [{"id": place, **REVIEWS[place % 4]} for place in range(count)])


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def command_line(capsys):
    """A function that runs a command line here, and gives its exit code, stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run

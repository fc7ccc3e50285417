"""A tiny encoder, two small datasets and a suite over them, for tests of `reproduce`."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

import tiny
from cli_models import read_rows, write_rows
from magic_pyramid.checkpoint import to_huggingface
from magic_pyramid.tokenization import TextEncoder

Run = Callable[..., tuple[int, str, str]]
PRAISE, BLAME, PLAIN = (
    ("good", "lovely", "quiet"),
    ("bad", "dull", "loud"),
    ("film", "plot", "actor", "scene"),
)
EPOCHS = {"finetune": 1, "soft_prune": 1, "hard_prune": 1, "distill_exits": 1}
BACKBONE = tiny.BACKBONE.replace(num_hidden_layers=2)
RNG_SEEDS = {"train": 0, "validation": 1, "test": 2}


def make_encoder(folder: Path, *, num_layers: int = BACKBONE.num_hidden_layers) -> Path:
    config = tiny.PLAIN.replace(backbone=BACKBONE.replace(num_hidden_layers=num_layers))
    to_huggingface(tiny.build(config, spread=0.05), folder, encoder=TextEncoder(tiny.tokenizer()))
    return folder


def _text(generator: random.Random, words: tuple[str, ...], length: int) -> str:
    chosen = [generator.choice(PLAIN) for _ in range(length)]
    chosen[generator.randrange(length)] = generator.choice(words)
    return " ".join(chosen)


def reviews(split: str, count: int) -> list[dict[str, Any]]:
    """Texts whose label is one word of theirs."""
    generator = random.Random(RNG_SEEDS[split])
    return [
        {"text": _text(generator, (BLAME, PRAISE)[row % 2], generator.randint(2, 12)), "label": row % 2}
        for row in range(count)
    ]


def likeness(split: str, count: int) -> list[dict[str, Any]]:
    """Pairs of texts and a number."""
    generator = random.Random(10 + RNG_SEEDS[split])
    rows = []
    for row in range(count):
        first = _text(generator, (BLAME, PRAISE)[row % 2], 4)
        same = generator.random() < 0.5
        second = first if same else _text(generator, BLAME, 4)
        rows.append({"text_a": first, "text_b": second, "score": 4.5 if same else generator.random()})
    return rows


def make_data(folder: Path) -> Path:
    """`reviews` has train and test, `likeness` train and validation."""
    for name in ("reviews", "likeness"):
        (folder / name).mkdir(parents=True)
    write_rows(folder / "reviews" / "train.jsonl", reviews("train", 60))
    write_rows(folder / "reviews" / "test.jsonl", reviews("test", 30))
    write_rows(folder / "likeness" / "train.jsonl", likeness("train", 50))
    write_rows(folder / "likeness" / "validation.jsonl", likeness("validation", 20))
    return folder


def suite(encoder: Path | str, **changes: Any) -> dict[str, Any]:
    """Two datasets, three methods, two seeds; one fine-tuning a dataset and seed."""
    return {
        "name": "tiny suite",
        "backbone": str(encoder),
        "datasets": [
            {"name": "reviews", "data": "reviews", "validation_rows": 12},
            {"name": "likeness", "data": "likeness", "test": "validation", "validation_rows": 10},
        ],
        "methods": ["bert", "ltp", {"name": "both", "preset": "magic_pyramid"}],
        "seeds": [0, 1],
        "defaults": {
            "epochs": EPOCHS,
            "set": {"train.joint_exits": 0, "exit.head": "cls", "prune.final_threshold": 0.1},
        },
        "max_length": 24,
        "thresholds": [0.1, 0.9],
        "timing": {"repeats": 1, "rows": 8, "batch_size": 4},
        **changes,
    }


def write_suite(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def written(place: Path, name: str = "suite", **changes: Any) -> Path:
    return write_suite(place / f"{name}.yaml", suite(place / "encoder", **changes))


def reproduce(run: Run, place: Path, output: Path, *options: str, **changes: Any) -> tuple[int, str, str]:
    file = written(place, output.name, **changes)
    return run("reproduce", file, "--data", place / "data", "--output", output, *options)


def results(output: Path) -> list[dict[str, Any]]:
    return read_rows(output / "results.jsonl")

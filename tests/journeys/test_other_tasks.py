"""Regression and multi-label from files to folders: train, evaluate, predict, calibrate or a refusal."""

import json
import random

import pytest

import tiny
from cli_models import read_rows, write_rows
from magic_pyramid import Classifier
from magic_pyramid.checkpoint import to_huggingface
from magic_pyramid.tokenization import TextEncoder

WORDS = ("film", "plot", "actor", "scene", "the", "was")
SCORES = {"bad": -1.0, "dull": -0.5, "good": 0.5, "lovely": 1.0}
OPTIONS = (
    *("--max-length", "16", "--device", "cpu", "--threads", "1", "--set", "train.learning_rate=3e-3"),
    *("--epochs", "finetune=12,soft_prune=1,hard_prune=1,distill_exits=1", "--set", "train.dropout=0.0"),
    *("--set", "train.max_sequences_per_batch=8"),
)


def scored(count, *, seed):
    """Two texts and a number that words of the second decide; some numbers are negative."""
    generator = random.Random(seed)
    for _ in range(count):
        word = generator.choice(list(SCORES))
        words = [*generator.choices(WORDS, k=generator.randint(1, 5)), word]
        yield {"text_a": "the film", "text_b": " ".join(words), "score": SCORES[word]}


def labelled(count, *, seed):
    """A text has a label for each of its words about something."""
    generator = random.Random(seed)
    for _ in range(count):
        about = [word for word in ("plot", "actor") if generator.random() < 0.5]
        words = [*generator.choices(("film", "the", "was"), k=generator.randint(1, 5)), *about]
        generator.shuffle(words)
        yield {"text": " ".join(words), "labels": about}


TASKS = {"regression": (scored, "Pearson correlation"), "multi_label": (labelled, "exact match")}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    small = tiny.PLAIN.replace(backbone=tiny.BACKBONE.replace(num_hidden_layers=2))
    to_huggingface(tiny.build(small, spread=0.02), folder, encoder=TextEncoder(tiny.tokenizer()))
    return str(folder)


def folder_of(rows, folder):
    for split, count, seed in (("train", 128, 0), ("validation", 40, 1), ("test", 60, 2)):
        write_rows(folder / f"{split}.jsonl", rows(count, seed=seed))
    return folder


@pytest.mark.parametrize("preset", ["bert", "ltp", "magic_pyramid"])
@pytest.mark.parametrize("task", TASKS)
def test_a_task_goes_from_files_to_answers(task, preset, run, encoder, tmp_path):
    rows, metric = TASKS[task]
    data, output = folder_of(rows, tmp_path), str(tmp_path / "model")

    code, out, err = run(
        "train",
        "--model",
        encoder,
        "--data",
        data,
        "--output",
        output,
        "--preset",
        preset,
        *OPTIONS,
        "--json",
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["validation"]["metric"] == metric
    assert bool(report["calibration"]) == (preset != "bert")

    code, out, err = run("evaluate", output, "--data", data, "--repeats", "0", "--json")
    assert code == 0, err
    row = json.loads(out)
    assert row["accuracy"] > 0.7
    assert row[{"regression": "spearman", "multi_label": "micro_f1"}[task]] > 0.8
    assert row["num_examples"] == 60

    answers = tmp_path / "answers.jsonl"
    code, _, err = run("predict", output, "--input", data / "test.jsonl", "--output", answers)
    assert code == 0, err
    labels = [found["label"] for found in read_rows(answers)]
    if task == "regression":
        assert all(isinstance(label, float) for label in labels)
        assert min(labels) < 0 < max(labels)
    else:
        assert {tuple(label) for label in labels} >= {(), ("actor", "plot")}
    exits = Classifier.from_pretrained(output).config.exit
    assert (exits.criterion if exits else None) == {
        ("regression", "magic_pyramid"): "patience",
        ("multi_label", "magic_pyramid"): "entropy",
    }.get((task, preset))


def test_a_regression_cannot_be_certified_and_says_why(run, tmp_path):
    folder = tmp_path / "model"
    Classifier(tiny.build(tiny.REGRESSION), TextEncoder(tiny.tokenizer())).save_pretrained(folder)
    data = folder_of(scored, tmp_path)
    code, _, err = run("calibrate", folder, "--data", data, "--split", "validation")
    assert code == 2
    assert "a regression has no answers that are right or wrong" in err


def test_multi_label_is_certified_by_whole_sets(run, tmp_path):
    folder = tmp_path / "model"
    config = tiny.MULTI_LABEL.replace(labels=("actor", "plot", "scene"))
    Classifier(tiny.build(config), TextEncoder(tiny.tokenizer())).save_pretrained(folder)
    data = folder_of(labelled, tmp_path)
    code, out, err = run(
        *("calibrate", folder, "--data", data, "--split", "train", "--unlabelled", "--max-drop", "20"),
        "--json",
    )
    assert code == 0, err
    assert json.loads(out)

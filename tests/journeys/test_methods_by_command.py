"""Each method of the literature from an encoder to a folder that answers, by the command line."""

import json

import pytest

import tiny
from cli_models import REVIEWS, command_line, write_rows
from magic_pyramid.checkpoint import to_huggingface
from magic_pyramid.tokenization import TextEncoder

EPOCHS = {
    "deebert": {"finetune": 1, "distill_exits": 1},
    "pabee": {"finetune": 1},
    "truncated": {"finetune": 1},
    "distilbert": {"finetune": 1, "distill_student": 1},
}
STUDENTS = {"truncated", "distilbert"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    deep = tiny.PLAIN.replace(backbone=tiny.BACKBONE.replace(num_hidden_layers=4))
    to_huggingface(tiny.build(deep), folder, encoder=TextEncoder(tiny.tokenizer()))
    return str(folder)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reviews")
    write_rows(folder / "train.jsonl", REVIEWS * 6)
    write_rows(folder / "test.jsonl", REVIEWS)
    return str(folder)


@pytest.fixture
def run(capsys):
    command = command_line(capsys)

    def succeed(*arguments):
        code, out, err = command(*arguments)
        assert code == 0, err
        return out

    return succeed


def train(run, encoder, data, output, preset, *more, epochs=None):
    stages = ",".join(f"{name}={count}" for name, count in (epochs or EPOCHS[preset]).items())
    out = run(
        "train", "--model", encoder, "--data", data, "--output", output, "--preset", preset,
        "--epochs", stages, "--device", "cpu", "--json", *more,
    )  # fmt: skip
    return json.loads(out)


def rows_of(out):
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("preset", EPOCHS)
def test_a_method_is_trained_measured_and_exported(run, encoder, reviews, tmp_path, preset):
    report = train(run, encoder, reviews, tmp_path / "model", preset)
    assert [stage["name"] for stage in report["training"]["stages"]] == list(EPOCHS[preset])
    facts = json.loads(run("info", tmp_path / "model", "--json"))
    num_layers = 2 if preset in STUDENTS else 4
    assert facts["config"]["backbone"]["num_hidden_layers"] == num_layers
    assert facts["provenance"].get("base_layers") == (4 if preset in STUDENTS else None)
    texts = [row["text"] for row in REVIEWS]
    answers = rows_of(run("predict", tmp_path / "model", *texts, "--json"))
    for target in ("native", "onnx-single"):
        run("export", tmp_path / "model", "--to", target, "--output", tmp_path / target)
        exported = rows_of(run("predict", tmp_path / target, *texts, "--json"))
        assert [row["label"] for row in exported] == [row["label"] for row in answers]
        assert [row["exit_layer"] for row in exported] == [row["exit_layer"] for row in answers]


@pytest.mark.parametrize("preset", sorted(STUDENTS))
def test_a_student_is_measured_against_the_whole_encoder(run, encoder, reviews, tmp_path, preset):
    train(run, encoder, reviews, tmp_path / "model", preset, "--set", "train.student_layers=1")
    row = json.loads(run("evaluate", tmp_path / "model", "--data", reviews, "--repeats", 0, "--json"))
    assert (row["base_layers"], row["flops_speedup"]) == (4, 1.0)
    assert 3.5 < row["flops_speedup_base"] < 4.0
    assert "the student was cut from" in run(
        "evaluate", tmp_path / "model", "--data", reviews, "--repeats", 0
    )


def test_a_students_depth_follows_from_a_speedup(run, encoder, reviews, tmp_path):
    train(run, encoder, reviews, tmp_path / "model", "truncated", "--target-speedup", 1.2)
    facts = json.loads(run("info", tmp_path / "model", "--json"))
    assert facts["config"]["backbone"]["num_hidden_layers"] == 3
    assert facts["provenance"]["train_config"]["student_layers"] == 3


def test_students_of_several_depths_share_a_teacher_and_can_leave_early(run, encoder, reviews, tmp_path):
    train(run, encoder, reviews, tmp_path / "teacher", "bert", epochs={"finetune": 1})
    taught = {"epochs": {"finetune": 0, "distill_student": 1}}
    train(run, tmp_path / "teacher", reviews, tmp_path / "student", "distilbert", **taught)
    train(run, tmp_path / "student", reviews, tmp_path / "both", "deebert")
    facts = json.loads(run("info", tmp_path / "both", "--json"))
    assert facts["config"]["backbone"]["num_hidden_layers"] == 2
    assert facts["provenance"]["base_layers"] == 4
    assert facts["config"]["exit"]["head"] == "cls"


@pytest.mark.parametrize(
    ("count", "criterion"),
    [(77, "margin"), (151, "margin"), (151, "entropy"), (77, "max_prob"), (77, "patience")],
)
def test_criteria_can_be_compared_with_many_labels(run, encoder, tmp_path, count, criterion):
    words = tiny.WORDS[4:]
    rows = [
        {"text": f"{words[label % 20]} {words[label // 20]}", "label": f"intent {label:03}"}
        for label in range(count)
    ]
    (tmp_path / "data").mkdir()
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / "data" / f"{split}.jsonl", rows)
    train(
        run, encoder, tmp_path / "data", tmp_path / "model", "fastbert",
        "--set", f"exit.criterion={criterion}", "--set", "exit.head_size=8",
        epochs={"finetune": 1, "distill_exits": 1},
    )  # fmt: skip
    picture = tmp_path / "curve.svg"
    out = run(
        "evaluate", tmp_path / "model", "--data", tmp_path / "data", "--repeats", 0, "--sweep", picture,
        "--json",
    )  # fmt: skip
    row = json.loads(out)
    points = row["sweep"]["points"]
    assert picture.stat().st_size > 0
    assert points[0]["exit_threshold"] is None
    speedups = [point["flops_speedup"] for point in points]
    assert speedups[1:] == sorted(speedups[1:])
    if criterion == "patience":
        assert [point["exit_threshold"] for point in points[1:]] == [1 / 3, 1 / 2, 1.0]
        assert speedups[-1] > 3.0

"""The command line from end to end, on a model small enough to build in memory."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli_models import CONFIG, REVIEWS, numbered_rows, save_tiny, write_rows
from magic_pyramid.cli.shell import CLOSED_PIPE, INTERRUPTED

SOURCE = Path(__file__).parents[2] / "src"
EVALUATION_KEYS = {
    "model", "data", "split", "num_examples", "accuracy", "dense_accuracy", "gflops", "dense_gflops",
    "flops_speedup", "flops_speedup_padded", "wall_clock_speedup", "mean_layers", "mean_kept_tokens",
    "by_length", "exit_threshold", "prune_scale",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reviews")
    write_rows(folder / "train.jsonl", REVIEWS * 6)
    write_rows(folder / "test.jsonl", REVIEWS)
    return str(folder)


def process(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "magic_pyramid", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        **options,
    )


# Predict


def test_texts_are_answered_as_a_table(run, model):
    code, out, _ = run("predict", model, "a quiet lovely film", "bad")
    assert code == 0
    assert "a quiet lovely film" in out
    assert "of 2" in out


def test_texts_are_answered_as_json_lines(run, model):
    code, out, _ = run("predict", model, "a quiet lovely film", "bad", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["text"] for row in rows] == ["a quiet lovely film", "bad"]
    assert rows[0]["label"] in CONFIG.labels
    assert rows[0]["tokens"] == 6
    assert len(rows[0]["num_tokens"]) == 3


def test_a_pair_is_two_texts(run, model):
    _, out, _ = run("predict", model, "a film", "--text-pair", "the story", "--json")
    assert json.loads(out)["tokens"] == 7


def test_an_empty_text_is_a_bad_row(run, model):
    code, out, err = run("predict", model, " ", "good")
    assert code == 1
    assert "text 1: the text is empty" in err
    assert "good" in out


def test_the_knobs_reach_the_model(run, model):
    _, out, _ = run("predict", model, "good", "--json", "--exit-threshold", "1", "--prune-scale", "0")
    assert json.loads(out)["num_layers_run"] == 1
    _, out, _ = run("predict", model, "good", "--json", "--exit-threshold", "none", "--prune-scale", "0")
    row = json.loads(out)
    assert (row["num_layers_run"], row["num_tokens"]) == (2, [3, 3, 3])


def test_a_csv_keeps_its_columns(run, model, tmp_path):
    path = tmp_path / "in.csv"
    path.write_text('id,text,label\n1,"a lovely, film",positive\n2,dull,negative\n', encoding="utf-8")
    code, out, err = run("predict", model, "--input", path)
    rows = list(csv.DictReader(out.splitlines()))
    assert code == 0
    assert [(row["id"], row["text"], row["input_label"]) for row in rows] == [
        ("1", "a lovely, film", "positive"),
        ("2", "dull", "negative"),
    ]
    assert all(row["label"] in CONFIG.labels for row in rows)
    assert "2 rows in" in err


def test_the_output_name_decides_its_format(run, model, tmp_path):
    source, output = numbered_rows(tmp_path / "in.jsonl", 3), tmp_path / "out.csv"
    code, out, _ = run("predict", model, "--input", source, "--output", output)
    assert (code, out) == (0, "")
    assert len(list(csv.DictReader(output.read_text(encoding="utf-8").splitlines()))) == 3


def test_bad_rows_are_reported_counted_and_passed_over(run, model, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"text": "good"}\n{"text": \n{"text": ""}\n{"id": 4}\n{"text": "bad"}\n', encoding="utf-8"
    )
    code, out, err = run("predict", model, "--input", path)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert ["error" in row for row in rows] == [False, True, True, True, False]
    assert rows[3]["id"] == 4
    assert f"{path}, line 2: malformed JSON" in err
    assert "5 rows in" in err
    assert "3 bad" in err


def assert_alike(one, other):
    """The same text but for the last digits of fractions, which may follow the size of a batch."""
    fraction = re.compile(r"\d+\.\d+(?:e-?\d+)?")
    assert fraction.sub("#", one) == fraction.sub("#", other)
    assert [float(number) for number in fraction.findall(one)] == pytest.approx(
        [float(number) for number in fraction.findall(other)], rel=1e-4
    )


def test_an_answer_does_not_depend_on_the_chunks(run, model, tmp_path):
    path = numbered_rows(tmp_path / "in.jsonl", 9)
    whole = run("predict", model, "--input", path)[1]
    assert_alike(run("predict", model, "--input", path, "--chunk-rows", 2)[1], whole)


@pytest.mark.parametrize("format", ["jsonl", "csv", "tsv"])
def test_an_interrupted_output_goes_on_to_the_same_file(run, model, tmp_path, format):
    source, output = numbered_rows(tmp_path / "in.jsonl", 9), tmp_path / f"out.{format}"
    assert run("predict", model, "--input", source, "--output", output)[0] == 0
    whole = output.read_bytes()
    for cut in (3, len(whole) // 2, len(whole) - 1):
        output.write_bytes(whole[:cut])
        code, _, err = run("predict", model, "--input", source, "--output", output, "--resume")
        assert code == 0
        assert "rows are finished; going on" in err
        assert_alike(output.read_text(encoding="utf-8"), whole.decode())


def test_resuming_another_file_is_refused_and_leaves_it_alone(run, model, tmp_path):
    source, output = numbered_rows(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    write_rows(output, [{"text": "something else", "label": "x"}])
    before = output.read_bytes()
    code, _, err = run("predict", model, "--input", source, "--output", output, "--resume")
    assert code == 2
    assert "is not the answer to its row of this input" in err
    assert output.read_bytes() == before


# Evaluate, explain, info, train


def test_evaluation_as_json_has_stable_keys(run, model, reviews):
    code, out, err = run("evaluate", model, "--data", reviews, "--split", "test", "--repeats", 1, "--json")
    row = json.loads(out)
    assert code == 0
    assert set(row) >= EVALUATION_KEYS
    assert (row["split"], row["num_examples"]) == ("test", 4)
    assert set(row["by_length"]) == {"1-35", "36-70", ">70"}
    assert "4 texts" in err


def test_evaluation_for_people_is_a_table(run, model, reviews):
    code, out, _ = run("evaluate", model, "--data", reviews, "--repeats", 0, "--max-rows", 2)
    assert code == 0
    assert "GFLOPs" in out
    assert "Dense: the same weights" in out


def test_a_split_that_is_not_there_is_named_with_those_that_are(run, model, tmp_path):
    write_rows(tmp_path / "train.jsonl", REVIEWS)
    code, _, err = run("evaluate", model, "--data", tmp_path, "--split", "test")
    assert code == 2
    assert "has no test split; it has train" in err


def test_labels_that_the_model_does_not_know_are_named(run, model, tmp_path):
    rows = [{"text": "a film", "label": name} for name in ("joy", "anger")]
    code, _, err = run("evaluate", model, "--data", write_rows(tmp_path / "other.jsonl", rows))
    assert code == 2
    assert "the data has 'anger', 'joy'" in err
    assert "the model knows 'negative', 'positive'" in err


def test_label_names_decide_and_not_their_order(run, model, reviews, tmp_path):
    (tmp_path / "labels.json").write_text('["positive", "negative"]', encoding="utf-8")
    rows = [{**row, "label": int(row["label"] == "negative")} for row in REVIEWS]
    write_rows(tmp_path / "test.jsonl", rows)
    swapped = json.loads(run("evaluate", model, "--data", tmp_path, "--repeats", 0, "--json")[1])
    named = json.loads(run("evaluate", model, "--data", reviews, "--repeats", 0, "--json")[1])
    assert swapped["accuracy"] == named["accuracy"]


def test_a_text_is_explained_in_every_form(run, model, tmp_path):
    png, html, attention = tmp_path / "p.png", tmp_path / "p.html", tmp_path / "a.png"
    pictures = ["--png", png, "--html", html, "--attention", attention]
    code, out, err = run("explain", model, "a quiet lovely film", *pictures, "--json")
    assert code == 0
    assert json.loads(out)["tokens"][1] == "a"
    assert png.read_bytes()[:4] == attention.read_bytes()[:4] == b"\x89PNG"
    assert "lovely" in html.read_text(encoding="utf-8")
    assert str(png) in err


def test_the_pyramid_stands_in_the_terminal(run, model):
    code, out, _ = run("explain", model, "a quiet lovely film")
    assert code == 0
    assert "lovely" in out


def test_an_empty_text_is_not_explained(run, model):
    code, _, err = run("explain", model, "  ")
    assert code == 2
    assert "the text is empty" in err


def test_a_model_tells_about_itself(run, model):
    code, out, _ = run("info", model, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["config"]["labels"] == ["negative", "positive"]
    assert found["pruner"]["token_thresholds"] == pytest.approx([0.05, 0.1])
    assert (found["exit_threshold"], found["exit_layers"]) == (0.5, [0])
    assert found["calibration"]["exit_threshold"] == 0.5
    assert found["provenance"]["seed"] == 7
    assert found["bytes"] > 0
    _, out, _ = run("info", model)
    assert "bert, 2 layers of width 16" in out


def test_without_a_model_info_lists_what_can_be_chosen(run):
    code, out, _ = run("info", "--json")
    known = json.loads(out)
    assert code == 0
    assert set(known) == {"presets", "recipes", "stages", "settings"}
    assert "magic_pyramid" in known["presets"]
    assert "prune.temperature" in run("info")[1]


def test_training_ends_with_a_model_that_predicts(run, model, reviews, tmp_path):
    output = tmp_path / "trained"
    code, out, err = run(
        "train", "--model", model, "--data", reviews, "--output", output, "--max-length", 12,
        "--device", "cpu", "--epochs", "finetune=1,soft_prune=1,hard_prune=1,distill_exits=1",
        "--set", "exit.head_size=8",
        "--train-rows", 20, "--seed", 1, "--json",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads(out)
    stages = [stage["name"] for stage in report["training"]["stages"]]
    assert stages == ["finetune", "soft_prune", "hard_prune", "distill_exits"]
    assert "finetune" in err
    facts = json.loads(run("info", output, "--json")[1])
    assert facts["config"]["max_length"] == 12
    assert facts["provenance"]["command"].startswith("magic-pyramid train --model")
    assert run("predict", output, "a lovely film")[0] == 0


def test_training_towards_a_speedup(run, model, reviews, tmp_path):
    output = tmp_path / "joint"
    command = (
        "train", "--model", model, "--data", reviews, "--output", output, "--device", "cpu",
        "--preset", "pyramid", "--epochs", "finetune=1,soft_prune=1,hard_prune=1,distill_exits=1",
        "--set", "exit.head_size=8",
    )  # fmt: skip
    code, _, err = run(*command, "--target-speedup", 1.5, "--json")
    assert code == 0, err
    info = json.loads(run("info", output, "--json")[1])
    assert info["provenance"]["preset"] == "pyramid"
    assert info["provenance"]["train_config"]["target_speedup"] == 1.5
    found = info["calibration"]["at_target"]
    assert found["target_speedup"] == 1.5
    assert found["flops_speedup"] >= 1.5
    assert "There the 1.5x asked for changed quality by" in (output / "README.md").read_text(encoding="utf-8")
    code, out, _ = run(*command, "--resume", "--target-speedup", 1.5)
    assert code == 0
    assert "on validation the 1.5x asked for changed quality by" in out
    code, _, err = run(*command, "--resume", "--target-speedup", 500)
    assert code == 2
    assert "train.target_speedup is 500" in err
    code, _, err = run(*command, "--target-speedup", 0.5)
    assert code == 2
    assert "it must lie in [1.0" in err


def test_training_ends_with_a_table_for_people(run, model, reviews, tmp_path):
    code, out, err = run(
        "train", "--model", model, "--data", reviews, "--output", tmp_path / "t", "--device", "cpu",
        "--preset", "bert", "--epochs", "finetune=1",
    )  # fmt: skip
    assert code == 0, err
    assert "finetune" in out
    assert "saved: " in out


# In a process of its own


def test_rows_flow_from_standard_input_to_standard_output(model):
    with process("predict", model, "--input", "-", stdin=subprocess.PIPE) as child:
        out, err = child.communicate(b'{"text": "a lovely film"}\n{"text": ""}\n', timeout=120)
    first, second = map(json.loads, out.splitlines())
    assert child.returncode == 1
    assert first["label"] in CONFIG.labels
    assert second["error"].startswith("line 2: ")
    assert err.decode().splitlines()[0].startswith("standard input, line 2: ")
    assert len(err.decode().splitlines()) == 2


def test_a_row_is_answered_at_once_and_ctrl_c_ends_the_wait_for_the_next(model):
    def heed_ctrl_c():
        # A shell starts what runs in the background with Ctrl-C ignored, and children inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    options = {"stdin": subprocess.PIPE, "preexec_fn": heed_ctrl_c}
    with process("predict", model, "--chunk-rows", "1", **options) as child:
        child.stdin.write(b'{"text": "a lovely film"}\n')
        child.stdin.flush()
        assert json.loads(child.stdout.readline())["label"] in CONFIG.labels
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=120) == INTERRUPTED
        err = child.stderr.read().decode()
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert "Fatal" not in err


def test_a_reader_that_leaves_causes_no_traceback(model, tmp_path):
    with process("predict", model, "--input", numbered_rows(tmp_path / "in.jsonl", 4000)) as child:
        child.stdout.readline()
        child.stdout.close()
        err = child.stderr.read()
        assert child.wait(timeout=120) == CLOSED_PIPE
    assert b"Traceback" not in err
    assert b"Exception ignored" not in err

"""From a model folder to an exported one that answers the same, by the command line."""

import json

import pytest

from cli_models import REVIEWS, save_tiny, write_rows
from magic_pyramid.native.library import is_built


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("model") / "tiny"))


def test_a_model_is_exported_and_answers_the_same(run, model, tmp_path):
    out = tmp_path / "onnx"
    code, text, err = run("export", model, "--to", "onnx", "--output", out, "--threads", "1")
    assert (code, text) == (0, "")
    assert ": for onnx, " in err
    assert "16 random inputs: logits differ by at most" in err
    answers = [
        [
            json.loads(line)
            for line in run("predict", folder, "a quiet lovely film", "bad", "--json")[1].splitlines()
        ]
        for folder in (model, out)
    ]
    assert [row["label"] for row in answers[0]] == [row["label"] for row in answers[1]]
    assert [row["num_tokens"] for row in answers[0]] == [row["num_tokens"] for row in answers[1]]


def test_the_accuracy_before_and_after_is_reported(run, model, tmp_path):
    data = write_rows(tmp_path / "texts.jsonl", REVIEWS * 3)
    out = tmp_path / "int8"
    arguments = ("export", model, "--precision", "int8", "--output", out, "--data", data, "--threads", "1")
    code, text, err = run(*arguments, "--split", "train", "--max-drop", "100", "--json")
    found = json.loads(text)
    assert (code, err) == (0, "")
    assert {"model", "output", "format", "precision", "opset", "segments", "bytes", "random", "texts"} == set(
        found
    )
    assert found["precision"] == "int8"
    assert found["texts"]["num_examples"] == 12
    assert 0 <= found["texts"]["exported_accuracy"] <= 1
    code, _, err = run(*arguments, "--split", "train", "--force")
    assert code == 0
    assert "12 texts: quality" in err


def test_an_exported_folder_is_evaluated(run, model, tmp_path):
    out = tmp_path / "onnx"
    data = write_rows(tmp_path / "texts.jsonl", REVIEWS)
    run("export", model, "--output", out, "--threads", "1")
    code, text, _ = run("evaluate", out, "--data", data, "--split", "train", "--repeats", "0", "--json")
    assert code == 0
    assert json.loads(text)["num_examples"] == 4


def test_an_unknown_format_is_refused(run, model, tmp_path):
    code, _, err = run("export", model, "--to", "onxx", "--output", tmp_path / "new")
    assert code == 2
    assert "--to is 'onxx'; did you mean 'onnx'?" in err


def test_one_graph_is_exported_and_answers_the_same(run, model, tmp_path):
    out = tmp_path / "single"
    arguments = ("export", model, "--to", "onnx-single", "--output", out, "--threads", "1")
    code, text, err = run(*arguments)
    assert (code, text) == (0, "")
    assert ": for onnx-single, " in err
    assert "16 random inputs: logits differ by at most" in err
    answers = [
        json.loads(run("predict", folder, "a quiet lovely film", "--json")[1]) for folder in (model, out)
    ]
    assert answers[0]["label"] == answers[1]["label"]
    assert answers[0]["num_tokens"] == answers[1]["num_tokens"]
    found = json.loads(run(*arguments, "--json")[1])
    assert found["format"] == "onnx-single"
    assert "segments" not in found


@pytest.mark.skipif(not is_built(), reason="the native engine is not built")
def test_a_model_is_exported_for_the_native_engine(run, model, tmp_path):
    out = tmp_path / "native"
    arguments = ("export", model, "--to", "native", "--output", out, "--threads", "1")
    assert run(*arguments)[0] == 0
    answers = [
        json.loads(run("predict", folder, "a quiet lovely film", "--json")[1]) for folder in (model, out)
    ]
    assert answers[0]["label"] == answers[1]["label"]
    assert answers[0]["num_tokens"] == answers[1]["num_tokens"]
    found = json.loads(run(*arguments, "--precision", "int8", "--force", "--json")[1])
    assert (found["format"], found["precision"]) == ("native", "int8")
    assert found["random"]["logit_difference"] > 0
    assert "opset" not in found

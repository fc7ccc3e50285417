"""From a calibrated folder to one that asks only the heads that pay, by the command line."""

import json

import pytest

from cli_models import REVIEWS, save_tiny, write_rows


@pytest.fixture
def model(tmp_path):
    return save_tiny(tmp_path / "tiny")


def test_a_folder_is_tuned_shown_and_undone(run, model, tmp_path):
    data = write_rows(tmp_path / "texts.jsonl", REVIEWS * 3)
    arguments = (
        "tune-engine",
        model,
        "--seconds",
        "0",
        "--data",
        data,
        "--split",
        "train",
        "--batch-size",
        "2",
    )
    code, text, err = run(*arguments, "--json")
    found = json.loads(text)
    assert (code, err) == (0, "")
    assert {"model", "tested_layers", "heads", "costs", "compared", "machine", "threads"} < set(found)
    assert found["num_texts"] == 12
    assert found["command"].startswith("magic-pyramid tune-engine tiny --seconds 0 --data texts.jsonl")
    assert set(found["compared"]) == {"every head", "as tuned", "exits off"}
    assert found["compared"]["as tuned"]["tested_layers"] == found["tested_layers"]
    assert found["compared"]["every head"]["tested_layers"] == [0]

    code, text, _ = run("info", model, "--json")
    shown = json.loads(text)
    assert shown["tested_layers"] == found["tested_layers"]
    assert shown["tuning"]["costs"] == found["costs"]
    code, text, _ = run("info", model)
    assert "; asked: " in text
    assert "tuning" in text

    code, text, _ = run(*arguments)
    assert code == 0
    assert "stored costs" in text
    assert "every head" in text
    assert "layer" in text

    code, text, err = run("tune-engine", model, "--undo")
    assert (code, text) == (0, "")
    assert "the exit heads are asked as calibrated" in err
    code, text, err = run("tune-engine", model, "--undo", "--json")
    assert json.loads(text) == {"model": str(model), "undone": False}
    assert "tune-engine has changed nothing here" in err
    assert json.loads(run("info", model, "--json")[1])["tuning"] == {}


def test_an_exported_folder_is_shown_with_its_plan(run, model, tmp_path):
    data = write_rows(tmp_path / "texts.jsonl", REVIEWS * 3)
    run("tune-engine", model, "--seconds", "0", "--data", data, "--split", "train")
    assert run("export", model, "--output", tmp_path / "onnx", "--threads", "1")[0] == 0
    code, text, err = run("tune-engine", tmp_path / "onnx", "--seconds", "0", "--json")
    assert (code, err) == (0, "")
    found = json.loads(text)
    assert (found["engine"], found["costs_were_stored"]) == ("onnx", False)
    shown = json.loads(run("info", tmp_path / "onnx", "--json")[1])
    assert shown["tested_layers"] == found["tested_layers"]
    assert run("info", tmp_path / "onnx")[0] == 0


@pytest.mark.parametrize("more", [["--again"], ["--data", "d"]], ids=lambda more: more[0])
def test_undo_goes_alone(run, model, more):
    code, out, err = run("tune-engine", model, "--undo", *more)
    assert (code, out) == (2, "")
    assert "--undo goes alone" in err

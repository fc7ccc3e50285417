"""From held-out rows to a certified folder and its named speeds, by the command line."""

import json
import random
import shutil

import pytest

import tiny
from cli_models import CONFIG, read_rows, save_tiny, write_rows
from magic_pyramid.certify import Certificate
from magic_pyramid.checkpoint import write_seen_rows
from magic_pyramid.classifier import Classifier
from magic_pyramid.config import CascadeConfig
from magic_pyramid.data import Example, row_fingerprints
from magic_pyramid.native.library import is_built

ROWS = 240


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("calibrated") / "tiny")


@pytest.fixture(scope="module")
def data(model, tmp_path_factory):
    """Sentences labelled by the dense model."""
    generator = random.Random(0)
    words = tiny.WORDS[len(tiny.SPECIAL) :]
    texts = [" ".join(generator.choices(words, k=generator.randint(2, 12))) for _ in range(ROWS)]
    answers = Classifier.from_pretrained(model).predict(texts, exit_threshold=None, prune_scale=0.0)
    rows = [{"text": text, "label": label} for text, label in zip(texts, answers.labels, strict=True)]
    return write_rows(tmp_path_factory.mktemp("data") / "held_out.jsonl", rows)


def test_a_folder_is_calibrated_shown_and_used(run, model, data, tmp_path):
    code, _, err = run("predict", model, "film", "--speed", "fastest")
    assert code == 2
    assert "magic-pyramid calibrate DIR --data HELD_OUT_ROWS" in err

    code, text, err = run("calibrate", model, "--data", data, "--max-drop", "30")
    assert code == 0, err
    assert "With 95 % confidence the certified setting loses at most 30 points" in " ".join(text.split())
    assert "◀ certified" in text
    assert "all heads answer 240 texts at prune scale 0" in err
    assert "make sure that it saw none of these" in text

    code, text, _ = run("info", model, "--json")
    found = Certificate.from_dict(json.loads(text)["calibration"]["certificate"])
    assert found.provenance["command"].startswith("magic-pyramid calibrate tiny --data held_out.jsonl")
    assert found.provenance["data"] == "held_out.jsonl"

    picture = tmp_path / "curve.png"
    code, text, err = run(
        "evaluate", model, "--data", data, "--split", "train", "--repeats", "0", "--speed", "fastest",
        "--sweep", picture, "--json",
    )  # fmt: skip
    row = json.loads(text)
    assert code == 0, err
    assert picture.stat().st_size > 10_000
    assert set(row["sweep"]["named"]) == {"dense", "certified", "balanced", "fastest"}
    fastest = found.speed("fastest")
    assert row["flops_speedup"] == pytest.approx(fastest.flops_speedup, rel=1e-3)
    assert row["sweep"]["named"]["fastest"]["flops_speedup"] == pytest.approx(row["flops_speedup"])

    rows = [{"text": "a lovely film", "pace": pace} for pace in ("certified", "fastest", "", "fats")]
    rows.append({"text": "a lovely film", "paces": "fastest"})
    source, target = write_rows(tmp_path / "new.jsonl", rows), tmp_path / "answers.jsonl"
    code, _, err = run("predict", model, "--input", source, "--output", target, "--speed-column", "pace")
    answers = read_rows(target)
    assert code == 1
    assert answers[0]["exit_layer"] == answers[2]["exit_layer"]
    assert answers[1]["gflops"] <= answers[0]["gflops"]
    assert answers[3]["error"].startswith("line 4: pace is 'fats'; did you mean 'fastest'?")
    assert answers[4]["error"].startswith("line 5: there is no 'pace'; did you mean 'paces'?")


def test_texts_without_labels_certify_an_agreement(run, model, data, tmp_path):
    texts = write_rows(tmp_path / "logs.jsonl", [{"text": row["text"]} for row in read_rows(data)])
    code, text, err = run("calibrate", model, "--data", texts, "--unlabelled", "--max-drop", "40", "--json")
    assert code == 0, err
    found = json.loads(text)
    assert found["is_labelled"] is False
    assert found["num_rows"] == ROWS
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a film"}\n{"text": ""}\n', encoding="utf-8")
    code, _, err = run("calibrate", model, "--data", broken, "--unlabelled")
    assert code == 2
    assert "broken.jsonl, line 2: " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-drop", "1", "--target-speedup", "2"), "--max-drop, --target-speedup were given; give one"),
        (("--confidence", "1.5"), "confidence is 1.5; it must lie in [0.5, 0.999]"),
        ((), "240 rows cannot certify a drop of at most 0.5 points with 95 % confidence"),
        (("--target-speedup", "500"), "no setting saves 500x the FLOPs; the fastest saves"),
    ],
)
def test_what_cannot_be_promised_is_one_clear_error(run, model, data, arguments, message):
    code, text, err = run("calibrate", model, "--data", data, *arguments)
    assert (code, text) == (2, "")
    assert message in err


def test_only_the_rows_that_are_asked_for_are_agreed_on(run, model, data, tmp_path):
    rows = [
        {"text": row["text"], "lang": "fr" if place < 40 else "en"}
        for place, row in enumerate(read_rows(data))
    ]
    texts = write_rows(tmp_path / "logs.jsonl", rows)
    asked = ("--data", texts, "--unlabelled", "--max-drop", "40", "--json", "--where")
    code, text, err = run("calibrate", model, *asked, "lang=en")
    assert code == 0, err
    assert json.loads(text)["num_rows"] == ROWS - 40
    code, _, err = run("calibrate", model, *asked, "lang=de")
    assert code == 2
    assert "logs.jsonl: no row has lang=de" in err


@pytest.mark.skipif(not is_built(), reason="the native engine is not built")
def test_an_export_still_knows_the_rows_of_its_training(run, model, data, tmp_path):
    trained, folder = shutil.copytree(model, tmp_path / "tiny"), tmp_path / "native"
    texts = [Example(text=row["text"]) for row in read_rows(data)[:3]]
    write_seen_rows(trained, {"train": row_fingerprints(texts)}, earlier=None)
    code, _, err = run("export", trained, "--to", "native", "--precision", "int8", "--output", folder)
    assert code == 0, err
    code, _, err = run("calibrate", folder, "--data", data, "--max-drop", "30")
    assert code == 2
    assert "3 of 240 calibration rows were seen in training" in err


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("none/curve.png", "lies in a folder that does not exist"),
        ("curve.gif", "name a file that ends in .png or .svg"),
    ],
)
def test_a_curve_that_cannot_be_drawn_is_refused_before_anything_is_measured(
    picture, message, run, model, data
):
    code, text, err = run("evaluate", model, "--data", data, "--sweep", picture)
    assert (code, text) == (2, "")
    assert message in err
    assert "texts" not in err


def test_knobs_and_speeds_do_not_go_together(run, model):
    code, _, err = run("predict", model, "film", "--speed", "fastest", "--prune-scale", "1")
    assert code == 2
    assert "--speed sets exit threshold and prune scale; give it, or" in err
    code, _, err = run("predict", model, "--input", "x.csv", "--speed", "fastest", "--speed-column", "pace")
    assert code == 2
    assert "--speed-column names the speed of each row" in err
    code, _, err = run("predict", model, "film", "--speed-column", "pace")
    assert code == 2
    assert "texts have none: give --input, or --speed" in err


def test_labels_that_the_model_does_not_know_are_named(run, model, tmp_path):
    rows = [{"text": "a film", "label": label} for label in ("good", "bad")]
    code, _, err = run("calibrate", model, "--data", write_rows(tmp_path / "rows.jsonl", rows))
    assert code == 2
    assert "the labels of" in err
    assert "are not those of the model" in err


@pytest.mark.skipif(not is_built(), reason="the native engine is not built")
def test_an_export_in_another_precision_leaves_the_certificate_out(run, model, data, tmp_path):
    certified = tmp_path / "tiny"
    shutil.copytree(model, certified)
    assert run("calibrate", certified, "--data", data, "--max-drop", "30")[0] == 0
    for precision, has_it in (("fp32", True), ("int8", False)):
        folder = tmp_path / precision
        code, _, err = run(
            "export", certified, "--to", "native", "--precision", precision, "--output", folder
        )
        assert code == 0, err
        assert ("the certificate is of fp32 and was left out" in err) is not has_it
        code, _, err = run("predict", folder, "film", "--speed", "fastest")
        assert code == (0 if has_it else 2), err


def test_tuning_says_that_the_default_is_no_longer_the_certified_setting(run, model, data, tmp_path):
    certified = tmp_path / "tiny"
    shutil.copytree(model, certified)
    assert run("calibrate", certified, "--data", data, "--target-speedup", "1.2")[0] == 0
    before = Classifier.from_pretrained(certified).setting(speed="certified")
    code, _, err = run("tune-engine", certified, "--seconds", "0", "--data", data, "--split", "train")
    if before.exit_threshold is not None:
        assert code == 0, err
        assert "speed=certified has not changed" in err
    assert Classifier.from_pretrained(certified).setting(speed="certified") == before


def test_what_only_pytorch_prunes_is_certified_too(run, data, tmp_path):
    prune = CascadeConfig(whole_layers=0, final_head_ratio=0.5, whole_head_layers=1)
    folder = tmp_path / "scheduled"
    tiny.classifier(CONFIG.replace(prune=prune, exit=None)).save_pretrained(folder)
    code, _, err = run("calibrate", folder, "--data", data, "--max-drop", "30", "--unlabelled")
    assert code == 0, err
    info = json.loads(run("info", folder, "--json")[1])
    found = Certificate.from_dict(info["calibration"]["certificate"]).speed("certified")
    assert found.flops_speedup > 1.2
    code, text, err = run(
        "evaluate",
        folder,
        "--data",
        data,
        "--split",
        "train",
        "--repeats",
        "0",
        "--speed",
        "certified",
        "--json",
    )
    assert code == 0, err
    assert json.loads(text)["flops_speedup"] == pytest.approx(found.flops_speedup, rel=1e-3)

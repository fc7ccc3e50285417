"""Suites by command: every kind of method, task and split has its numbers; mistakes are told before."""

import json

import pytest

import qa
from suites import reproduce, results, suite


def test_methods_of_every_kind_are_compared_with_the_whole_teacher(place, run, tmp_path):
    methods = [
        "truncated",
        {"name": "distilbert", "epochs": {"distill_student": 1}},
        {"name": "pabee", "set": {"train.joint_exits": 1}},
        {"name": "spatten", "set": {"prune.final_keep_ratio": 0.4, "prune.whole_layers": 0}},
    ]
    defaults = {"epochs": {"finetune": 1, "hard_prune": 1}, "set": {"train.joint_exits": 0}}
    code, _, err = reproduce(
        run, place, tmp_path / "kinds", datasets=suite("")["datasets"][:1], methods=methods, seeds=[0],
        defaults=defaults,
    )  # fmt: skip
    assert code == 0, err
    assert err.count("finetune: finished earlier, not repeated") == 2
    rows = {(row["method"], row["setting"]): row for row in results(tmp_path / "kinds")}
    assert {method for method, _ in rows} == {"truncated", "distilbert", "pabee", "spatten"}
    for student in ("truncated", "distilbert"):
        assert 1.8 < rows[student, "dense"]["flops_speedup"] < 2.2
        assert len(rows[student, "dense"]["tokens_alive"]) == 2
    assert rows["pabee", "as trained"]["exit_threshold"] == pytest.approx(1 / 3)
    assert rows["spatten", "as trained"]["flops_speedup"] > 1.0
    assert "bert, dense, in the engine torch" in json.dumps(rows["spatten", "dense"]["provenance"])


def test_questions_are_scored_by_their_answers(run, place, tmp_path):
    qa.squad(tmp_path / "asked.json", articles=4, seed=0)
    asked = {"name": "asked", "data": str(tmp_path / "asked.json"), "test_share": 0.25, "validation_rows": 8}
    code, _, err = reproduce(
        run, place, tmp_path / "qa", datasets=[asked], methods=["bert", "ltp"], seeds=[0]
    )
    assert code == 0, err
    rows = results(tmp_path / "qa")
    assert {row["method"] for row in rows} == {"bert", "ltp"}
    for row in rows:
        assert list(row["scores"]) == ["F1", "exact match"]
        assert row["num_examples"] == 8
        assert row["provenance"]["tested"] == "held out of train"
    assert rows[-1]["provenance"]["commonest_label"] is None


def test_training_on_short_texts_tests_by_quarters_of_length(run, place, tmp_path):
    dataset = {"name": "reviews", "data": "reviews", "train_max_tokens": "median", "validation_rows": 12}
    code, _, err = reproduce(
        run, place, tmp_path / "short", datasets=[dataset], methods=["bert"], seeds=[0], timing={"repeats": 0}
    )
    assert code == 0, err
    row = results(tmp_path / "short")[0]
    first, second, third = row["by_length"]
    assert first.startswith("1-")
    assert third.startswith(">")
    assert second.startswith(f"{int(first[2:]) + 1}-")
    assert row["num_examples"] == 30
    assert row["provenance"]["train_rows"] < 40
    assert "wall_clock_speedup" not in row


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"methods": ["ltpp"]}, (), "unknown preset 'ltpp'; did you mean 'ltp'?"),
        ({}, ("--only", "method=bth"), "the suite has no method 'bth'; did you mean 'both'?"),
        ({}, ("--only", "dataset=review"), "no dataset 'review'; did you mean 'reviews'?"),
        ({}, ("--only", "seed=7"), "the suite has no seed 7; known: 0, 1"),
        ({}, ("--only", "seed=x"), "--only names the seed x; give a whole number"),
        ({}, ("--only", "data=reviews"), "--only names the kind 'data'; did you mean 'dataset'?"),
        ({}, ("--only", "both"), "--only is 'both'; write it as KEY=VALUE"),
        ({}, ("--backbone", "no/such/encoder"), "no/such/encoder is not a folder"),
        (
            {"methods": [{"name": "fast", "preset": "ltp", "target_speedup": 900}]}, (),
            "reviews, fast: train.target_speedup is 900; with as few tokens as its settings can leave",
        ),
        (
            {"defaults": {}, "methods": [{"name": "planned", "preset": "spatten", "target_speedup": 50}]}, (),
            "reviews, planned: train.target_speedup is 50; with as few tokens as its settings can leave",
        ),
        (
            {"methods": [{"name": "dense", "preset": "bert", "target_speedup": 2}]}, (),
            "reviews, dense: train.target_speedup is 2, but no stage of this training learns",
        ),
        (
            {"defaults": {"set": {"prune.temprature": 1}}}, (),
            "there is no setting 'prune.temprature'; did you mean 'prune.temperature'?",
        ),
        (
            {"datasets": [{"name": "reviews", "data": "reviews", "train_rows": 500}]}, (),
            "dataset reviews: train_rows is 500, but train has 54 rows; ask for fewer",
        ),
        (
            {"datasets": [{"name": "reviews", "data": "reviews", "test_rows": 31}]}, (),
            "dataset reviews: test_rows is 31, but test has 30 rows; ask for fewer",
        ),
        (
            {"datasets": [{"name": "reviews", "data": "reviews", "validation_rows": 60}]}, (),
            "dataset reviews: validation_rows is 60, but train has 60 rows; ask for fewer",
        ),
        (
            {"datasets": [{"name": "likeness", "data": "likeness"}]}, (),
            "no labelled test split, only train, validation; with test: validation that split is tested",
        ),
        (
            {"datasets": [{"name": "reviews", "data": "reviews", "test": "validation"}]}, (),
            "dataset reviews: there is no labelled validation split, only train, test",
        ),
        (
            {"datasets": [{"name": "reviews", "data": "reviews", "train_max_tokens": 2}]}, (),
            "dataset reviews: no train text has at most 2 tokens; raise train_max_tokens",
        ),
        ({"datasets": [{"name": "r", "data": "no/such/data"}]}, (), "dataset r: "),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_one_clear_error_before_any_training(run, place, tmp_path, changes, options, message):
    code, out, err = reproduce(run, place, tmp_path / "wrong", *options, **changes)
    assert code in (2, 3)
    assert out == ""
    assert message in err
    assert not (tmp_path / "wrong").exists()

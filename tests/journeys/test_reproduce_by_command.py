"""Suites by command: everything is trained once, a kill costs nothing, every number says where it is from."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from magic_pyramid import Classifier, Example
from magic_pyramid.errors import ConfigError
from magic_pyramid.reproduce.run import _Worker
from magic_pyramid.training.sharing import SharedStages
from suites import EPOCHS, reproduce, results, reviews, suite, written

SOURCE = Path(__file__).parents[2] / "src"
SETTINGS = {
    "bert": ["dense", "within 0.5", "within 1"],
    "ltp": ["dense", "as trained", "calibrated", "within 0.5", "within 1"],
    "both": ["dense", "tau=0.1", "tau=0.9", "calibrated", "within 0.5", "within 1"],
}


@pytest.fixture(scope="module")
def whole(place):
    """A whole suite, run once, as a user would."""
    output = place / "whole"
    done = process(written(place), place, output)
    out, err = done.communicate(timeout=600)
    assert done.returncode == 0, err
    return output, out, err


def process(file, place, output, *options):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = ["reproduce", str(file), "--data", str(place / "data"), "--output", str(output), *options]
    return subprocess.Popen(
        [sys.executable, "-m", "magic_pyramid", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def test_every_dataset_method_and_seed_has_its_rows(whole):
    output, out, err = whole
    found: dict = {}
    for row in results(output):
        found.setdefault((row["dataset"], row["seed"], row["method"]), []).append(row["setting"])
    assert list(found) == [
        (dataset, seed, method)
        for dataset in ("reviews", "likeness")
        for seed in (0, 1)
        for method in ("bert", "ltp", "both")
    ]
    for (dataset, _, method), settings in found.items():
        wanted = SETTINGS[method]
        if (dataset, method) == ("likeness", "both"):
            # Regression leaves by patience, which has a threshold of its own.
            wanted = ["dense", "as trained", *wanted[3:]]
        assert [name for name in wanted if not name.startswith("within")] == [
            name for name in settings if not name.startswith("within")
        ]
    assert "reviews, both, seed 1: trains" in err
    assert "fewer FLOPs" in out


def test_one_fine_tuning_serves_all_methods(whole):
    _, _, err = whole
    assert err.count("finetune: starts") == 4
    assert err.count("soft_prune: starts") == 4
    assert err.count("distill_exits: starts") == 4
    assert err.count("finetune: finished earlier, not repeated") == 8


def test_sharing_changes_no_bit(whole, run, place, tmp_path, monkeypatch):
    output, _, _ = whole
    monkeypatch.setattr(SharedStages, "find", lambda *_: None)
    monkeypatch.setattr(SharedStages, "keep", lambda *_: None)
    code, _, err = reproduce(run, place, tmp_path / "alone", "--only", "dataset=reviews,method=both,seed=1")
    assert code == 0, err
    name = "reviews/both/seed1/model.safetensors"
    assert (tmp_path / "alone" / name).read_bytes() == (output / name).read_bytes()


def test_a_second_call_repeats_nothing(whole, run, place):
    output, _, _ = whole
    before = (output / "results.jsonl").read_bytes()
    code, _, err = run("reproduce", written(place), "--data", place / "data", "--output", output)
    assert (code, err) == (0, "")
    assert (output / "results.jsonl").read_bytes() == before


def test_numbers_are_against_the_dense_teacher_and_say_where_they_are_from(whole):
    rows = results(whole[0])
    dense = {(r["dataset"], r["seed"]): r for r in rows if (r["method"], r["setting"]) == ("bert", "dense")}
    for row in rows:
        teacher = dense[row["dataset"], row["seed"]]
        assert row["dense_gflops"] == teacher["gflops"]
        assert row["flops_speedup"] == pytest.approx(row["dense_gflops"] / row["gflops"])
        assert row["flops_speedup_padded"] >= row["flops_speedup"]
        assert row["num_examples"] == (30 if row["dataset"] == "reviews" else 20)
        assert sum(row["exit_distribution"]) == row["num_examples"]
        assert sum(b["num_examples"] for b in row["by_length"].values()) == row["num_examples"]
        assert row["wall_clock_speedup"] > 0
        assert len(row["tokens_alive"]) == 3
    facts = rows[0]["provenance"]
    assert facts["command"].startswith("magic-pyramid reproduce suite.yaml")
    assert (facts["backbone"], facts["tested"], facts["validation"]) == (
        "encoder",
        "the data's own test split",
        "held out of train",
    )
    assert (facts["train_rows"], facts["validation_rows"], facts["test_rows"]) == (48, 12, 30)
    assert facts["timed_against"] == f"bert, dense, in the engine {facts['timed_engine']}"
    assert rows[-1]["provenance"]["tested"] == "the data's own validation split"


def test_a_regression_has_both_correlations(whole):
    row = results(whole[0])[-1]
    assert list(row["scores"]) == ["Pearson correlation", "Spearman correlation"]
    assert row["quality"] == row["scores"]["Pearson correlation"]


def test_a_chosen_setting_is_the_fastest_that_keeps_the_teachers_quality_on_validation(whole):
    output = whole[0]
    teacher = json.loads((output / "reviews/bert/seed0/measured.json").read_text())
    found = json.loads((output / "reviews/both/seed0/measured.json").read_text())
    floor = teacher["validation_quality"] - 0.01 - 1e-9
    good = [point for point in found["curve"] if point["validation"]["quality"] >= floor]
    chosen = [row for row in found["rows"] if row["setting"] == "within 1"]
    assert bool(good) == bool(chosen) == ("within 1" not in found["unreached"])
    if good:
        best = max(good, key=lambda point: point["validation"]["flops_speedup"])
        assert chosen[0]["flops_speedup"] == pytest.approx(best["test"]["flops_speedup"])


def test_simulated_settings_are_what_the_model_does(whole):
    output = whole[0]
    rows = [
        row
        for row in results(output)
        if (row["dataset"], row["method"], row["seed"]) == ("reviews", "both", 0)
    ]
    classifier = Classifier.from_pretrained(output / "reviews" / "both" / "seed0")
    test = [Example(**row) for row in reviews("test", 30)]
    row = next(row for row in rows if row["setting"] == "tau=0.9")
    found = classifier.evaluate(test, exit_threshold=0.9, prune_scale=1.0, exit_layers=None, repeats=0)
    assert found["accuracy"] == row["quality"]
    assert found["gflops"] == pytest.approx(row["gflops"])
    assert found["exit_distribution"] == row["exit_distribution"]


def test_work_in_progress_is_cleared_and_the_fine_tuned_model_stays(whole):
    output = whole[0]
    assert not list(output.rglob(".training"))
    kept = [json.loads(file.read_text())["name"] for file in output.rglob(".shared/*/*/metrics.json")]
    assert kept == ["finetune"] * 4


def test_the_report_stands_beside_the_results(whole):
    output = whole[0]
    text = (output / "report.md").read_text(encoding="utf-8")
    for words in (
        "Suite tiny suite",
        "| both |",
        "seeds 0, 1",
        "magic-pyramid reproduce suite.yaml",
        "figure 3",
    ):
        assert words in text
    named = {output / name for name in re.findall(r"\]\((pictures/\w+\.png)\)", text)}
    assert {path.stem for path in named} == {"flops", "time", "lengths", "alive", "exits", "attention"}
    assert all(path.stat().st_size > 5_000 for path in named)
    page = (output / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 6


def test_a_report_shows_texts_only_of_datasets_that_may_be_shown(whole, run, place, tmp_path):
    output = tmp_path / "shown"
    shutil.copytree(whole[0], output)
    for shown, is_there in ((["likeness"], True), ([], False)):
        code, _, err = reproduce(run, place, output, shows_text_of=shown)
        assert code == 0, err
        assert ("figure 3" in (output / "report.md").read_text(encoding="utf-8")) is is_there


def test_measured_models_may_be_deleted(whole, run, place, tmp_path):
    output = tmp_path / "measured"
    shutil.copytree(whole[0], output)
    for file in output.rglob("model.safetensors"):
        file.unlink()
    code, _, err = reproduce(run, place, output)
    assert code == 0, err
    assert "trains" not in err
    text = (output / "report.md").read_text(encoding="utf-8")
    assert "| both |" in text
    assert "figure 3" not in text


def test_nothing_names_a_folder_of_this_machine(whole, place):
    for file in whole[0].rglob("*"):
        if file.suffix in (".json", ".jsonl", ".md", ".html"):
            assert str(place) not in file.read_text(encoding="utf-8"), file


def test_a_killed_suite_goes_on(place, run, whole, tmp_path):
    output = tmp_path / "killed"
    file = written(place, "killed", datasets=suite("")["datasets"][:1], seeds=[0])
    started = process(file, place, output)
    while not list(output.glob("reviews/.shared/seed0/*/metrics.json")):
        assert started.poll() is None, started.communicate()
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    started.communicate()
    code, _, err = run("reproduce", file, "--data", place / "data", "--output", output)
    assert code == 0, err
    assert "finetune: starts" not in err
    wanted = [row["quality"] for row in results(whole[0]) if (row["dataset"], row["seed"]) == ("reviews", 0)]
    assert [row["quality"] for row in results(output)] == wanted


def test_a_run_killed_before_its_end_is_not_taken_for_finished(place, run, tmp_path, monkeypatch):
    def killed(worker, run):
        raise ConfigError("killed")

    output = tmp_path / "late"
    file = written(place, "late", datasets=suite("")["datasets"][:1], seeds=[0], methods=["bert"])
    with monkeypatch.context() as patch:
        patch.setattr(_Worker, "_tidy", killed)
        assert run("reproduce", file, "--data", place / "data", "--output", output)[0] == 2
    folder = output / "reviews" / "bert" / "seed0"
    assert {path.name for path in folder.iterdir()} >= {"config.json", "seen_rows.safetensors", ".training"}
    code, _, err = run("reproduce", file, "--data", place / "data", "--output", output)
    assert code == 0, err
    assert "finetune: starts" not in err
    assert not (folder / ".training").exists()


def test_two_processes_share_one_output(place, tmp_path):
    file = written(place, "two", datasets=suite("")["datasets"][:1], seeds=[0])
    both = [process(file, place, tmp_path / "two", "--only", f"method={m}") for m in ("ltp", "both")]
    errors = [started.communicate(timeout=600)[1] for started in both]
    assert [started.returncode for started in both] == [0, 0], errors
    assert sum(error.count("finetune: starts") for error in errors) == 1
    methods = {row["method"] for row in results(tmp_path / "two")}
    assert methods == {"bert", "ltp", "both"}


def test_a_dry_run_lists_the_work_and_does_nothing(run, place, tmp_path):
    code, out, err = reproduce(run, place, tmp_path / "dry", "--dry-run", "--json")
    assert (code, err) == (0, "")
    plan = json.loads(out)
    assert [row["new_stages"] for row in plan[:3]] == [
        ["finetune"], ["soft_prune", "hard_prune"], ["distill_exits"]
    ]  # fmt: skip
    assert plan[2]["shared_stages"] == ["finetune", "soft_prune", "hard_prune"]
    assert all(row["million_token_steps"] > 0 for row in plan)
    assert not (tmp_path / "dry").exists()
    _, out, _ = reproduce(run, place, tmp_path / "dry", "--dry-run", "--only", "method=both,seed=1")
    assert "soft_prune, hard_prune" in out
    assert " 0 " not in out


def test_a_folder_of_other_settings_is_not_taken_for_this_suite(run, place, whole, tmp_path):
    output = tmp_path / "other"
    shutil.copytree(whole[0], output)
    code, _, err = reproduce(run, place, output, defaults={"epochs": {**EPOCHS, "finetune": 2}})
    assert code == 2
    assert "reviews/bert/seed0 was trained otherwise: " in err
    assert "delete it, or choose another output" in err


def test_epochs_of_stages_that_a_method_does_not_run_keep_no_run_apart(run, place, whole, tmp_path):
    output = tmp_path / "older"
    shutil.copytree(whole[0], output)
    for file in output.rglob("bert/*/training.json"):
        facts = json.loads(file.read_text(encoding="utf-8"))
        facts["train"]["epochs"]["soft_prune"] = 7
        file.write_text(json.dumps(facts), encoding="utf-8")
    code, _, err = reproduce(run, place, output, "--dry-run")
    assert code == 0, err


def test_a_setting_that_has_come_since_keeps_no_run_apart(run, place, whole, tmp_path):
    output = tmp_path / "older"
    shutil.copytree(whole[0], output)
    for file in output.rglob("training.json"):
        facts = json.loads(file.read_text(encoding="utf-8"))
        del facts["train"]["rank_floor"], facts["train"]["epochs"]["distill_student"]
        file.write_text(json.dumps(facts), encoding="utf-8")
    code, _, err = reproduce(run, place, output, "--dry-run")
    assert code == 0, err


def test_new_thresholds_are_counted_without_training(run, place, whole, tmp_path):
    output = tmp_path / "more"
    shutil.copytree(whole[0], output)
    code, _, err = reproduce(
        run, place, output, "--only", "dataset=reviews,method=both", "--no-timing", thresholds=[0.3]
    )
    assert code == 0, err
    assert "trains" not in err
    found = {
        row["setting"] for row in results(output) if (row["dataset"], row["method"]) == ("reviews", "both")
    }
    assert "tau=0.3" in found
    assert "tau=0.9" not in found

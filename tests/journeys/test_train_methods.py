"""Every method by the command line: trained, shown, used, measured, explained and calibrated again."""

import json

import pytest

from cli_models import REVIEWS, save_tiny, write_rows
from magic_pyramid.classifier import Classifier
from magic_pyramid.engine.torch_engine import TorchEngine

SOFT = ("--epochs", "finetune=1,soft_prune=4,hard_prune=1", "--set", "train.max_sequences_per_batch=4")
SCHEDULED = ("--epochs", "finetune=1,hard_prune=1", "--set", "prune.whole_layers=0")
FAST_SHARES = ("--set", "train.learning_rate_thresholds=1.0", "--set", "train.learning_rate_budget=1.0")
METHODS = {
    "top": ("rank_bins", (*SOFT, *FAST_SHARES, "--target-speedup", "1.3", "--set", "prune.layers=[0,1]")),
    "power_bert": (
        "rank_counts",
        (*SOFT, "--set", "train.learning_rate_thresholds=0.2", "--target-speedup", "1.3"),
    ),
    "spatten": ("cascade", SCHEDULED),
    "ltp_topk": ("cascade", (*SCHEDULED, "--target-speedup", "1.4")),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reviews")
    write_rows(folder / "train.jsonl", REVIEWS * 6)
    return write_rows(folder / "test.jsonl", REVIEWS).parent


@pytest.mark.parametrize("preset", METHODS)
def test_a_method_goes_through_every_command(preset, run, model, reviews, tmp_path):
    kind, options = METHODS[preset]
    output = tmp_path / preset
    code, out, err = run(
        "train", "--model", model, "--data", reviews, "--output", output, "--device", "cpu",
        "--preset", preset, *options, "--json",
    )  # fmt: skip
    assert code == 0, err
    stages = [stage["name"] for stage in json.loads(out)["training"]["stages"]]
    softens = kind != "cascade"
    assert stages == ["finetune", *["soft_prune"] * softens, "hard_prune"]

    facts = json.loads(run("info", output, "--json")[1])
    assert facts["config"]["prune"]["kind"] == kind
    (learned,) = facts["pruner"].values()
    assert len(learned) == 2
    assert min(learned) < (1 if "keep_ratios" in facts["pruner"] else 16)
    assert isinstance(Classifier.from_pretrained(output).engine, TorchEngine)

    code, out, _ = run("predict", output, "a quiet lovely film", "--prune-scale", "1", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["num_tokens"][-1] < answer["num_tokens"][0]

    code, out, err = run(
        "evaluate", output, "--data", reviews, "--split", "test", "--repeats", "0", "--prune-scale", "1",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["flops_speedup"] > 1.05

    assert run("explain", output, "a quiet lovely film", "--html", tmp_path / "page.html")[0] == 0
    code, _, err = run("export", output, "--to", "native", "--output", tmp_path / "native")
    assert code == 2
    assert f"this model by {kind}" in err


def test_a_schedule_that_cannot_reach_a_speedup_says_how_far_it_gets(run, model, reviews, tmp_path):
    code, _, err = run(
        "train", "--model", model, "--data", reviews, "--output", tmp_path / "t", "--device", "cpu",
        "--preset", "spatten", "--epochs", "hard_prune=1", "--target-speedup", "5",
    )  # fmt: skip
    assert code == 2
    assert "can leave these texts reach 1." in err

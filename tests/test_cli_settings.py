import numpy as np
import pytest

from magic_pyramid.cli.options import (
    choose_device,
    knobs,
    read_batch_size,
    read_epochs,
    read_exit_threshold,
    read_labels,
    read_pairs,
)
from magic_pyramid.cli.output import plain
from magic_pyramid.errors import ConfigError
from magic_pyramid.presets import find_recipe
from magic_pyramid.settings import read_value, settable_fields, train_settings


def settings(*, assignments=None, epochs=None, **changes):
    return train_settings(
        **{"preset": "magic_pyramid", "recipe": "default", **changes},
        values={key: read_value(text) for key, text in (assignments or {}).items()},
        epochs=read_epochs(epochs),
    )


def test_nothing_asked_is_the_recipe():
    found = settings()
    assert found.config.epochs_of("finetune") == 3
    assert found.model_changes == {}


def test_a_preset_brings_its_recipe_unless_another_is_named():
    assert settings(recipe=None).config == find_recipe("default")
    joint = settings(preset="pyramid", recipe=None, train_options={"target_speedup": 6.0}).config
    assert joint == find_recipe("joint").replace(target_speedup=6.0)
    assert settings(recipe="paper-mrpc").config == find_recipe("paper-mrpc")


def test_a_preset_that_its_recipe_defines_takes_no_other():
    same = settings(preset="deebert", recipe="deebert").config
    assert same == settings(preset="deebert", recipe=None).config == find_recipe("deebert")
    with pytest.raises(
        ConfigError, match="defined by its own recipe 'deebert', got 'paper-mrpc'; leave the rec"
    ):
        settings(preset="deebert", recipe="paper-mrpc")


def test_what_is_set_goes_to_its_config():
    found = settings(
        assignments={
            "prune.temperature": "1e-3",
            "exit.layers": "[0, 2]",
            "exit.threshold": "none",
            "train.warmup": "0.2",
            "model.final_head": "fastbert",
        },
        max_length=64,
        train_options={"seed": 3, "precision": None},
    )
    assert found.model_changes == {
        "prune.temperature": 1e-3,
        "exit.layers": [0, 2],
        "exit.threshold": None,
        "final_head": "fastbert",
        "max_length": 64,
    }
    assert (found.config.warmup, found.config.seed, found.config.precision) == (0.2, 3, "fp32")


def test_epochs_change_the_stages_that_they_name_and_are_exact():
    found = settings(epochs="finetune=1, soft_prune=0.5")
    assert found.config.epochs == {"finetune": 1, "soft_prune": 0.5, "hard_prune": 1, "distill_exits": 2}
    assert found.config.min_steps == 0
    assert settings(epochs="finetune=1", assignments={"train.min_steps": "9"}).config.min_steps == 9
    other = settings(assignments={"train.epochs": '{"finetune": 7}'}).config
    assert (other.epochs_of("finetune"), other.min_steps) == (7, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "magic_pyramd"}, "did you mean 'magic_pyramid'"),
        ({"recipe": "papr"}, "did you mean 'paper'"),
        ({"assignments": {"prune.temprature": "1"}}, "did you mean 'prune.temperature'"),
        ({"assignments": {"purne.scale": "1"}}, "did you mean 'prune.scale'"),
        ({"assignments": {"model.backbone": "1"}}, "no setting 'model.backbone'; did you mean 'model.max"),
        ({"assignments": {"prune.temperature": "warm"}}, "prune.temperature is 'warm'; it must be a number"),
        ({"assignments": {"prune.temperature": "7"}}, r"must lie in \[1e-08, 1.0\]"),
        ({"assignments": {"exit.head": "clss"}}, "did you mean 'cls'"),
        ({"assignments": {"exit.head_size": "big"}}, "exit.head_size is 'big'; it must be a whole number"),
        ({"assignments": {"train.epochs": "3"}}, "train.epochs must be an object"),
        ({"preset": "bert", "assignments": {"prune.scale": "1"}}, "the preset bert has no prune"),
        ({"preset": "ltp", "assignments": {"exit.head": "cls"}}, "the preset ltp has no exit"),
        ({"epochs": "3"}, "write it as finetune=3,soft_prune=1"),
        ({"epochs": "fintune=3"}, "names the stage 'fintune'; did you mean 'finetune'"),
        ({"epochs": "finetune=three"}, "gives finetune 'three' epochs; give a number"),
        ({"epochs": "finetune=-1"}, "must lie in"),
        ({"train_options": {"precision": "fp8"}}, "did you mean 'fp16'|did you mean 'fp32'"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_the_nearest_right_one(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


def test_every_settable_field_has_its_description():
    fields = settable_fields()
    assert "prune.temperature" in fields
    assert "model.max_length" in fields
    assert "model.backbone" not in fields
    assert all(fields.values())


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("None", None), ("TRUE", True), ("[1]", [1]), ("cls", "cls"), ('"7"', "7")],
)
def test_values_are_json_or_else_text(text, value):
    assert read_value(text) == value


def test_no_epochs_are_none():
    assert read_epochs(None) == {}


def test_knobs_that_are_not_given_stay_calibrated():
    assert knobs(None, None) == {}
    assert knobs("none", 0.0) == {"exit_threshold": None, "prune_scale": 0.0}
    assert read_exit_threshold("0.3") == 0.3


@pytest.mark.parametrize(
    ("text", "message"), [("fast", "give a number in"), ("1.5", "must lie in"), ("nan", "must lie in")]
)
def test_an_impossible_exit_threshold_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        read_exit_threshold(text)


def test_a_batch_size_is_a_count_or_auto():
    assert read_batch_size("8") == 8
    assert read_batch_size("auto") is None
    for text in ("0", "-1", "many", "2.5"):
        with pytest.raises(ConfigError, match="give a whole number of at least 1, or auto"):
            read_batch_size(text)


def test_pairs_are_read():
    assert read_pairs(["form=title", "a=b=c"], option="--where") == {"form": "title", "a": "b=c"}
    assert read_pairs(None, option="--where") == {}
    with pytest.raises(ConfigError, match="--where is 'form'; write it as KEY=VALUE"):
        read_pairs(["form"], option="--where")
    with pytest.raises(ConfigError, match="--set gives 'a' twice"):
        read_pairs(["a=1", "a=2"], option="--set")


def test_labels_are_a_list():
    assert read_labels(None) is None
    assert read_labels("bad, good") == ["bad", "good"]
    assert read_labels('["a, b", "c"]') == ["a, b", "c"]
    with pytest.raises(ConfigError, match="no JSON list"):
        read_labels("[a, b]")


def test_a_device_must_be_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == "cpu"
    with pytest.raises(ConfigError, match="--device is 'gpu'; did you mean 'cpu'"):
        choose_device("gpu")
    with pytest.raises(ConfigError, match="--device is 'cuda:1', which is not here; use cpu or auto"):
        choose_device("cuda:1")


def test_json_holds_only_what_json_can():
    values = {1: (np.float32(0.5), float("nan"), np.array([1, 2]), None)}
    assert plain(values) == {"1": [0.5, None, [1, 2], None]}

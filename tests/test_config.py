"""Settings: JSON both ways, the nearest name for a wrong one, and every refusal in words."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magic_pyramid.config import (
    STAGE_NAMES,
    BackboneConfig,
    ExitConfig,
    ModelConfig,
    PruneConfig,
    TrainConfig,
    check_exit_threshold,
    field_docs,
)
from magic_pyramid.errors import ConfigError

BACKBONE = BackboneConfig(
    model_type="bert",
    vocab_size=30,
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=64,
)
MODEL = ModelConfig(backbone=BACKBONE, labels=("bad", "good"), max_length=32)
FULL = MODEL.replace(
    prune=PruneConfig(manual_thresholds=(0.0, 0.01, 0.02)),
    exit=ExitConfig(layers=(1, 0), threshold=None),
)


@pytest.mark.parametrize(
    "config",
    [
        BACKBONE,
        PruneConfig(),
        ExitConfig(),
        MODEL,
        FULL,
        TrainConfig(),
        TrainConfig(epochs={"finetune": 0.5}),
    ],
    ids=["backbone", "prune", "exit", "model", "full model", "train", "short train"],
)
def test_json_gives_back_an_equal_config(config):
    data = json.loads(json.dumps(config.to_dict()))
    assert type(config).from_dict(data) == config


@given(
    scale=st.floats(0, 1e6),
    temperature=st.floats(1e-8, 1),
    thresholds=st.none() | st.lists(st.floats(0, 1), min_size=1).map(tuple),
)
def test_json_keeps_every_number_exactly(scale, temperature, thresholds):
    config = PruneConfig(scale=scale, temperature=temperature, manual_thresholds=thresholds)
    assert PruneConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_json_numbers_without_a_point_become_floats():
    assert isinstance(PruneConfig.from_dict({"scale": 2}).scale, float)
    assert isinstance(ExitConfig.from_dict({"threshold": 1}).threshold, float)


def test_json_lists_become_tuples_and_stay_frozen():
    config = ModelConfig.from_dict(json.loads(json.dumps(FULL.to_dict())))
    assert config.labels == ("bad", "good")
    assert config.exit is not None
    assert config.exit.layers == (1, 0)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MODEL.max_length = 8


def test_replace_gives_a_changed_copy():
    assert MODEL.replace(max_length=8).max_length == 8
    assert MODEL.max_length == 32


def test_replace_takes_whole_configs():
    prune = PruneConfig(scale=2.0)
    assert MODEL.replace(prune=prune).prune == prune


def test_replace_checks_again():
    with pytest.raises(ConfigError, match=r"prune\.scale is -1\.0"):
        PruneConfig().replace(scale=-1.0)


def test_an_unknown_key_gets_the_nearest_name():
    with pytest.raises(
        ConfigError, match="PruneConfig has no field 'temprature'; did you mean 'temperature'"
    ):
        PruneConfig.from_dict({"temprature": 0.1})


def test_an_unknown_key_deep_inside_names_its_config():
    with pytest.raises(ConfigError, match="ExitConfig has no field 'tau'; known: head, "):
        ModelConfig.from_dict({**MODEL.to_dict(), "exit": {"tau": 0.1}})


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match=r"ModelConfig cannot be built: .*'backbone'"):
        ModelConfig.from_dict({"labels": ["a"]})


def test_every_field_is_described():
    assert set(field_docs(PruneConfig)) == {f.name for f in dataclasses.fields(PruneConfig)}
    assert field_docs(PruneConfig)["protect_sep"] == "Never prune separator tokens."


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("score_norm", "keept", r"prune\.score_norm is 'keept'; did you mean 'kept'"),
        ("threshold_index", "two_based", r"prune\.threshold_index is 'two_based'; did you mean"),
        ("penalty_norm", "paded", r"prune\.penalty_norm is 'paded'; did you mean 'padded'"),
        ("fixed_length", 0, r"prune\.fixed_length is 0; it must lie in \[1, 1000000\]"),
        ("final_threshold", 1.5, r"prune\.final_threshold is 1\.5; it must lie in \[0\.0, 1\.0\]"),
        ("final_threshold", True, r"prune\.final_threshold is True; it must lie in"),
        ("temperature", 0.0, r"prune\.temperature is 0\.0; it must lie in \[1e-08, 1\.0\]"),
        ("penalty", -0.1, r"prune\.penalty is -0\.1; it must lie in"),
        ("scale", float("nan"), r"prune\.scale is nan; it must lie in"),
        ("manual_thresholds", (0.1, 2.0), r"prune\.manual_thresholds is 2\.0; it must lie in"),
    ],
)
def test_an_impossible_prune_setting_is_refused(name, value, message):
    with pytest.raises(ConfigError, match=message):
        PruneConfig(**{name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "clas"}, r"exit\.head is 'clas'; did you mean 'cls'"),
        ({"criterion": "entrpy"}, r"exit\.criterion is 'entrpy'; did you mean 'entropy'"),
        ({"kl": "backward"}, r"exit\.kl is 'backward'; did you mean 'forward'"),
        ({"patience": 0}, r"exit\.patience is 0; it must lie in \[1, 1000\]"),
        ({"patience": 3}, r"exit\.patience is 3, but exit\.criterion is 'entropy'; set the criterion"),
        ({"head_attention_heads": 0}, r"exit\.head_attention_heads is 0; it must lie in"),
        ({"threshold": 1.2}, r"exit_threshold is 1\.2; it must lie in \[0, 1\]"),
        (
            {"head_size": 10, "head_attention_heads": 3},
            r"exit\.head_size 10 is not divisible by .* 3; choose a divisor",
        ),
    ],
)
def test_an_impossible_exit_setting_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ExitConfig(**settings)


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 1, 1.0])
def test_an_exit_threshold_lies_between_zero_and_one(value):
    check_exit_threshold(value)


@pytest.mark.parametrize("value", [-0.1, 1.1, True, "0.3", float("nan"), float("inf")])
def test_other_exit_thresholds_are_refused(value):
    with pytest.raises(ConfigError, match=r"exit_threshold is .*must lie in \[0, 1\] .* or be None"):
        check_exit_threshold(value)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="hidden_size 16 is not divisible by num_attention_heads 3"):
        BACKBONE.replace(num_attention_heads=3)


def test_the_longest_input_leaves_room_for_the_position_offset():
    assert BACKBONE.max_length == 64
    assert BACKBONE.replace(position_offset=2).max_length == 62


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"problem_type": "singel_label"},
            r"model\.problem_type is 'singel_label'; did you mean 'single_label'",
        ),
        ({"final_head": "pooler"}, r"model\.final_head is 'pooler'; known: cls, fastbert"),
        ({"max_length": 65}, r"model\.max_length is 65; it must lie in \[2, 64\]"),
        ({"max_length": 1}, r"model\.max_length is 1; it must lie in \[2, 64\]"),
        ({"labels": ()}, r"model\.labels is empty; give at least one label name"),
        (
            {"prune": PruneConfig(manual_thresholds=(0.1, 0.2))},
            r"prune\.manual_thresholds has 2 values; the backbone has 3 layers, give one each",
        ),
        (
            {"exit": ExitConfig(layers=(0, 2))},
            r"exit\.layers contains 2; exits stand after 0, 1 \(counted from 0\)",
        ),
        (
            {"exit": ExitConfig(layers=(1,), tested_layers=(0,))},
            r"exit\.tested_layers contains 0; exits stand after 1 \(counted from 0\)",
        ),
        ({"exit": ExitConfig(layers=(-1,))}, r"exit\.layers contains -1; exits stand after"),
        (
            {"problem_type": "regression", "labels": ("score",), "exit": ExitConfig()},
            r"exit\.criterion is 'entropy', which is not defined for regression; use 'patience'",
        ),
        (
            {"problem_type": "multi_label", "exit": ExitConfig(criterion="margin")},
            r"exit\.criterion is 'margin', which is not defined for multi_label; use another criterion",
        ),
    ],
)
def test_an_impossible_model_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        MODEL.replace(**changes)


@pytest.mark.parametrize("problem_type", ["single_label", "multi_label", "regression"])
def test_patience_is_defined_for_every_problem(problem_type):
    model = MODEL.replace(problem_type=problem_type, exit=ExitConfig(criterion="patience"))
    assert model.exit_layers == (0, 1)


def test_exits_stand_after_all_layers_but_the_last():
    assert MODEL.exit_layers == ()
    assert MODEL.replace(exit=ExitConfig()).exit_layers == (0, 1)
    assert FULL.exit_layers == (0, 1)
    assert MODEL.replace(exit=ExitConfig(layers=(1,))).exit_layers == (1,)


def test_one_logit_per_label():
    assert MODEL.num_labels == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": {"fintune": 1.0}}, "train.epochs names the stage 'fintune'; did you mean 'finetune'"),
        ({"epochs": {"finetune": -1.0}}, r"train\.epochs is -1\.0; it must lie in"),
        ({"precision": "int8"}, r"train\.precision is 'int8'; known: fp32, bf16, fp16"),
        ({"tokens_per_batch": 0}, r"train\.tokens_per_batch is 0; it must lie in"),
        ({"max_sequences_per_batch": 0}, r"train\.max_sequences_per_batch is 0; it must lie in"),
        ({"gradient_accumulation": 0}, r"train\.gradient_accumulation is 0; it must lie in"),
        ({"distill_weight": 1.1}, r"train\.distill_weight is 1\.1; it must lie in \[0\.0, 1\.0\]"),
        ({"joint_exits": -1.0}, r"train\.joint_exits is -1\.0; it must lie in"),
        ({"validation_share": 0.95}, r"train\.validation_share is 0\.95; it must lie in \[0\.0, 0\.9\]"),
        ({"target_speedup": 0.5}, r"train\.target_speedup is 0\.5; it must lie in \[1\.0"),
        ({"rank_top_k": 1}, r"train\.rank_top_k is 1; it must lie in \[2"),
        ({"learning_rate": -1.0}, r"train\.learning_rate is -1\.0; it must lie in"),
        ({"warmup": 3.0}, r"train\.warmup is 3\.0; it must lie in \[0\.0, 1\.0\]"),
        ({"max_grad_norm": 0.0}, r"train\.max_grad_norm is 0\.0; it must lie in"),
        ({"distill_temperature": 0.0}, r"train\.distill_temperature is 0\.0; it must lie in"),
        ({"min_steps": -5}, r"train\.min_steps is -5; it must lie in"),
        ({"seed": -1}, r"train\.seed is -1; it must lie in"),
        ({"exit_teacher": "label"}, r"train\.exit_teacher is 'label'; did you mean 'labels'"),
        ({"exit_weights": "depth"}, r"train\.exit_weights is 'depth'; did you mean 'depth_of_all'"),
        ({"reach_temperature": 0.0}, r"train\.reach_temperature is 0\.0; it must lie in"),
        ({"max_drop": -0.5}, r"train\.max_drop is -0\.5; it must lie in"),
    ],
)
def test_an_impossible_training_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**settings)


def test_a_stage_that_is_not_named_runs_for_no_epoch():
    train = TrainConfig(epochs={"finetune": 2})
    assert [train.epochs_of(stage) for stage in STAGE_NAMES] == [2.0, *[0.0] * (len(STAGE_NAMES) - 1)]


def test_patience_is_another_way_to_set_the_threshold():
    assert ExitConfig(criterion="patience", patience=4) == ExitConfig(criterion="patience", threshold=0.25)
    assert ExitConfig(criterion="patience", patience=4, threshold=None).threshold is None
    stored = ExitConfig(criterion="patience", patience=4).to_dict()
    assert (stored["threshold"], stored["patience"]) == (0.25, None)

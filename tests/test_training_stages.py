"""The plan of stages follows from the configs alone."""

import pytest

from magic_pyramid.config import ExitConfig, PruneConfig, TrainConfig
from magic_pyramid.training import learning_rate_of, stages_of
from magic_pyramid.training.stages import early_layers, learning_rates
from training_toy import BACKBONE, PYRAMID

TRAIN = TrainConfig(epochs={"finetune": 3, "soft_prune": 1, "hard_prune": 2, "distill_exits": 2})


def names(**changes):
    return [stage.name for stage in stages_of(PYRAMID.replace(**changes), TRAIN)]


def stage(name, train=TRAIN, **changes):
    return next(found for found in stages_of(PYRAMID.replace(**changes), train) if found.name == name)


def test_each_method_runs_the_stages_it_needs():
    assert names(prune=None, exit=None) == ["finetune"]
    assert names(exit=None) == ["finetune", "soft_prune", "hard_prune"]
    assert names(prune=None) == ["finetune", "distill_exits"]
    assert names() == ["finetune", "soft_prune", "hard_prune", "distill_exits"]


def test_a_stage_of_no_epochs_is_left_out():
    train = TRAIN.replace(epochs={"finetune": 1, "hard_prune": 0})
    assert [found.name for found in stages_of(PYRAMID, train)] == ["finetune"]


def test_exits_without_a_layer_need_no_stage():
    assert names(exit=ExitConfig(layers=())) == ["finetune", "soft_prune", "hard_prune"]


def test_thresholds_learn_in_soft_prune_only():
    assert [found.name for found in stages_of(PYRAMID, TRAIN) if "thresholds" in found.trains] == [
        "soft_prune"
    ]


def test_thresholds_given_by_hand_do_not_learn():
    fixed = PruneConfig(learn_thresholds=False)
    assert all("thresholds" not in found.trains for found in stages_of(PYRAMID.replace(prune=fixed), TRAIN))


def test_masking_goes_from_none_over_soft_to_hard():
    found = {found.name: (found.masking, found.validation_masking) for found in stages_of(PYRAMID, TRAIN)}
    assert found == {
        "finetune": ("none", "none"),
        "soft_prune": ("soft", "hard"),
        "hard_prune": ("hard", "hard"),
        "distill_exits": ("hard", "hard"),
    }


def test_exits_alone_are_distilled_on_all_tokens():
    assert stage("distill_exits", prune=None).masking == "none"


def test_only_exit_heads_learn_in_distillation_and_no_label_is_used():
    found = stage("distill_exits")
    assert found.trains == ("exit_heads",)
    assert (found.label_weight, found.exit_label_weight, found.exit_distill_weight) == (0.0, 0.0, 1.0)


def test_joint_exits_weigh_together_what_the_setting_says():
    wide = BACKBONE.replace(num_hidden_layers=5)
    train = TRAIN.replace(joint_exits=2.0)
    assert stage("finetune", train, backbone=wide).exit_label_weight == pytest.approx(2.0 / 4)
    soft = stage("soft_prune", train, backbone=wide)
    assert soft.exit_label_weight + soft.exit_distill_weight == pytest.approx(2.0 / 4)


@pytest.mark.parametrize("changes", [{"exit": None}, {}], ids=["no exits", "weight 0"])
def test_without_joint_exits_the_heads_stay_out_of_the_backbone_stages(changes):
    train = TRAIN.replace(joint_exits=0.0)
    for found in stages_of(PYRAMID.replace(**changes), train):
        if "backbone" in found.trains:
            assert not found.asks_exits
            assert "exit_heads" not in found.trains


def test_the_fine_tuned_model_teaches_the_pruning_stages():
    train = TRAIN.replace(distill_weight=0.3)
    for name in ("soft_prune", "hard_prune"):
        found = stage(name, train)
        assert (found.label_weight, found.distill_weight) == (pytest.approx(0.7), pytest.approx(0.3))
    assert stage("finetune", train).distill_weight == 0.0


def test_the_penalty_belongs_to_soft_prune():
    penalties = {found.name: found.penalty_weight for found in stages_of(PYRAMID, TRAIN)}
    assert penalties.pop("soft_prune") == PYRAMID.prune.penalty
    assert set(penalties.values()) == {0.0}


def test_soft_prune_hands_on_its_last_weights_the_others_their_best():
    kept = {found.name: found.keeps for found in stages_of(PYRAMID, TRAIN)}
    assert kept.pop("soft_prune") == "last"
    assert set(kept.values()) == {"best"}


def test_the_pruning_stages_have_no_warm_up():
    warmups = {found.name: found.warmup for found in stages_of(PYRAMID, TRAIN)}
    assert warmups == {"finetune": 0.1, "soft_prune": 0.0, "hard_prune": 0.0, "distill_exits": 0.1}


@pytest.mark.parametrize(
    ("width", "expected"), [(768, 2e-5), (384, 8e-5), (256, 1e-4), (1024, 1.125e-5), (4096, 1e-5)]
)
def test_narrow_encoders_take_larger_steps(width, expected):
    model = PYRAMID.replace(backbone=BACKBONE.replace(hidden_size=width))
    assert learning_rate_of(model, TrainConfig()) == pytest.approx(expected)


def test_a_given_learning_rate_is_used_as_it_is():
    assert learning_rate_of(PYRAMID, TrainConfig(learning_rate=0.5)) == 0.5


def test_only_a_new_final_head_takes_large_steps():
    config = TrainConfig(learning_rate=2e-5, learning_rate_final_head=1e-3, learning_rate_exits=5e-4)
    rates = {stage.name: learning_rates(stage, PYRAMID, config) for stage in stages_of(PYRAMID, config)}
    assert rates["finetune"]["final_head"] == 1e-3
    assert rates["hard_prune"]["final_head"] == 2e-5
    assert {rate["backbone"] for rate in rates.values()} == {2e-5}
    assert {rate["exit_heads"] for rate in rates.values()} == {5e-4}


def test_a_final_head_without_a_rate_of_its_own_follows_the_backbone():
    config = TrainConfig(learning_rate=2e-5, learning_rate_final_head=None)
    (finetune, *_) = stages_of(PYRAMID, config)
    assert learning_rates(finetune, PYRAMID, config)["final_head"] == 2e-5


@pytest.mark.parametrize(("given", "expected"), [({}, 4e-5), ({"learning_rate_pruning": 1e-5}, 1e-5)])
def test_a_fine_tuned_encoder_may_take_smaller_steps_while_it_is_pruned(given, expected):
    config = TRAIN.replace(learning_rate=4e-5, learning_rate_final_head=None, **given)
    rates = {stage.name: learning_rates(stage, PYRAMID, config) for stage in stages_of(PYRAMID, config)}
    for name in ("soft_prune", "hard_prune"):
        assert rates[name]["backbone"] == rates[name]["final_head"] == expected
        assert rates[name]["exit_heads"] == rates["distill_exits"]["exit_heads"]
    for name in ("finetune", "distill_exits"):
        assert rates[name]["backbone"] == 4e-5


BUDGET = TRAIN.replace(target_speedup=1.5, rank_weight=0.2)


def test_exits_learn_from_the_final_head_or_from_the_labels_alone():
    for name, labels in (("soft_prune", 0.5), ("hard_prune", 0.5), ("distill_exits", 0.0)):
        found, alone = stage(name, TRAIN), stage(name, TRAIN.replace(exit_teacher="labels"))
        assert (found.exit_label_weight, found.exit_distill_weight) == (labels, 1 - labels)
        assert (alone.exit_label_weight, alone.exit_distill_weight) == (1.0, 0.0)
        assert found.asks_exits


def test_exits_may_wait_for_the_fine_tuned_encoder():
    late = TRAIN.replace(joint_from="soft_prune", exit_weights="depth_of_all")
    found = stage("finetune", late)
    assert found.trains == ("backbone", "final_head")
    assert (found.label_weight, found.asks_exits) == (1.0, False)
    assert stage("soft_prune", late) == stage("soft_prune", TRAIN.replace(exit_weights="depth_of_all"))


def test_the_budget_and_the_ranking_belong_to_soft_prune():
    asked = {
        found.name: (found.target_speedup, found.rank_weight, found.reach_temperature)
        for found in stages_of(PYRAMID, BUDGET)
    }
    assert asked.pop("soft_prune") == (1.5, 0.2, 0.1)
    assert set(asked.values()) == {(None, 0.0, None)}


def test_early_layers_are_the_first_third_and_at_least_one():
    assert [list(early_layers(count)) for count in (1, 2, 6, 12)] == [[0], [0], [0, 1], [0, 1, 2, 3]]

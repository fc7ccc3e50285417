"""Training under a constraint: it reaches the speed-up asked for, and only then can it be the best."""

import numpy as np
import pytest
import torch

import tiny
from magic_pyramid.config import CascadeConfig, RankBinsConfig, RankCountsConfig
from magic_pyramid.errors import ConfigError
from magic_pyramid.model import PyramidModel
from magic_pyramid.presets import RECIPES
from magic_pyramid.pruning.hard_concrete import LARGEST, probability
from magic_pyramid.pruning.rank_bins import RankBinsPruner
from magic_pyramid.training import Stage, stages_of
from magic_pyramid.training.budget import Budget, meet_budget
from magic_pyramid.training.projection import projected_speedup
from training_toy import BACKBONE, FAST, PYRAMID, toy_model, train_toy

DEEP = PYRAMID.replace(
    backbone=BACKBONE.replace(num_hidden_layers=4), prune=RankBinsConfig(num_bins=10), exit=None
)
TOP = RECIPES["top"].replace(
    epochs={"finetune": 1, "soft_prune": 25},
    learning_rate=3e-3,
    learning_rate_budget=0.05,
    tokens_per_batch=96,
    max_sequences_per_batch=8,
)


def soft_prune(train=TOP) -> Stage:
    return next(stage for stage in stages_of(DEEP, train) if stage.name == "soft_prune")


def trained_pruner(model: PyramidModel) -> RankBinsPruner:
    assert isinstance(model.pruner, RankBinsPruner)
    return model.pruner


def test_the_teacher_replaces_the_labels_and_the_budget_the_penalty():
    stage = soft_prune(TOP.replace(target_speedup=2.5))
    assert (stage.label_weight, stage.distill_weight, stage.penalty_weight) == (0.0, 1.0, 0.0)
    assert (stage.target_speedup, stage.keeps) == (2.5, "best")
    with_exits = DEEP.replace(exit=PYRAMID.exit)
    assert {stage.name: stage.keeps for stage in stages_of(with_exits, TOP)}["soft_prune"] == "last"
    assert "thresholds" in stage.trains


def test_the_weight_of_the_order_falls_to_its_floor_during_the_ramp():
    stage = soft_prune(TOP.replace(rank_weight=2.0, budget_ramp=0.5))
    weights = [stage.rank_weight_at(progress) for progress in (0.0, 0.25, 0.499, 0.5, 1.0)]
    assert weights == pytest.approx([2.0, 1.0, 0.02, 0.02, 0.02])
    assert stage.replace(rank_floor=1.0).rank_weight_at(1.0) == 2.0
    assert stage.replace(ramp=0.0).rank_weight_at(0.0) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("speedup", "miss"), [(2.0, 0.0), (1.93, 0.0), (2.07, 0.0), (1.0, 0.5), (3.0, 0.5), (1.9, 0.05)]
)
def test_a_budget_is_kept_within_its_tolerance_on_both_sides(speedup, miss):
    assert soft_prune(TOP.replace(target_speedup=2.0)).budget_miss(speedup) == pytest.approx(miss)
    assert soft_prune(TOP.replace(target_speedup=None)).budget_miss(speedup) == 0.0


@pytest.mark.parametrize("selection", ["ranked_topk", "bins"])
def test_expected_tokens_are_those_really_left_and_have_the_gradient_of_the_share(selection):
    model = tiny.build(
        tiny.CONFIG.replace(prune=RankBinsConfig(layers=(0, 2), num_bins=7, selection=selection))
    )
    pruner = trained_pruner(model)
    with torch.no_grad():
        pruner.fine.normal_(std=3.0)
        pruner.coarse.fill_(1.0)
    lengths = torch.tensor([9, 2, 14, 1])
    batch = tiny.packed(*lengths.tolist())

    soft = model(batch, masking="soft").expected_tokens

    hard = model(batch, masking="hard").num_tokens
    assert hard[2, 2] < 14
    assert soft.tolist() == hard.tolist()
    soft[:, 0].sum().backward()
    fine = pruner.fine.detach()[0].requires_grad_()
    coarse = pruner.coarse.detach()[0].requires_grad_()
    share = 1 - (1 - probability(fine).mean()) * probability(coarse)
    (1 + (lengths - 1) * share).sum().backward()
    torch.testing.assert_close(pruner.fine.grad[0], fine.grad)
    torch.testing.assert_close(pruner.coarse.grad[0], coarse.grad)
    assert not pruner.fine.grad[1].any()


@pytest.mark.parametrize("target", [1.3, 1.6])
def test_training_keeps_the_constraint_and_its_best_is_one_that_does(target, tmp_path):
    model = toy_model(DEEP)
    report = train_toy(model, tmp_path, config=TOP.replace(target_speedup=target))
    _, soft = report.stages
    assert soft.kept["speedup"] == pytest.approx(target, rel=0.05)
    assert soft.kept["budget_miss"] == 0.0
    within = [entry for entry in soft.validation if abs(entry["speedup"] / target - 1) <= 0.04]
    best = max(within, key=lambda entry: (entry["score"], -entry["loss"]))
    assert soft.kept["step"] == best["step"]
    assert soft.validation[0]["speedup"] < soft.kept["speedup"]
    assert soft.pruner == trained_pruner(model).learned()


@pytest.mark.parametrize("wanted", [1.2, 1.5, 2.0])
@pytest.mark.parametrize("selection", ["ranked_topk", "bins"])
def test_what_the_multipliers_missed_is_made_up_for(selection, wanted):
    prune = RankBinsConfig(num_bins=50, layers=(0, 1), selection=selection)
    model = toy_model(DEEP.replace(prune=prune))
    pruner = trained_pruner(model)
    with torch.no_grad():
        pruner.fine.normal_(std=2.0)
        pruner.coarse.copy_(torch.tensor([3.0, -3.0]))
    order = pruner.fine[0].argsort().tolist()
    lengths = np.arange(10, 200)

    assert meet_budget(model, Budget(wanted, dense_flops=1.0, ramp=0.5, exact=True), lengths)

    counts = [lengths]
    for layer in range(4):
        counts.append(pruner.num_kept(layer, torch.from_numpy(counts[-1])).numpy())
    assert projected_speedup(DEEP, np.stack(counts, axis=1)) == pytest.approx(wanted, rel=0.02)
    assert pruner.fine[0].argsort().tolist() == order
    assert pruner.prunes_at(0, scale=1.0)
    assert not pruner.prunes_at(1, scale=1.0)


def test_layers_that_were_not_chosen_prune_too_where_the_others_cannot_remove_enough():
    model = toy_model(DEEP)
    pruner, lengths = trained_pruner(model), np.arange(10, 200)
    pruner.coarse.data[1] = LARGEST
    pruner.fine.data[1].uniform_(-1.0, 1.0)

    assert meet_budget(model, Budget(1.6, dense_flops=1.0, ramp=0.5, exact=True), lengths)

    assert pruner.prunes_at(1, scale=1.0)
    assert pruner.prunes_at(2, scale=1.0)
    keep = pruner.learned()["keep_ratios"]
    assert keep[2] < 1.0
    counts = [lengths]
    for layer in range(4):
        counts.append(pruner.num_kept(layer, torch.from_numpy(counts[-1])).numpy())
    assert projected_speedup(DEEP, np.stack(counts, axis=1)) == pytest.approx(1.6, rel=0.02)


@pytest.mark.parametrize(
    "config", [PYRAMID, DEEP, PYRAMID.replace(prune=None)], ids=["thresholds", "shares", "nothing"]
)
@pytest.mark.parametrize("exact", [False, True])
def test_only_an_exact_budget_is_met_and_only_by_shares(config, exact):
    model = toy_model(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    is_met = meet_budget(model, Budget(1.0, dense_flops=1.0, ramp=0.5, exact=exact), np.array([8, 12]))
    assert is_met == (exact and isinstance(model.pruner, RankBinsPruner))
    if not is_met:
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_counts_learn_towards_a_speedup_that_is_asked_for(tmp_path):
    model = toy_model(DEEP.replace(prune=RankCountsConfig()))
    config = TOP.replace(target_speedup=1.4)
    report = train_toy(model, tmp_path, config=config)
    _, soft = report.stages
    assert soft.kept["speedup"] == pytest.approx(1.4, rel=0.1)
    assert min(soft.pruner["kept_counts"]) < 16
    assert soft.pruner["kept_counts"] == sorted(soft.pruner["kept_counts"], reverse=True)


def test_counts_learn_from_their_penalty_where_none_is_asked_for(tmp_path):
    model = toy_model(DEEP.replace(prune=RankCountsConfig(penalty=0.01)))
    config = TOP.replace(target_speedup=None, epochs={"soft_prune": 6, "hard_prune": 1})
    soft, hard = train_toy(model, tmp_path, config=config).stages
    assert soft.validation[0]["speedup"] < soft.validation[-1]["speedup"]
    assert hard.pruner == soft.pruner


def test_a_schedule_is_chosen_before_training(tmp_path):
    model = toy_model(DEEP.replace(prune=CascadeConfig(whole_layers=1)))
    config = TOP.replace(target_speedup=1.3, epochs={"finetune": 1, "soft_prune": 3, "hard_prune": 1})
    finetune, hard = train_toy(model, tmp_path, config=config).stages
    assert (finetune.name, hard.name) == ("finetune", "hard_prune")
    assert hard.kept["speedup"] == pytest.approx(1.3, rel=0.1)
    assert finetune.kept["speedup"] == 1.0
    assert model.pruner.keep_ratios[-1] != pytest.approx(CascadeConfig().final_keep_ratio)


def test_a_schedule_refuses_a_speedup_beyond_its_reach(tmp_path):
    model = toy_model(DEEP.replace(prune=CascadeConfig()))
    with pytest.raises(
        ConfigError, match=r"is 4; with as few tokens as its settings can leave these texts reach 1\.\d\d "
    ):
        train_toy(model, tmp_path, config=TOP.replace(target_speedup=4.0))


def test_variables_stay_where_they_learn(tmp_path):
    model = toy_model(DEEP)
    train_toy(model, tmp_path, config=TOP.replace(epochs={"soft_prune": 2}, learning_rate_thresholds=2.0))
    pruner = trained_pruner(model)
    for parameter in (pruner.fine, pruner.coarse):
        assert float(parameter.detach().abs().max()) <= LARGEST
    assert float(pruner.fine.detach().min()) < LARGEST


def test_the_pruner_is_frozen_once_tokens_are_removed():
    hard = [stage for stage in stages_of(DEEP, FAST) if stage.masking == "hard"]
    assert hard
    assert all("thresholds" not in stage.trains for stage in hard)

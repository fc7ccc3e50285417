"""The multipliers of a budget rise while it is exceeded, and fall when there is room."""

import numpy as np
import pytest
import torch

from magic_pyramid.config import PruneConfig, RankBinsConfig
from magic_pyramid.cost import CostModel
from magic_pyramid.errors import ConfigError
from magic_pyramid.training import stages_of
from magic_pyramid.training.budget import Budget, budget_of, check_budget
from training_toy import FAST, PYRAMID, toy_model, train_toy

LENGTHS = np.array([8, 12])
DENSE = torch.tensor([100.0, 300.0])


def ascend(budget, flops, *, steps=10, progress=1.0):
    optimizer = torch.optim.SGD(budget.parameters(), lr=1.0, maximize=True)
    for _ in range(steps):
        optimizer.zero_grad()
        budget.penalty(flops, DENSE, progress=progress).backward()
        optimizer.step()
    return float(budget.linear.detach()), float(budget.quadratic.detach())


def budget(speedup=4.0, **settings):
    return Budget(speedup, **{"dense_flops": 200.0, "ramp": 0.5, **settings})


@pytest.mark.parametrize("exact", [False, True])
def test_both_multipliers_rise_while_too_much_is_spent(exact):
    linear, quadratic = ascend(budget(exact=exact), DENSE)
    assert linear == pytest.approx(10 * 0.75)
    assert quadratic == pytest.approx(10 * 0.75**2)


def test_the_penalty_pushes_towards_fewer_flops_once_multipliers_rose():
    asked = budget()
    ascend(asked, DENSE)
    flops = DENSE.clone().requires_grad_()
    asked.penalty(flops, DENSE, progress=1.0).backward()
    assert (flops.grad > 0).all()


def test_the_linear_multiplier_falls_where_there_is_room_and_stays_at_0():
    asked = budget()
    before, _ = ascend(asked, DENSE)
    after, _ = ascend(asked, 0.1 * DENSE, steps=3)
    assert after == pytest.approx(before - 3 * 0.15)
    ascend(asked, 0.1 * DENSE, steps=100)
    asked.penalty(DENSE, DENSE, progress=1.0)
    assert asked.linear.tolist() == 0.0


def test_only_an_exact_budget_pushes_back_a_model_that_is_too_cheap():
    gradients = {}
    for exact in (False, True):
        asked = budget(exact=exact)
        with torch.no_grad():
            asked.quadratic.fill_(2.0)
        flops = (0.1 * DENSE).requires_grad_()
        asked.penalty(flops, DENSE, progress=1.0).backward()
        gradients[exact] = flops.grad
    assert (gradients[False] == 0).all()
    assert (gradients[True] < 0).all()


def test_the_share_to_save_rises_linearly_to_the_end_of_the_ramp():
    asked = budget(speedup=5.0)
    assert [asked.share_at(progress) for progress in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(
        [0, 0.4, 0.8, 0.8]
    )
    assert budget(speedup=5.0, ramp=0.0).share_at(0.0) == pytest.approx(0.8)


def test_the_budget_is_one_of_means_over_texts():
    asked = budget(speedup=2.0, exact=True)
    with torch.no_grad():
        asked.linear.fill_(1.0)
    # 100 of 100 and 100 of 300: half of what the dense model spends on both.
    penalty = asked.penalty(torch.tensor([100.0, 100.0]), DENSE, progress=1.0)
    assert penalty.tolist() == pytest.approx(0.0)


def test_only_the_stage_that_learns_thresholds_has_a_budget():
    config = FAST.replace(target_speedup=1.5, budget_ramp=0.2, budget_exact=True)
    found = {stage.name: budget_of(stage, PYRAMID, config, LENGTHS) for stage in stages_of(PYRAMID, config)}
    asked = found.pop("soft_prune")
    assert asked is not None
    assert (asked.share, asked.ramp, asked.exact) == (pytest.approx(1 / 3), 0.2, True)
    assert asked.dense_flops == CostModel(PYRAMID).dense_flops(LENGTHS).mean()
    assert set(found.values()) == {None}


def test_a_budget_takes_the_place_of_the_penalty():
    weights = {
        speedup: stages_of(PYRAMID, FAST.replace(target_speedup=speedup))[1].penalty_weight
        for speedup in (None, 1.5)
    }
    assert weights == {None: PYRAMID.prune.penalty, 1.5: 0.0}


def test_training_reaches_the_speedup_that_is_asked_for(tmp_path):
    config = FAST.replace(
        epochs={"soft_prune": 30},
        target_speedup=1.4,
        learning_rate_budget=0.05,
        learning_rate_thresholds=2e-3,
        budget_exact=True,
    )
    events = []
    prune = PruneConfig(final_threshold=0.01, temperature=5e-3)
    model = toy_model(PYRAMID.replace(prune=prune))
    train_toy(model, tmp_path, config=config, on_event=events.append)
    reached = [event.speedup for event in events if event.kind == "step" and event.speedup]
    assert reached[0] < 1.1
    assert reached[-1] == pytest.approx(1.4, rel=0.15)


@pytest.mark.parametrize(
    ("train", "model", "message"),
    [
        ({"target_speedup": 0.5}, {}, r"train.target_speedup is 0.5; it must lie in \[1.0"),
        ({"target_speedup": 2}, {"prune": None}, "no stage of this training learns what to remove"),
        (
            {"target_speedup": 2},
            {"prune": PruneConfig(learn_thresholds=False)},
            "choose a preset that prunes, and give soft_prune some epochs",
        ),
        ({"target_speedup": 2, "epochs": {"finetune": 1}}, {}, "no stage of this training learns"),
        (
            {"target_speedup": 3.0, "reach_temperature": None},
            {},
            r"is 3; with as few tokens as its settings can leave these texts reach 2\.8",
        ),
        ({"target_speedup": 90}, {"exit": None}, r"is 90; with as few .* reach \d\.\d\d at most"),
        (
            {"target_speedup": 1.9},
            {"prune": RankBinsConfig(layers=(1,)), "exit": None},
            r"is 1\.9; .* reach 1\.\d\d at most; ask for less, or let earlier layers prune",
        ),
        ({}, {"prune": RankBinsConfig()}, "'rank_bins' learns to remove tokens only towards a speed-up"),
    ],
    ids=[
        "below 1",
        "no pruning",
        "fixed thresholds",
        "no stage",
        "without exits",
        "impossible",
        "late layers",
        "none given",
    ],
)
def test_an_impossible_speedup_is_refused_with_the_reason(train, model, message):
    with pytest.raises(ConfigError, match=message):
        check_budget(PYRAMID.replace(**model), FAST.replace(**train), LENGTHS)

"""What a stage minimises, what it leaves alone, and what the optimiser does with it."""

import pytest
import torch

from magic_pyramid.config import ExitConfig, ModelConfig, TrainConfig
from magic_pyramid.exiting.losses import distillation, exit_distillation, task_loss
from magic_pyramid.packing import pack_sequences
from magic_pyramid.training import Stage, stages_of
from magic_pyramid.training.batches import TrainBatch
from magic_pyramid.training.objective import GROUPS, StageObjective, optimizer_groups, targets_of
from magic_pyramid.training.teacher import Teacher
from training_toy import FAST, PYRAMID, toy_model

TOKENS = [[1, 5, 6, 7, 2], [1, 8, 2], [1, 9, 4, 2]]


def inputs(**changes) -> TrainBatch:
    values = {
        "batch": pack_sequences(TOKENS),
        "targets": torch.tensor([0, 1, 1]),
        "teacher": Teacher(
            logits=torch.tensor([[2.0, -1.0], [0.0, 1.0], [0.5, 0.0]]),
            ranking=torch.tensor([[2, 1, 3], [2, 1, -1], [1, 3, 2]]),
        ),
        "num_local": 3,
        "num_global": 3,
    }
    return TrainBatch(**{**values, **changes})


def stage(name: str, train: TrainConfig = FAST, config: ModelConfig = PYRAMID) -> Stage:
    return next(found for found in stages_of(config, train) if found.name == name)


def terms(objective: StageObjective) -> dict[str, torch.Tensor]:
    """The parts of the loss, computed one by one."""
    objective.eval()
    output = objective.model(inputs().batch, masking=objective.stage.masking, exits=True)
    targets, teacher = inputs().targets, inputs().teacher
    assert teacher is not None
    return {
        "label": task_loss(output.logits, targets, problem_type="single_label"),
        "teacher": distillation(output.logits, teacher.logits, temperature=2.0),
        "penalty": output.penalty.mean(),
        "exit label": task_loss(output.exit_logits[0], targets, problem_type="single_label"),
        "exit teacher": exit_distillation(
            output.exit_logits[0], output.logits, kl="forward", problem_type="single_label"
        ),
    }


def test_the_loss_is_the_weighted_sum_of_its_terms():
    train = FAST.replace(joint_exits=0.5, distill_weight=0.25)
    expected = {
        "finetune": {"label": 1.0, "exit label": 0.5},
        "soft_prune": {
            "label": 0.75,
            "teacher": 0.25,
            "penalty": PYRAMID.prune.penalty,
            "exit label": 0.25,
            "exit teacher": 0.25,
        },
        "hard_prune": {"label": 0.75, "teacher": 0.25, "exit label": 0.25, "exit teacher": 0.25},
        "distill_exits": {"exit teacher": 1.0},
    }
    for name, weights in expected.items():
        objective = StageObjective(toy_model(), stage(name, train), distill_temperature=2.0)
        parts = terms(objective)
        whole = sum(weight * parts[part] for part, weight in weights.items())
        torch.testing.assert_close(
            objective(inputs())["loss"], whole, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("name", ["finetune", "soft_prune", "hard_prune", "distill_exits"])
def test_exactly_what_a_stage_trains_receives_a_gradient(name):
    objective = StageObjective(toy_model(), stage(name))
    objective.train()(inputs())["loss"].backward()
    for group in GROUPS:
        learns = [p.grad is not None for p in objective.model.parameter_group(group)]
        assert set(learns) == {group in objective.stage.trains}, group


def test_the_frozen_backbone_and_teacher_run_without_dropout():
    objective = StageObjective(toy_model(), stage("distill_exits")).train()
    model = objective.model
    assert not any(module.training for module in model.layers.modules())
    assert not any(module.training for module in model.final_head.modules())
    assert all(module.training for module in model.exit_heads.modules())
    objective.eval()
    assert not any(module.training for module in objective.modules())


def test_a_learning_backbone_runs_with_dropout():
    assert all(
        module.training for module in StageObjective(toy_model(), stage("soft_prune")).train().modules()
    )


def test_a_frozen_backbone_builds_no_graph():
    objective = StageObjective(toy_model(), stage("distill_exits")).train()
    seen = []
    objective.model.final_head.register_forward_hook(
        lambda *arguments: seen.append(arguments[2].requires_grad)
    )
    objective(inputs())
    assert seen == [False]


def test_a_borrowed_sequence_counts_no_tokens():
    objective = StageObjective(toy_model(), stage("finetune"))
    assert objective(inputs())["kept_tokens"].tolist() == [12, 12]
    assert objective(inputs(num_local=0))["kept_tokens"].tolist() == [0, 0]


def test_the_reverse_direction_is_a_setting():
    config = PYRAMID.replace(exit=ExitConfig(head_size=8, kl="reverse"))
    objective = StageObjective(toy_model(config), stage("distill_exits", config=config)).eval()
    output = objective.model(inputs().batch, masking="hard", exits=True)
    expected = exit_distillation(
        output.exit_logits[0], output.logits, kl="reverse", problem_type="single_label"
    )
    torch.testing.assert_close(objective(inputs())["loss"], expected)


def test_targets_have_the_form_of_their_problem():
    assert targets_of([1, 0], PYRAMID).tolist() == [1, 0]
    multi = PYRAMID.replace(labels=("a", "b", "c"), problem_type="multi_label")
    assert targets_of([(0, 2), ()], multi).tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    patient = ExitConfig(criterion="patience", head_size=8)
    number = PYRAMID.replace(labels=("score",), problem_type="regression", exit=patient)
    assert targets_of([0.5, 2], number).tolist() == [0.5, 2.0]


def test_every_group_has_its_learning_rate_and_only_matrices_decay():
    objective = StageObjective(toy_model(), stage("soft_prune"))
    rates = {"backbone": 1.0, "final_head": 2.0, "exit_heads": 3.0, "thresholds": 4.0}
    groups = optimizer_groups(objective, learning_rates=rates, weight_decay=0.1, learning_rate_budget=9.0)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(found) == sum(p.requires_grad for p in objective.parameters())
    for group, rate in rates.items():
        for parameter in objective.model.parameter_group(group):
            decays = parameter.ndim >= 2 and group != "thresholds"
            assert found[id(parameter)] == (rate, 0.1 if decays else 0.0)

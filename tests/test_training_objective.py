"""What a stage minimises, what it leaves alone, and what the optimiser does with it."""

import pytest
import torch

from magic_pyramid.config import ExitConfig, ModelConfig, TrainConfig
from magic_pyramid.exiting.losses import distillation, exit_distillation, task_loss
from magic_pyramid.packing import pack_sequences
from magic_pyramid.presets import RECIPES
from magic_pyramid.pruning.ranking import rank_distillation
from magic_pyramid.training import Stage, stages_of
from magic_pyramid.training.batches import TrainBatch
from magic_pyramid.training.budget import Budget
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


DEEP = PYRAMID.replace(
    backbone=PYRAMID.backbone.replace(num_hidden_layers=4), prune=None, exit=ExitConfig(head="cls")
)
PLAIN = DEEP.replace(exit=None)


def by_hand(model) -> dict[int, torch.Tensor]:
    """Each head's cross-entropy against the labels, by depth from one, in plain arithmetic."""
    output = model.eval()(inputs().batch, exits=True)
    heads = {layer + 1: logits for layer, logits in output.exit_logits.items()} | {4: output.logits}
    rows, targets = torch.arange(3), inputs().targets
    return {
        depth: -(logits.exp() / logits.exp().sum(1, keepdim=True))[rows, targets].log().mean()
        for depth, logits in heads.items()
    }


def test_deebert_trains_the_encoder_first_and_then_its_exits_from_the_labels():
    train, model = RECIPES["deebert"], toy_model(DEEP)
    losses = by_hand(model)
    first, second = stages_of(DEEP, train)
    for row, expected in ((first, losses[4]), (second, losses[1] + losses[2] + losses[3])):
        objective = StageObjective(model, row).eval()
        torch.testing.assert_close(objective(inputs())["loss"], expected)
    objective.zero_grad()
    objective.train()(inputs())["loss"].backward()
    assert all(p.grad is None for name in ("backbone", "final_head") for p in model.parameter_group(name))
    assert all(p.grad is not None for p in model.parameter_group("exit_heads"))


def test_pabee_trains_all_heads_and_the_encoder_by_their_depth():
    model = toy_model(DEEP)
    losses = by_hand(model)
    (row,) = stages_of(DEEP, RECIPES["pabee"])
    objective = StageObjective(model, row).eval()
    expected = (1 * losses[1] + 2 * losses[2] + 3 * losses[3] + 4 * losses[4]) / (1 + 2 + 3 + 4)
    torch.testing.assert_close(objective(inputs())["loss"], expected)
    objective.train()(inputs())["loss"].backward()
    for group in ("backbone", "final_head", "exit_heads"):
        assert all(p.grad is not None for p in model.parameter_group(group)), group


def test_pabee_learns_numbers_too():
    config = DEEP.replace(
        problem_type="regression", labels=("score",), exit=ExitConfig(head="cls", criterion="patience")
    )
    model, targets = toy_model(config), torch.tensor([0.5, 2.0, 4.0])
    (row,) = stages_of(config, RECIPES["pabee"])
    objective = StageObjective(model, row).eval()
    output = model(inputs().batch, exits=True)
    errors = [
        ((logits[:, 0] - targets) ** 2).mean() for logits in (*output.exit_logits.values(), output.logits)
    ]
    expected = sum(depth * error for depth, error in enumerate(errors, start=1)) / 10
    torch.testing.assert_close(objective(inputs(targets=targets))["loss"], expected)


@pytest.mark.parametrize("layers", [(0, 2), (1,), None])
@pytest.mark.parametrize("joint", [1.0, 0.25])
def test_weights_by_the_depth_of_all_heads_add_up_to_one(layers, joint):
    config = DEEP.replace(exit=ExitConfig(head="cls", layers=layers))
    train = FAST.replace(exit_weights="depth_of_all", joint_exits=joint)
    objective = StageObjective(toy_model(config), stage("finetune", train, config))
    row = objective.stage
    shares = [row.exit_label_weight * objective._exit_share(layer) for layer in config.exit_layers]
    assert sum(shares) + row.label_weight == pytest.approx(1.0)
    for layer, share in zip(config.exit_layers, shares, strict=True):
        assert share / row.label_weight == pytest.approx(joint * (layer + 1) / 4)


def test_a_student_learns_from_labels_and_from_the_whole_encoder():
    train = FAST.replace(
        epochs={"distill_student": 1}, student_keeps="alternate", distill_weight=0.25, distill_temperature=2.0
    )
    model = toy_model(PLAIN)
    (row,) = stages_of(PLAIN, train)
    model.keep_layers(row.layers)
    objective = StageObjective(model, row, distill_temperature=2.0).eval()
    logits = model(inputs().batch).logits
    soft, hard = inputs().teacher.logits.div(2).softmax(1), logits.div(2).log_softmax(1)
    divergence = (soft * (soft.log() - hard)).sum(1).mean() * 2**2
    label = -logits.log_softmax(1)[torch.arange(3), inputs().targets].mean()
    torch.testing.assert_close(objective(inputs())["loss"], 0.75 * label + 0.25 * divergence)
    objective(inputs())["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())


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


BUDGET = FAST.replace(target_speedup=1.5, rank_weight=0.5)
DEEP = PYRAMID.replace(backbone=PYRAMID.backbone.replace(num_hidden_layers=4))


def budgeted(config: ModelConfig = DEEP, train: TrainConfig = BUDGET) -> StageObjective:
    budget = Budget(1.5, dense_flops=1e5, ramp=0.0)
    with torch.no_grad():
        budget.linear.fill_(0.7)
    return StageObjective(toy_model(config), stage("soft_prune", train, config), budget=budget).eval()


def test_a_budget_stage_adds_the_ranking_and_the_penalty():
    objective = budgeted()
    batch, teacher = inputs().batch, inputs().teacher
    assert teacher is not None
    output = objective.model(batch, masking="soft", exits=True)
    flops, dense = objective._flops(output, inputs())
    expected = 0.5 * task_loss(output.logits, inputs().targets, problem_type="single_label")
    expected += 0.5 * distillation(output.logits, teacher.logits, temperature=1.0)
    expected += 0.5 * rank_distillation(output.masses[0], batch, teacher.ranking)
    expected += objective.budget.penalty(flops, dense, progress=0.0)
    for logits in output.exit_logits.values():
        by_label = task_loss(logits, inputs().targets, problem_type="single_label")
        by_final = exit_distillation(
            logits, output.logits.detach(), kl="forward", problem_type="single_label"
        )
        expected += (0.5 * by_label + 0.5 * by_final) / 3
    torch.testing.assert_close(objective(inputs())["loss"], expected)


def reach_of(config: ModelConfig, train: TrainConfig = BUDGET) -> torch.Tensor | None:
    objective = budgeted(config, train)
    asked = objective.stage.asks_exits
    return objective._reach(objective.model(inputs().batch, masking="soft", exits=asked))


def test_fewer_texts_reach_a_layer_the_easier_they_leave():
    certain = reach_of(DEEP.replace(exit=ExitConfig(head_size=8, threshold=1.0)), BUDGET)
    unlikely = reach_of(DEEP.replace(exit=ExitConfig(head_size=8, threshold=0.0)), BUDGET)
    assert certain is not None
    assert unlikely is not None
    assert certain.shape == (3, 4)
    assert (certain[:, 0] == 1).all()
    assert (certain.diff(dim=1) < 0).all()
    assert (certain[:, 1:] < unlikely[:, 1:]).all()


@pytest.mark.parametrize(
    ("exits", "train"),
    [
        (None, BUDGET),
        (ExitConfig(head_size=8, threshold=None), BUDGET),
        (ExitConfig(head_size=8, criterion="patience"), BUDGET),
        (ExitConfig(head_size=8), BUDGET.replace(reach_temperature=None)),
        (ExitConfig(head_size=8), BUDGET.replace(joint_exits=0.0)),
    ],
    ids=["no exits", "exits off", "patience", "not asked for", "heads learn later"],
)
def test_where_nobody_leaves_every_layer_counts(exits, train):
    assert reach_of(DEEP.replace(exit=exits), train) is None


def test_exits_do_not_learn_to_be_sure_because_that_is_cheap():
    objective = budgeted()
    output = objective.model(inputs().batch, masking="soft", exits=True)
    flops, dense = objective._flops(output, inputs())
    objective.budget.penalty(flops, dense, progress=1.0).backward()
    assert all(p.grad is None for p in objective.model.parameter_group("exit_heads"))
    assert objective.model.pruner.delta.grad is not None


def test_the_multipliers_ascend_with_a_rate_of_their_own():
    groups = optimizer_groups(
        budgeted(),
        learning_rates=dict.fromkeys(GROUPS, 1.0),
        weight_decay=0.1,
        learning_rate_budget=9.0,
    )
    found = [
        (group["lr"], group["weight_decay"], len(group["params"])) for group in groups if "maximize" in group
    ]
    assert found == [(9.0, 0.0, 2)]

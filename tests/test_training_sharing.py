"""Methods share a stage exactly when it is the same computation, and sharing changes no bit."""

import json

import pytest
import torch

from magic_pyramid.checkpoint import with_config
from magic_pyramid.config import CascadeConfig, ExitConfig, TrainConfig
from magic_pyramid.training.record import StageReport
from magic_pyramid.training.sharing import SharedStages, groups_read, key_of, stage_facts
from magic_pyramid.training.stages import stages_of
from training_toy import FAST, PYRAMID, toy_data, toy_model, train_toy, weights

APART = FAST.replace(joint_exits=0.0)
DENSE = PYRAMID.replace(prune=None, exit=None)
PRUNING = PYRAMID.replace(exit=None)


def train_method(config, output, *, train=APART, **options):
    """A method's model, begun from the one encoder, and what happened to its stages."""
    events = []
    model = with_config(toy_model(DENSE), config, seed=train.seed).model
    report = train_toy(model, output, config=train, on_event=events.append, **options)
    taken = [event.stage for event in events if event.kind == "stage_skipped"]
    return weights(model), report, taken


def without_seconds(report):
    stages = json.loads(json.dumps(report.to_dict()["stages"]))
    return [{**stage, "seconds": None} for stage in stages]


def test_what_is_shared_is_bit_for_bit_what_would_have_been_trained(tmp_path):
    shared = tmp_path / "shared"
    _, _, taken = train_method(PRUNING, tmp_path / "ltp", shared=shared)
    assert taken == []
    alone, alone_report, _ = train_method(PYRAMID, tmp_path / "alone")
    ours, report, taken = train_method(PYRAMID, tmp_path / "ours", shared=shared)
    assert taken == ["finetune", "soft_prune", "hard_prune"]
    assert ours.keys() == alone.keys()
    assert all(torch.equal(ours[name], alone[name]) for name in alone)
    assert without_seconds(report) == without_seconds(alone_report)


def test_one_fine_tuning_serves_methods_of_every_kind(tmp_path):
    shared = tmp_path / "shared"
    exits = PYRAMID.replace(prune=None)
    found = {
        name: train_method(config, tmp_path / name, shared=shared)[2]
        for name, config in (("dense", DENSE), ("pruning", PRUNING), ("exits", exits))
    }
    assert found == {"dense": [], "pruning": ["finetune"], "exits": ["finetune"]}


def test_a_taken_stage_reports_the_own_pruner(tmp_path):
    train_method(DENSE, tmp_path / "dense", shared=tmp_path / "shared")
    _, report, _ = train_method(PRUNING, tmp_path / "pruning", shared=tmp_path / "shared")
    assert report.stages[0].pruner is not None


def test_other_rows_share_nothing(tmp_path):
    train_method(DENSE, tmp_path / "dense", shared=tmp_path / "shared")
    _, _, taken = train_method(
        PRUNING, tmp_path / "other", shared=tmp_path / "shared", data=toy_data(train=40)
    )
    assert taken == []


def test_an_interrupted_method_goes_on_with_what_others_finished_meanwhile(tmp_path):
    class KilledError(Exception):
        pass

    def kill(event):
        if event.kind == "step" and event.step == 3:
            raise KilledError

    model = with_config(toy_model(DENSE), PRUNING, seed=0).model
    with pytest.raises(KilledError):
        train_toy(model, tmp_path / "ltp", config=APART, on_event=kill, shared=tmp_path / "shared")
    train_method(DENSE, tmp_path / "dense", shared=tmp_path / "shared")
    _, _, taken = train_method(PRUNING, tmp_path / "ltp", shared=tmp_path / "shared", resume=True)
    assert taken == ["finetune"]
    assert not (tmp_path / "ltp" / ".training" / "finetune.running").exists()


def facts(model=PYRAMID, train=APART, *, stage="finetune"):
    (row,) = [row for row in stages_of(model, train) if row.name == stage]
    return stage_facts(row, model, train)


LATER = {
    "distill_weight": 0.9, "exit_teacher": "labels", "target_speedup": 2.0,
    "budget_exact": True, "budget_ramp": 0.1, "reach_temperature": 0.3, "learning_rate_budget": 0.3,
    "rank_weight": 0.2, "rank_floor": 0.3, "rank_top_k": 7, "distill_temperature": 4.0, "max_drop": 2.0,
    "learning_rate_thresholds": 0.5, "learning_rate_exits": 0.5, "exit_weights": "depth_of_all",
    "learning_rate_pruning": 1e-6,
    "epochs": {**APART.epochs, "hard_prune": 7.0}, "min_steps": 9, "validation_share": 0.3,
}  # fmt: skip
EARLIER = {
    "epochs": {"finetune": 2.0}, "learning_rate": 1e-4, "learning_rate_final_head": 1e-4, "warmup": 0.3,
    "tokens_per_batch": 64, "max_sequences_per_batch": 4, "gradient_accumulation": 2, "weight_decay": 0.1,
    "max_grad_norm": 0.5, "precision": "bf16", "seed": 1, "joint_exits": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("name", LATER)
def test_what_only_later_stages_read_does_not_keep_a_fine_tuning_apart(name):
    assert facts(train=APART.replace(**{name: LATER[name]})) == facts()


@pytest.mark.parametrize("name", EARLIER)
def test_what_fine_tuning_reads_keeps_it_apart(name):
    assert facts(train=APART.replace(**{name: EARLIER[name]})) != facts()


def test_every_training_setting_is_on_one_of_the_two_sides():
    # Dropout reaches the training through the model; tests below have the students and exits that wait.
    elsewhere = {"dropout", "joint_from", "student_keeps", "student_layers"}
    assert set(LATER) | set(EARLIER) | elsewhere == set(TrainConfig().to_dict())


def test_a_student_shares_the_fine_tuning_of_its_teacher_and_not_one_that_is_cut_before():
    late = APART.replace(
        student_keeps="alternate", student_layers=1, epochs={**APART.epochs, "distill_student": 1.0}
    )
    cut = APART.replace(student_keeps="alternate", student_layers=1)
    assert facts(DENSE, late) == facts(DENSE)
    assert facts(DENSE, cut) != facts(DENSE)


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"prune": None}, True),
        ({"exit": None}, True),
        ({"exit": ExitConfig(head="cls")}, True),
        ({"max_length": 16}, False),
        ({"final_head": "fastbert"}, False),
        ({"labels": ("a", "b")}, False),
        ({"backbone": PYRAMID.backbone.replace(hidden_dropout=0.2)}, False),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_parts_that_do_not_take_part_do_not_keep_a_fine_tuning_apart(changes, is_same):
    assert (facts(PYRAMID.replace(**changes)) == facts()) == is_same


def test_exits_that_learn_with_the_backbone_must_be_the_same():
    joint = FAST.replace(joint_exits=1.0)
    cls = PYRAMID.replace(exit=ExitConfig(head="cls"))
    assert facts(train=joint) == facts(PYRAMID.replace(prune=None), joint)
    assert facts(train=joint) != facts(cls, joint)
    assert facts(train=joint) != facts(PRUNING, joint)
    assert facts(train=joint) != facts(train=joint.replace(exit_weights="depth_of_all"))


def test_exits_that_wait_leave_the_fine_tuning_to_everybody():
    late = FAST.replace(joint_exits=1.0, joint_from="soft_prune")
    assert facts(train=late) == facts() != facts(train=late.replace(joint_from="finetune"))


def test_pruning_stages_read_the_pruner_and_a_budget_reads_the_exits():
    soft = {"stage": "soft_prune"}
    penalised = PYRAMID.replace(prune=PYRAMID.prune.replace(penalty=0.5))
    assert facts(**soft) != facts(penalised, **soft)
    assert facts(**soft) == facts(PRUNING, **soft)
    budget = APART.replace(target_speedup=2.0)
    assert facts(train=budget, **soft) != facts(PRUNING, budget, **soft)


def test_schedules_that_were_set_to_other_speedups_share_no_stage_that_removes_tokens():
    model = PYRAMID.replace(prune=CascadeConfig(), exit=None)
    slower, faster = (APART.replace(target_speedup=target) for target in (1.2, 1.4))
    assert facts(model, slower, stage="hard_prune") != facts(model, faster, stage="hard_prune")
    assert facts(model, slower) == facts(model, faster)


def test_the_weights_that_count_are_those_that_run():
    rows = {stage.name: groups_read(stage) for stage in stages_of(PYRAMID, APART)}
    assert rows["finetune"] == ("backbone", "final_head")
    assert rows["hard_prune"] == ("backbone", "final_head", "thresholds")
    assert rows["distill_exits"] == ("backbone", "final_head", "thresholds", "exit_heads")


def test_a_half_written_stage_is_not_found(tmp_path):
    store = SharedStages(folder=tmp_path)
    (tmp_path / "abc.partial").mkdir()
    assert store.find("abc") is None
    report = StageReport(
        name="finetune", seconds=1.0, num_steps=1, losses=(), validation=(), kept=None, pruner=None
    )
    store.keep("abc", report, {"weight": torch.ones(2)})
    found, learned = store.find("abc")
    assert found == report
    assert torch.equal(learned["weight"], torch.ones(2))
    assert not (tmp_path / "abc.partial").exists()


def test_a_key_does_not_depend_on_the_order():
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1}) != key_of({"a": 1, "b": [3]})

"""Stages hand on the right weights, an interrupted training goes on, and a foreign one is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from magic_pyramid.config import ExitConfig
from magic_pyramid.errors import ConfigError, InputError
from magic_pyramid.training import TrainEvent
from training_toy import BACKBONE, FAST, PYRAMID, toy_data, toy_model, train_toy, weights

SEVERAL = FAST.replace(
    epochs={"finetune": 2, "soft_prune": 1.5, "hard_prune": 1, "distill_exits": 2}, gradient_accumulation=2
)


class KilledError(Exception):
    pass


def kill_at(stage: str, step: int):
    def watch(event: TrainEvent) -> None:
        if event.kind == "step" and (event.stage, event.step) == (stage, step):
            raise KilledError

    return watch


def assert_same_weights(left, right):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    model = toy_model()
    report = train_toy(model, tmp_path_factory.mktemp("whole"), config=SEVERAL)
    return weights(model), report


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9], ids=["in the stage", "between stages"])
@pytest.mark.parametrize("stage", SEVERAL.epochs)
def test_an_interrupted_training_ends_as_if_nothing_had_happened(
    tmp_path, uninterrupted, stage, checkpoint_seconds
):
    with pytest.raises(KilledError):
        train_toy(
            toy_model(),
            tmp_path,
            config=SEVERAL,
            on_event=kill_at(stage, 3),
            checkpoint_seconds=checkpoint_seconds,
        )
    model, events = toy_model(), []
    report = train_toy(model, tmp_path, config=SEVERAL, resume=True, on_event=events.append)
    assert_same_weights(weights(model), uninterrupted[0])
    skipped = [event.stage for event in events if event.kind == "stage_skipped"]
    assert skipped == list(SEVERAL.epochs)[: list(SEVERAL.epochs).index(stage)]
    first = next(event for event in events if event.kind == "stage_started")
    assert (first.stage, first.step) == (stage, 2 if checkpoint_seconds == 0 else 0)
    for ours, whole in zip(report.stages, uninterrupted[1].stages, strict=True):
        assert (ours.kept["step"], ours.kept["loss"]) == (
            whole.kept["step"],
            pytest.approx(whole.kept["loss"]),
        )
        assert [entry["step"] for entry in ours.losses] == [entry["step"] for entry in whole.losses]


def test_an_interrupted_budget_goes_on_with_its_multipliers(tmp_path):
    config = SEVERAL.replace(target_speedup=1.5, rank_weight=0.5, rank_top_k=4, learning_rate_budget=0.5)
    whole, stopped = toy_model(), toy_model()
    events = []
    train_toy(whole, tmp_path / "whole", config=config, on_event=events.append)
    with pytest.raises(KilledError):
        train_toy(
            stopped,
            tmp_path / "stopped",
            config=config,
            on_event=kill_at("soft_prune", 3),
            checkpoint_seconds=0.0,
        )
    resumed = toy_model()
    train_toy(resumed, tmp_path / "stopped", config=config, resume=True)
    assert_same_weights(weights(resumed), weights(whole))
    expected = {event.stage: event.speedup for event in events if event.kind == "step"}
    assert expected["soft_prune"] > 0
    assert expected["hard_prune"] is None


def test_a_checkpoint_that_was_cut_short_is_ignored(tmp_path, uninterrupted):
    with pytest.raises(KilledError):
        train_toy(
            toy_model(), tmp_path, config=SEVERAL, on_event=kill_at("finetune", 3), checkpoint_seconds=0.0
        )
    (tmp_path / ".training" / "finetune.running" / "checkpoint-99").mkdir()
    model = toy_model()
    train_toy(model, tmp_path, config=SEVERAL, resume=True)
    assert_same_weights(weights(model), uninterrupted[0])


def test_the_teacher_is_asked_again_where_its_answers_were_lost(tmp_path, uninterrupted):
    with pytest.raises(KilledError):
        train_toy(toy_model(), tmp_path, config=SEVERAL, on_event=kill_at("hard_prune", 1))
    (tmp_path / ".training" / "teacher.safetensors").unlink()
    model = toy_model()
    train_toy(model, tmp_path, config=SEVERAL, resume=True)
    assert_same_weights(weights(model), uninterrupted[0])


def test_a_finished_training_is_not_repeated(tmp_path, uninterrupted):
    first = train_toy(toy_model(), tmp_path, config=SEVERAL)
    model, events = toy_model(seed=5), []
    model.load_state_dict(toy_model().state_dict())
    again = train_toy(model, tmp_path, config=SEVERAL, resume=True, on_event=events.append)
    assert {event.kind for event in events} == {"stage_skipped"}
    assert_same_weights(weights(model), uninterrupted[0])
    assert json.loads(json.dumps(again.to_dict())) == json.loads(json.dumps(first.to_dict()))


def test_resuming_without_an_earlier_run_starts_one(tmp_path):
    report = train_toy(toy_model(), tmp_path, config=FAST.replace(epochs={"finetune": 1}), resume=True)
    assert [stage.name for stage in report.stages] == ["finetune"]


def test_an_earlier_training_is_not_overwritten(tmp_path):
    config = FAST.replace(epochs={"finetune": 1})
    train_toy(toy_model(), tmp_path, config=config)
    with pytest.raises(ConfigError, match=r"holds an earlier training; add --resume to go on"):
        train_toy(toy_model(), tmp_path, config=config)


def test_an_empty_work_folder_is_no_earlier_training(tmp_path):
    (tmp_path / ".training").mkdir()
    train_toy(toy_model(), tmp_path, config=FAST.replace(epochs={"finetune": 1}))


def test_a_work_folder_without_its_plan_goes_on(tmp_path):
    config = FAST.replace(epochs={"finetune": 1})
    (tmp_path / ".training" / "finetune.running").mkdir(parents=True)
    train_toy(toy_model(), tmp_path, config=config, resume=True)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"config": FAST.replace(epochs={"finetune": 1}, seed=7)}, r"train\.seed was 0 and is now 7"),
        ({"data": toy_data(train=50)}, r"data\.train was '[0-9a-f]{16}' and is now"),
        ({"model": toy_model(PYRAMID.replace(max_length=16))}, r"model\.max_length was 32 and is now 16"),
        ({"model": toy_model(seed=3)}, r"encoder weights was"),
    ],
    ids=["config", "data", "model", "weights"],
)
def test_resuming_another_plan_is_refused_and_the_difference_named(tmp_path, changes, named):
    config = FAST.replace(epochs={"finetune": 1})
    train_toy(toy_model(), tmp_path, config=config)
    values = {"model": toy_model(), "config": config, **changes}
    with pytest.raises(ConfigError, match=named):
        train_toy(values.pop("model"), tmp_path, resume=True, **values)


def test_a_stage_starts_from_what_the_one_before_left(tmp_path, uninterrupted):
    train_toy(toy_model(), tmp_path, config=SEVERAL)
    shutil.rmtree(tmp_path / ".training" / "distill_exits")
    model = toy_model()
    train_toy(model, tmp_path, config=SEVERAL, resume=True)
    assert_same_weights(weights(model), uninterrupted[0])


def test_a_stage_leaves_only_its_result_behind(tmp_path):
    train_toy(toy_model(), tmp_path, config=FAST)
    found = {
        path.relative_to(tmp_path / ".training").as_posix() for path in tmp_path.rglob("*") if path.is_file()
    }
    expected = {f"{stage}/{name}" for stage in FAST.epochs for name in ("metrics.json", "model.safetensors")}
    assert found == {"plan.json", "teacher.safetensors", *expected}


def test_soft_prune_keeps_its_last_weights_and_the_others_their_best(tmp_path):
    report = train_toy(toy_model(), tmp_path, config=SEVERAL)
    for stage in report.stages:
        scores = [(entry["score"], -entry["loss"]) for entry in stage.validation]
        best = len(scores) - 1 if stage.name == "soft_prune" else scores.index(max(scores))
        assert stage.kept == stage.validation[best]


def test_without_validation_the_last_weights_are_kept(tmp_path):
    report = train_toy(toy_model(), tmp_path, data=toy_data(validation=0))
    assert [(stage.kept, stage.validation) for stage in report.stages] == [(None, ())] * 4
    assert report.stages[0].kept_tokens is None


def test_the_report_says_what_each_stage_did(tmp_path):
    report = train_toy(toy_model(), tmp_path, config=SEVERAL)
    finetune, soft, hard, exits = report.stages
    assert finetune.kept_tokens == [finetune.kept["kept_tokens"][0]] * BACKBONE.num_hidden_layers
    assert soft.pruner != finetune.pruner
    assert hard.pruner == soft.pruner == exits.pruner
    assert hard.kept["gflops"] <= finetune.kept["gflops"]
    assert set(exits.kept["exit_quality"]) == {"0"}
    assert all(entry["loss"] > 0 for stage in report.stages for entry in stage.losses)
    assert report.seconds == pytest.approx(sum(stage.seconds for stage in report.stages))
    assert json.loads(json.dumps(report.to_dict()))["stages"][1]["name"] == "soft_prune"


def test_training_twice_with_one_seed_gives_the_same_weights(tmp_path, uninterrupted):
    model = toy_model()
    train_toy(model, tmp_path, config=SEVERAL)
    assert_same_weights(weights(model), uninterrupted[0])


def test_every_parameter_can_learn_again_afterwards(tmp_path):
    model = toy_model()
    train_toy(model, tmp_path)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_data_without_training_rows_are_refused(tmp_path):
    with pytest.raises(InputError, match="toy has no training rows; give a train split"):
        train_toy(toy_model(), tmp_path, data=toy_data(train=0))


def test_half_precision_needs_a_gpu(tmp_path):
    with pytest.raises(ConfigError, match="fp16', which needs a GPU; use 'bf16' or 'fp32'"):
        train_toy(toy_model(), tmp_path, config=FAST.replace(precision="fp16"))


@pytest.mark.parametrize("problem_type", ["multi_label", "regression"])
def test_other_problems_run_all_stages(tmp_path, problem_type):
    labels = ("a", "b", "c") if problem_type == "multi_label" else ("score",)
    label = {"multi_label": lambda row: (0, 2)[: row + 1], "regression": float}[problem_type]
    data = toy_data()
    for split in data.splits.values():
        for row in split:
            object.__setattr__(row, "label", label(row.label))
    exits = ExitConfig(head_size=8, criterion="patience" if problem_type == "regression" else "entropy")
    config = PYRAMID.replace(labels=labels, problem_type=problem_type, exit=exits)
    report = train_toy(toy_model(config), tmp_path, data=data)
    assert [stage.name for stage in report.stages] == list(FAST.epochs)
    assert all(0 <= stage.kept["score"] <= 1 or problem_type == "regression" for stage in report.stages)


def test_the_work_folder_holds_no_pickle_that_is_not_the_optimiser(tmp_path):
    with pytest.raises(KilledError):
        train_toy(toy_model(), tmp_path, on_event=kill_at("finetune", 3), checkpoint_seconds=0.0)
    checkpoint = next((tmp_path / ".training" / "finetune.running").glob("checkpoint-*"))
    assert {path.name for path in Path(checkpoint).iterdir()} == {
        "complete.json",
        "model.safetensors",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "trainer_state.json",
    }

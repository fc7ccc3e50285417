"""Students: which layers they keep, when the others go, and whom they learn from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tiny
from magic_pyramid.config import ExitConfig, PruneConfig, TrainConfig
from magic_pyramid.cost import CostModel
from magic_pyramid.errors import ConfigError
from magic_pyramid.packing import pack_sequences
from magic_pyramid.training import TrainEvent, stages_of
from magic_pyramid.training.student import chosen_layers, kept_layers, meet_by_depth
from training_toy import BACKBONE, FAST, PYRAMID, LetterEncoder, toy_data, toy_model, train_toy, weights

DEEP = PYRAMID.replace(backbone=BACKBONE.replace(num_hidden_layers=5), prune=None, exit=None)
DISTILLED = FAST.replace(epochs={"finetune": 1, "distill_student": 2}, student_keeps="alternate")
TRUNCATED = FAST.replace(epochs={"finetune": 1}, student_keeps="first")
LENGTHS = np.array([5, 9, 20])


class StoppedError(Exception):
    pass


def stop_at(stage: str, step: int = 0):
    def watch(event: TrainEvent) -> None:
        is_there = event.kind == "stage_started" if step == 0 else event.kind == "step" and event.step == step
        if event.stage == stage and is_there:
            raise StoppedError

    return watch


def layer_weights(model: dict[str, torch.Tensor], layer: int) -> dict[str, torch.Tensor]:
    start = f"layers.{layer}."
    return {name.removeprefix(start): value for name, value in model.items() if name.startswith(start)}


def assert_taken(student: dict[str, torch.Tensor], whole: dict[str, torch.Tensor], layers: list[int]):
    """Bit by bit: the layers are these of the whole, and what is beside the layers is the same."""
    assert {name.split(".")[1] for name in student if name.startswith("layers.")} == set(
        map(str, range(len(layers)))
    )
    for ours, theirs in enumerate(layers):
        expected = layer_weights(whole, theirs)
        for name, value in layer_weights(student, ours).items():
            assert torch.equal(value, expected[name]), f"layer {theirs}: {name}"
    for name, value in student.items():
        assert name.startswith("layers.") or torch.equal(value, whole[name]), name


@pytest.mark.parametrize(
    ("num_layers", "count", "first", "alternate"),
    [
        (12, 6, (0, 1, 2, 3, 4, 5), (0, 2, 4, 7, 9, 11)),
        (12, 3, (0, 1, 2), (0, 6, 11)),
        (5, 3, (0, 1, 2), (0, 2, 4)),
        (4, 4, (0, 1, 2, 3), (0, 1, 2, 3)),
        (6, 1, (0,), (0,)),
    ],
)
def test_a_student_keeps_the_first_layers_or_evenly_spaced_ones(num_layers, count, first, alternate):
    assert chosen_layers(num_layers, count, keeps="first") == first
    assert chosen_layers(num_layers, count, keeps="alternate") == alternate


@pytest.mark.parametrize("num_layers", range(1, 25))
def test_evenly_spaced_layers_are_different_ones(num_layers):
    for count in range(1, num_layers + 1):
        chosen = chosen_layers(num_layers, count, keeps="alternate")
        assert len(set(chosen)) == count
        assert sorted(chosen) == list(chosen)
        assert count == 1 or (chosen[0], chosen[-1]) == (0, num_layers - 1)


def test_half_of_the_layers_are_kept_unless_a_number_is_given():
    assert kept_layers(DEEP, TRUNCATED) == (0, 1, 2)
    assert kept_layers(DEEP, TRUNCATED.replace(student_layers=1)) == (0,)
    assert kept_layers(DEEP, FAST) is None


@pytest.mark.parametrize("count", [0, 6])
def test_more_layers_than_there_are_cannot_be_kept(count):
    with pytest.raises(ConfigError, match=f"student_layers is {count}; this encoder has 1 to 5 to keep"):
        kept_layers(DEEP, TRUNCATED.replace(student_layers=count))


@pytest.mark.parametrize("part", [{"prune": PruneConfig()}, {"exit": ExitConfig(head_size=8)}])
def test_a_student_that_prunes_or_exits_is_trained_in_two_steps(part):
    with pytest.raises(ConfigError, match="train the student first, and then give its folder as the model"):
        kept_layers(DEEP.replace(**part), TRUNCATED)


def test_layers_go_before_the_stage_that_trains_the_student():
    def plan(train):
        return [(stage.name, stage.layers) for stage in stages_of(DEEP, train)]

    assert plan(TRUNCATED) == [("finetune", (0, 1, 2))]
    assert plan(DISTILLED) == [("finetune", None), ("distill_student", (0, 2, 4))]
    assert plan(DISTILLED.replace(epochs={"distill_student": 1})) == [("distill_student", (0, 2, 4))]
    assert plan(FAST.replace(epochs={"finetune": 1, "distill_student": 1})) == [("finetune", None)]


def test_a_student_that_no_stage_makes_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="neither finetune nor distill_student has epochs"):
        train_toy(toy_model(DEEP), tmp_path, config=TRUNCATED.replace(epochs={}))


def test_a_truncated_model_begins_as_the_first_layers_of_the_encoder(tmp_path):
    model = toy_model(DEEP)
    whole = weights(model)
    with pytest.raises(StoppedError):
        train_toy(model, tmp_path, config=TRUNCATED, on_event=stop_at("finetune"))
    assert_taken(weights(model), whole, [0, 1, 2])
    assert model.config == DEEP.replace(backbone=DEEP.backbone.replace(num_hidden_layers=3))


def test_a_distilled_model_begins_as_alternate_layers_of_the_fine_tuned_teacher(tmp_path):
    model = toy_model(DEEP)
    fresh = weights(model)
    with pytest.raises(StoppedError):
        train_toy(model, tmp_path, config=DISTILLED, on_event=stop_at("distill_student"))
    teacher = load_file(tmp_path / ".training/finetune/model.safetensors")
    assert_taken(weights(model), teacher, [0, 2, 4])
    assert not torch.equal(
        teacher["layers.0.attention.output.weight"], fresh["layers.0.attention.output.weight"]
    )


def teacher_of(folder: Path) -> torch.Tensor:
    return load_file(folder / ".training/teacher.safetensors")["logits"]


def answers(model) -> torch.Tensor:
    encoded = LetterEncoder().encode([row.text for row in toy_data().splits["train"]], max_length=32)
    with torch.no_grad():
        return model.eval()(pack_sequences(encoded.token_ids)).logits


@pytest.mark.parametrize("epochs", [{"finetune": 1, "distill_student": 1}, {"distill_student": 1}])
def test_the_teacher_is_the_whole_fine_tuned_encoder(tmp_path, epochs):
    """Without fine-tuning it is the model that came."""
    teacher = toy_model(DEEP)
    train_toy(toy_model(DEEP), tmp_path, config=DISTILLED.replace(epochs=epochs))
    if "finetune" in epochs:
        teacher.load_state_dict(load_file(tmp_path / ".training/finetune/model.safetensors"))
    torch.testing.assert_close(teacher_of(tmp_path), answers(teacher), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9], ids=["in the stage", "between stages"])
def test_an_interrupted_student_ends_as_if_nothing_had_happened(tmp_path, checkpoint_seconds):
    whole, again = toy_model(DEEP), toy_model(DEEP)
    train_toy(whole, tmp_path / "whole", config=DISTILLED)
    options = {"config": DISTILLED, "checkpoint_seconds": checkpoint_seconds}
    with pytest.raises(StoppedError):
        train_toy(toy_model(DEEP), tmp_path / "cut", on_event=stop_at("distill_student", 3), **options)
    train_toy(again, tmp_path / "cut", resume=True, **options)
    assert len(again.layers) == 3
    for name, value in weights(again).items():
        torch.testing.assert_close(value, weights(whole)[name], rtol=1e-5, atol=1e-6)
    finished = toy_model(DEEP)
    train_toy(finished, tmp_path / "cut", resume=True, **options)
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(finished).items())


@pytest.mark.parametrize("asked", [1.0, 1.3, 1.9, 2.4, 4.9])
def test_a_speedup_is_met_with_the_most_layers_that_reach_it(asked):
    deep = DEEP.replace(backbone=DEEP.backbone.replace(num_hidden_layers=12))
    found = meet_by_depth(TRUNCATED.replace(target_speedup=asked), deep, LENGTHS)
    assert found.target_speedup is None

    def speedup(count):
        cut = deep.replace(backbone=deep.backbone.replace(num_hidden_layers=count))
        whole, part = CostModel(deep).dense_flops(LENGTHS), CostModel(cut).dense_flops(LENGTHS)
        return float(whole.mean() / part.mean())

    assert found.student_layers == max(count for count in range(1, 13) if speedup(count) >= asked)


def test_a_speedup_of_other_methods_is_left_alone():
    asked = TrainConfig(target_speedup=3.0)
    assert meet_by_depth(asked, DEEP, LENGTHS) is asked
    assert meet_by_depth(TRUNCATED, DEEP, LENGTHS) is TRUNCATED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_speedup": 50.0}, r"a student of one layer reaches 5\.0; ask for less"),
        ({"target_speedup": 2.0, "student_layers": 2}, "both decide how deep the student is; give one"),
    ],
)
def test_impossible_depths_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        meet_by_depth(TRUNCATED.replace(**changes), DEEP, LENGTHS)


def test_cutting_keeps_answers_of_the_layers_that_stay():
    """The last layer of three is cut: the answer is the final head's on the second layer's states."""
    model = tiny.build(tiny.PLAIN)
    batch = tiny.packed(7, 3)
    with torch.no_grad():
        state = model.begin(batch)
        for layer in (0, 1):
            state = model.keep_all(state, layer)
        expected = model.final_head(state.hidden_states, state.batch)
        model.keep_layers((0, 1))
        torch.testing.assert_close(model(batch).logits, expected)

"""The loop: accumulation, precision, clipping, schedules, and what a stage may not change."""

import logging

import pytest
import torch
import transformers

from magic_pyramid.config import PruneConfig, RankBinsConfig
from magic_pyramid.errors import ConfigError
from magic_pyramid.pruning.rank_bins import LARGEST
from magic_pyramid.training import stages_of
from magic_pyramid.training.batches import TrainRows
from magic_pyramid.training.objective import GROUPS, StageObjective, targets_of
from magic_pyramid.training.processes import Processes
from magic_pyramid.training.teacher import Teacher
from magic_pyramid.training.trainer import StageTrainer, Surroundings, rank
from training_toy import FAST, STILL, LetterEncoder, toy_data, toy_model, train_toy, weights


def trainer_of(folder, *, stage="soft_prune", config=FAST, model=None, rows=16, on_event=lambda event: None):
    model = model or toy_model(STILL)
    examples = toy_data(train=rows).splits["train"]
    encoded = LetterEncoder().encode([example.inputs for example in examples], max_length=32)
    chosen = next(found for found in stages_of(model.config, config) if found.name == stage)
    return StageTrainer(
        StageObjective(model, chosen),
        rows=TrainRows(
            encoded,
            targets_of([example.label for example in examples], model.config),
            Teacher(logits=torch.zeros(rows, 2), ranking=torch.ones(rows, 1).long()),
        ),
        config=config,
        seed=0,
        around=Surroundings(
            folder=folder,
            processes=Processes(),
            on_event=on_event,
            validation=None,
            checkpoint_seconds=1e9,
        ),
    )


def changed(before, after, names):
    return [name for name in names if not torch.equal(before[name], after[name])]


def group_names(model, group):
    own = {id(parameter) for parameter in model.parameter_group(group)}
    return [name for name, parameter in model.named_parameters() if id(parameter) in own]


@pytest.mark.parametrize("name", FAST.epochs)
def test_a_stage_changes_only_what_it_may(tmp_path, name):
    trainer = trainer_of(tmp_path, stage=name)
    model = trainer.objective.model
    before = weights(model)
    trainer.run()
    after = weights(model)
    for group in GROUPS:
        names = group_names(model, group)
        assert bool(changed(before, after, names)) == (group in trainer.stage.trains), group
    assert torch.equal(before["pruner.initial"], after["pruner.initial"])


def test_a_pruner_set_to_a_speed_up_stays_so_while_only_the_encoder_learns(tmp_path):
    model = toy_model(STILL.replace(prune=RankBinsConfig()))
    with torch.no_grad():
        model.pruner.fine.fill_(LARGEST + 1.0)
    before = weights(model)
    trainer_of(tmp_path, stage="hard_prune", model=model).run()
    after = weights(model)
    assert changed(before, after, group_names(model, "thresholds")) == []
    assert changed(before, after, group_names(model, "backbone"))


@pytest.mark.parametrize("stage", ["finetune", "soft_prune"])
def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path, stage):
    results = []
    for most, batches in ((16, 1), (6, 3)):
        config = FAST.replace(
            max_sequences_per_batch=most, tokens_per_batch=10_000, gradient_accumulation=batches, warmup=0.0
        )
        trainer = trainer_of(tmp_path / str(most), stage=stage, config=config)
        assert (len(trainer.sampler), trainer.num_steps) == (batches, 1)
        log = trainer.run()
        # The first moment is a tenth of the gradient; weights would show Adam's blow-up of rounding instead.
        moments = [trainer.optimizer.state[p]["exp_avg"] for p in trainer._others]
        results.append((moments, log[0]["loss"]))
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5)
    for one, several in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(one, several, rtol=1e-4, atol=1e-7)


def test_thresholds_learn_in_bf16_and_stay_fp32(tmp_path):
    soft = STILL.replace(prune=PruneConfig(final_threshold=0.08, temperature=0.05))
    trainer = trainer_of(tmp_path, config=FAST.replace(precision="bf16"), model=toy_model(soft))
    seen = []
    pruner = trainer.objective.model.pruner
    soft_mask = pruner.soft_mask

    def watch(layer, attended):
        seen.append(attended.mass.dtype)
        return soft_mask(layer, attended)

    pruner.soft_mask = watch
    linear = trainer.objective.model.layers[0].feedforward.up
    linear.register_forward_hook(lambda module, given, result: seen.append(result.dtype))
    trainer.run()
    assert set(seen) == {torch.float32, torch.bfloat16}
    assert torch.float32 in seen[:2]
    assert pruner.delta.dtype == torch.float32
    assert bool((pruner.delta != 0).all())


def test_bf16_goes_through_all_stages_close_to_fp32(tmp_path):
    losses = []
    for precision in ("fp32", "bf16"):
        report = train_toy(toy_model(STILL), tmp_path / precision, config=FAST.replace(precision=precision))
        losses.append(report.stages[0].losses[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_thresholds_stop_at_zero_where_they_can_rise_again(tmp_path):
    config = FAST.replace(learning_rate_thresholds=10.0)
    trainer = trainer_of(
        tmp_path, config=config, model=toy_model(STILL.replace(prune=PruneConfig(penalty=0.0)))
    )
    pruner = trainer.objective.model.pruner
    with torch.no_grad():
        pruner.delta.fill_(-1.0)
    trainer.run()
    assert torch.equal(pruner.delta, -pruner.initial)
    assert pruner.token_thresholds.tolist() == [0.0, 0.0]
    pruner.token_thresholds.sum().backward()
    assert bool((pruner.delta.grad > 0).all())


def test_threshold_gradients_are_clipped_apart_from_the_rest(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.create_optimizer()
    model = trainer.objective.model
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model.pruner.delta.grad.fill_(1e6)
    model.final_head.output.bias.grad.fill_(0.1)
    norm = trainer._clip_grad_norm(trainer.objective)
    assert float(norm) == pytest.approx(0.1 * 2**0.5)
    assert model.final_head.output.bias.grad.tolist() == pytest.approx([0.1, 0.1])
    assert float(model.pruner.delta.grad.norm()) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("finetune", [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]),
        ("soft_prune", [1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
    ],
)
def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_zero(tmp_path, stage, expected):
    config = FAST.replace(warmup=1 / 3, max_sequences_per_batch=3, learning_rate=1.0)
    trainer = trainer_of(tmp_path, stage=stage, config=config)
    assert trainer.num_steps == 6
    trainer.create_optimizer()
    schedule = trainer.create_scheduler(6)
    shares = [schedule.lr_lambdas[0](step) for step in range(7)]
    assert shares == pytest.approx([*expected, 0.0])


def test_a_loss_that_is_no_number_stops_training(tmp_path):
    model = toy_model()
    with torch.no_grad():
        model.final_head.output.bias.fill_(float("nan"))
    with pytest.raises(
        ConfigError, match=r"the loss of finetune is not a number at step 1; lower train\.learning_rate"
    ):
        train_toy(model, tmp_path)


def test_events_follow_the_epochs(tmp_path):
    events = []
    trainer = trainer_of(
        tmp_path, stage="finetune", config=FAST.replace(epochs={"finetune": 1.5}), on_event=events.append
    )
    trainer.run()
    assert [event.kind for event in events] == ["stage_started", *["step"] * trainer.num_steps]
    epochs = [event.epoch for event in events]
    assert epochs == sorted(epochs)
    assert (epochs[0], epochs[-1], events[-1].num_epochs) == (0.0, 1.5, 1.5)
    last = events[-1]
    assert last.loss is not None
    assert last.gflops is not None
    assert last.kept_tokens == pytest.approx([last.kept_tokens[0]] * 2)


def test_a_kept_budget_wins_then_the_better_score_then_the_lower_loss():
    low, high, sure, dense = (
        {"budget_miss": miss, "score": score, "loss": loss}
        for miss, score, loss in ((0.0, 0.5, 0.1), (0.0, 0.6, 0.9), (0.0, 0.6, 0.2), (0.5, 0.9, 0.1))
    )
    assert max([low, high, sure, dense], key=rank) is sure


def test_training_writes_nothing_and_leaves_the_log_level(tmp_path, capfd):
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_info()
    train_toy(toy_model(), tmp_path)
    assert transformers.logging.get_verbosity() == logging.INFO
    transformers.logging.set_verbosity(before)
    assert capfd.readouterr() == ("", "")

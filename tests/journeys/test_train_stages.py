"""A new model goes through all four stages and comes out accurate, narrower and with exits that know."""

from magic_pyramid.training import show_progress
from training_toy import BACKBONE, FAST, PYRAMID, toy_data, toy_model, train_toy


def test_the_pyramid_learns_its_task_with_fewer_tokens(tmp_path, capfd):
    config = FAST.replace(epochs={"finetune": 10, "soft_prune": 3, "hard_prune": 2, "distill_exits": 2})
    still = BACKBONE.replace(hidden_dropout=0.0, attention_dropout=0.0, classifier_dropout=0.0)
    model = toy_model(PYRAMID.replace(backbone=still))
    with show_progress() as on_event:
        report = train_toy(
            model, tmp_path, config=config, data=toy_data(train=128, validation=40), on_event=on_event
        )
    finetune, soft, hard, exits = report.stages
    assert finetune.losses[-1]["loss"] < finetune.losses[0]["loss"] / 2
    assert finetune.kept["quality"] > 0.9
    assert hard.kept["quality"] > 0.9
    assert sum(hard.kept_tokens) < 0.8 * sum(finetune.kept_tokens)
    assert hard.kept["gflops"] < 0.9 * finetune.kept["gflops"]
    assert soft.pruner != finetune.pruner
    assert exits.kept["quality"] == hard.kept["quality"]
    assert exits.kept["exit_quality"]["0"] > 0.6
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "hard_prune: epoch 2.00: validation accuracy" in printed.err

"""Choosing the speed knob: never more loss than allowed, and never slower when more is allowed."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from magic_pyramid import calibration
from magic_pyramid.calibration import MAX_ROWS, calibrate
from magic_pyramid.config import ExitConfig
from magic_pyramid.engine.interface import DENSE, Setting, flops_of
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import ConfigError
from magic_pyramid.metrics import quality
from magic_pyramid.sweep import EXIT_THRESHOLDS, PRUNE_SCALES, simulate

LENGTHS = (9, 2, 14, 9, 1, 5, 20, 7, 11, 3) * 3
ENCODED = tiny.encoded(*LENGTHS, seed=1)
MODELS = {
    "both": tiny.build(seed=3),
    "pruner": tiny.build(tiny.CONFIG.replace(exit=None), seed=3),
    "exits": tiny.build(tiny.CONFIG.replace(prune=None), seed=3),
    "neither": tiny.build(tiny.PLAIN, seed=3),
    "patience": tiny.build(tiny.changed(exit={"criterion": "patience", "patience": 2}), seed=3),
    "multi-label": tiny.build(tiny.MULTI_LABEL, seed=3),
    "regression": tiny.build(tiny.REGRESSION, seed=3),
}


def calibrated(model, encoded, labels, *, max_drop, **options):
    return calibrate(TorchEngine(model), model.config, encoded, labels, max_drop=max_drop, **options)


def own_labels(model):
    """The dense run's own answers, so that it is always right, with a few made wrong."""
    logits = TorchEngine(model).run(ENCODED, setting=DENSE).logits
    if model.config.problem_type == "regression":
        return [float(value) for value in logits[:, 0]]
    if model.config.problem_type == "multi_label":
        return [tuple(np.flatnonzero(row > 0).tolist()) for row in logits]
    labels = logits.argmax(1).tolist()
    return [(label + 1) % 3 if row % 10 == 0 else label for row, label in enumerate(labels)]


def measured(model, found, labels):
    setting = Setting(
        prune_scale=found.prune_scale if model.config.prune else 0.0, exit_threshold=found.exit_threshold
    )
    output = TorchEngine(model).run(ENCODED, setting=setting)
    dense = TorchEngine(model).run(ENCODED, setting=DENSE)
    speedup = flops_of(model.config, dense, DENSE).mean() / flops_of(model.config, output, setting).mean()
    return quality(output.logits, labels, model.config), float(speedup)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("max_drop", [0.0, 10.0])
def test_the_engine_confirms_what_was_promised(name, max_drop):
    model, labels = MODELS[name], own_labels(MODELS[name])
    found = calibrated(model, ENCODED, labels, max_drop=max_drop)
    reached, speedup = measured(model, found, labels)
    assert found.quality >= found.dense_quality - max_drop / 100 - 1e-6
    assert reached == pytest.approx(found.quality, abs=1e-5)
    assert speedup == pytest.approx(found.flops_speedup, rel=1e-5)
    assert found.num_examples == len(LENGTHS)
    assert found.max_drop == max_drop


@given(st.floats(0, 40), st.floats(0, 40), st.sampled_from(["both", "exits", "pruner"]))
@settings(max_examples=5, deadline=None, derandomize=True)
def test_more_loss_allowed_is_never_slower(one, other, name):
    labels = own_labels(MODELS[name])
    low, high = (
        calibrated(MODELS[name], ENCODED, labels, max_drop=drop).flops_speedup
        for drop in sorted((one, other))
    )
    assert high >= low


def test_the_fastest_of_all_candidates_wins_where_everything_may_be_lost():
    model = MODELS["both"]
    found = calibrated(model, ENCODED, own_labels(model), max_drop=100)
    cost = {
        (scale, threshold): simulate(model.config, answers, Setting(exit_threshold=threshold))[1].mean()
        for scale in PRUNE_SCALES
        for answers in [TorchEngine(model).answer_all_heads(ENCODED, scale=scale)]
        for threshold in (None, *EXIT_THRESHOLDS)
    }
    assert cost[found.prune_scale, found.exit_threshold] == min(cost.values())
    assert found.flops_speedup > 1


@pytest.mark.parametrize("name", ["both", "exits"])
def test_a_speedup_asked_for_is_met_at_the_least_loss(name):
    model, labels = MODELS[name], own_labels(MODELS[name])
    fastest = calibrated(model, ENCODED, labels, max_drop=100).flops_speedup
    target = (1 + fastest) / 2
    found = calibrated(model, ENCODED, labels, max_drop=0, target_speedup=target)
    assert found.at_target.target_speedup == target
    reached, speedup = measured(model, found.at_target, labels)
    assert speedup == pytest.approx(found.at_target.flops_speedup, rel=1e-5)
    assert reached == pytest.approx(found.at_target.quality, abs=1e-5)
    assert speedup >= target
    # Losing less, nothing is as fast.
    less = 100 * (found.dense_quality - found.at_target.quality) - 1e-3
    assert less < 0 or calibrated(model, ENCODED, labels, max_drop=less).flops_speedup < target
    assert dataclasses.replace(found, at_target=None) == calibrated(model, ENCODED, labels, max_drop=0)


def test_a_speedup_out_of_reach_gives_the_fastest_setting():
    model, labels = MODELS["both"], own_labels(MODELS["both"])
    fastest = calibrated(model, ENCODED, labels, max_drop=100)
    found = calibrated(model, ENCODED, labels, max_drop=0, target_speedup=1000.0).at_target
    assert (found.prune_scale, found.exit_threshold) == (fastest.prune_scale, fastest.exit_threshold)
    assert calibrated(model, ENCODED, labels, max_drop=0).at_target is None


def test_a_model_without_knobs_keeps_them_off():
    found = calibrated(MODELS["neither"], ENCODED, own_labels(MODELS["neither"]), max_drop=0)
    assert (found.exit_threshold, found.prune_scale, found.flops_speedup) == (None, 1.0, 1.0)


def test_the_scale_of_a_model_without_pruner_stays_one():
    assert calibrated(MODELS["exits"], ENCODED, own_labels(MODELS["exits"]), max_drop=100).prune_scale == 1.0


def test_the_least_patience_that_loses_little_is_chosen():
    model = tiny.build(tiny.changed(exit={"criterion": "patience"}).replace(prune=None), seed=3)
    labels = own_labels(model)
    lost = {
        patience: 1 - quality(TorchEngine(model).run(ENCODED, setting=setting).logits, labels, model.config)
        for patience, setting in ((t, Setting(prune_scale=0.0, exit_threshold=1 / t)) for t in (1, 2))
    }
    assert 0.0 < lost[2] < lost[1]
    assert calibrated(model, ENCODED, labels, max_drop=100).exit_threshold == 1.0
    dense = TorchEngine(model).run(ENCODED, setting=DENSE)
    allowed = 100 * (lost[2] - 1 + quality(dense.logits, labels, model.config))
    assert calibrated(model, ENCODED, labels, max_drop=max(allowed, 0)).exit_threshold == 1 / 2


def test_the_walk_stops_at_the_first_threshold_that_loses_too_much(monkeypatch):
    """A later threshold that happens to lose nothing is not taken."""
    losses = {None: 0.0, **dict.fromkeys(EXIT_THRESHOLDS, 0.0), EXIT_THRESHOLDS[3]: 0.2}
    asked = []

    def scripted(config, answers, setting):
        output, flops = simulate(config, answers, setting)
        asked.append(setting.exit_threshold)
        return output, flops / (1 + len(asked))

    def scripted_quality(logits, labels, problem_type):
        return 0.9 - (losses[asked[-1]] if asked else 0.0)

    monkeypatch.setattr(calibration, "simulate", scripted)
    monkeypatch.setattr(calibration, "quality", scripted_quality)
    found = calibrated(MODELS["exits"], ENCODED, [0] * len(LENGTHS), max_drop=1.0)
    assert asked == [None, *EXIT_THRESHOLDS[:4]]
    assert found.exit_threshold == EXIT_THRESHOLDS[2]
    assert found.quality == 0.9


def test_a_loss_of_exactly_what_is_allowed_passes(monkeypatch):
    asked = []

    def scripted_quality(logits, labels, problem_type):
        asked.append(len(asked))
        return 0.9 if len(asked) <= 2 else 0.895

    monkeypatch.setattr(calibration, "quality", scripted_quality)
    found = calibrated(MODELS["exits"], ENCODED, [0] * len(LENGTHS), max_drop=0.5)
    assert found.quality == 0.895


@pytest.mark.parametrize("name", ["both", "patience", "multi-label", "regression"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.4, 0.7])
@pytest.mark.parametrize("layers", [None, (1,)], ids=["all heads", "one head"])
def test_what_is_simulated_is_what_the_engine_does(name, scale, threshold, layers):
    model = MODELS[name]
    setting = Setting(prune_scale=scale, exit_threshold=threshold, exit_layers=layers)
    output, flops = simulate(model.config, TorchEngine(model).answer_all_heads(ENCODED, scale=scale), setting)
    real = TorchEngine(model).run(ENCODED, setting=setting)
    assert output.exit_layer.tolist() == real.exit_layer.tolist()
    assert output.num_tokens.tolist() == real.num_tokens.tolist()
    np.testing.assert_allclose(output.logits, real.logits, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(flops, flops_of(model.config, real, setting))


def test_a_large_set_is_sampled_evenly():
    encoded = tiny.encoded(*[3] * (MAX_ROWS + 500))
    model = tiny.build(tiny.PLAIN.replace(backbone=tiny.BACKBONE.replace(num_hidden_layers=1)))
    found = calibrated(model, encoded, [0] * len(encoded), max_drop=1.0)
    assert found.num_examples == MAX_ROWS


def test_candidates_go_from_safe_to_fast():
    assert list(EXIT_THRESHOLDS) == sorted(EXIT_THRESHOLDS)
    assert list(PRUNE_SCALES) == sorted(PRUNE_SCALES)
    assert PRUNE_SCALES[0] == 0.0
    assert 1.0 in PRUNE_SCALES


@pytest.mark.parametrize("max_drop", [-0.1, 100.1, float("nan")])
def test_an_impossible_loss_is_refused(max_drop):
    with pytest.raises(ConfigError, match=r"max_drop is .* points; it must lie in \[0, 100\]"):
        calibrated(MODELS["both"], ENCODED, [0] * len(LENGTHS), max_drop=max_drop)


def test_the_choice_is_plain_data():
    found = calibrated(MODELS["both"], ENCODED, own_labels(MODELS["both"]), max_drop=1.0)
    assert found.to_dict()["exit_threshold"] == found.exit_threshold
    assert isinstance(found.to_dict()["flops_speedup"], float)


def test_a_model_in_training_mode_is_put_into_evaluation_mode():
    model = tiny.build(tiny.CONFIG.replace(exit=ExitConfig(head_size=8))).train()
    calibrated(model, tiny.encoded(3, 4), [0, 1], max_drop=1.0)
    assert not model.training

"""The engine: the same answers whatever the batches, in input order, with receipts that add up."""

import numpy as np
import pytest
import torch

import tiny
from magic_pyramid.config import ExitConfig
from magic_pyramid.engine.interface import DENSE, Setting, default_setting
from magic_pyramid.engine.scheduler import plan_batches
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import ConfigError
from magic_pyramid.exiting.criteria import ExitRule
from magic_pyramid.packing import pack_sequences
from magic_pyramid.tokenization import EncodedTexts

TOLERANCE = 1e-5
LENGTHS = (9, 2, 14, 9, 1, 5, 20, 7)
BOTH = Setting(prune_scale=1.0, exit_threshold=0.6)
CRITERIA = {
    "entropy": tiny.CONFIG,
    "max_prob": tiny.changed(exit={"criterion": "max_prob"}),
    "margin": tiny.changed(exit={"criterion": "margin"}),
    "patience": tiny.changed(exit={"criterion": "patience", "patience": 2}),
    "multi-label entropy": tiny.MULTI_LABEL,
    "multi-label max_prob": tiny.MULTI_LABEL.replace(exit=ExitConfig(head_size=8, criterion="max_prob")),
    "multi-label patience": tiny.MULTI_LABEL.replace(
        exit=ExitConfig(head_size=8, criterion="patience", patience=2)
    ),
    "regression patience": tiny.REGRESSION.replace(
        exit=ExitConfig(head_size=8, criterion="patience", patience=2, patience_tolerance=0.8)
    ),
}


def run(config=tiny.CONFIG, *, setting=BOTH, lengths=LENGTHS, seed=3, **options):
    tokens = {"tokens_per_batch": options.pop("tokens_per_batch")} if "tokens_per_batch" in options else {}
    engine = TorchEngine(tiny.build(config, seed=seed), **tokens)
    return engine.run(tiny.encoded(*lengths), setting=setting, **options)


def assert_same(one, other):
    assert one.exit_layer.tolist() == other.exit_layer.tolist()
    assert one.num_tokens.tolist() == other.num_tokens.tolist()
    np.testing.assert_allclose(one.logits, other.logits, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_the_batch_size_changes_no_answer(batch_size):
    assert_same(run(batch_size=batch_size), run())


@pytest.mark.parametrize("budget", [1, 16, 10_000])
def test_the_token_budget_changes_no_answer(budget):
    assert_same(run(tokens_per_batch=budget), run())


def test_answers_come_in_input_order():
    encoded, order = tiny.encoded(*LENGTHS), [3, 0, 7, 6, 1, 2, 5, 4]
    engine = TorchEngine(tiny.build(seed=3))
    straight = engine.run(encoded, setting=BOTH)
    shuffled = engine.run(encoded.select(order), setting=BOTH)
    assert shuffled.num_tokens[:, 0].tolist() == [LENGTHS[row] for row in order]
    assert shuffled.exit_layer.tolist() == straight.exit_layer[order].tolist()
    np.testing.assert_allclose(shuffled.logits, straight.logits[order], atol=TOLERANCE, rtol=TOLERANCE)


def test_receipts_count_the_input_the_layers_that_ran_and_nothing_after():
    model, encoded = tiny.build(seed=3), tiny.encoded(*LENGTHS)
    setting = Setting(exit_threshold=tiny.splitting_threshold(model, encoded))
    output = TorchEngine(model).run(encoded, setting=setting)
    assert output.num_tokens[:, 0].tolist() == list(LENGTHS)
    assert len(set(output.exit_layer.tolist())) > 1
    for row, layer in enumerate(output.exit_layer):
        assert (output.num_tokens[row, 1 : layer + 2] >= 1).all()
        assert not output.num_tokens[row, layer + 2 :].any()
    assert (np.diff(output.num_tokens, axis=1) <= 0).all()


def test_no_inputs_give_no_answers():
    output = TorchEngine(tiny.build()).run(EncodedTexts([], []), setting=BOTH)
    assert output.logits.shape == (0, 3)
    assert output.num_tokens.shape == (0, 4)


def test_token_types_reach_the_model():
    engine = TorchEngine(tiny.build())
    ids = tiny.token_lists(6)
    first = engine.run(EncodedTexts(ids, [[0] * 6]), setting=DENSE)
    second = engine.run(EncodedTexts(ids, [[0, 0, 0, 1, 1, 1]]), setting=DENSE)
    assert not np.allclose(first.logits, second.logits)


def threshold_for(model, encoded):
    """Patience is the model's own; for confidence, half of the texts leave after the first layer."""
    exits = model.config.exit
    return exits.threshold if exits.criterion == "patience" else tiny.splitting_threshold(model, encoded)


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("batch_size", [1, 100])
def test_every_criterion_leaves_at_the_first_layer_that_passes(name, batch_size):
    """Expected: each text alone through the model, its exit heads asked one after the other."""
    config = CRITERIA[name]
    model, encoded = tiny.build(config, seed=5), tiny.encoded(*LENGTHS)
    setting = Setting(exit_threshold=threshold_for(model, encoded))

    output = TorchEngine(model).run(encoded, setting=setting, batch_size=batch_size)

    assert len(set(output.exit_layer.tolist())) > 1 or "patience" in name
    for row, ids in enumerate(encoded.token_ids):
        with torch.no_grad():
            whole = model(pack_sequences([ids]), masking="hard", exits=True)
        rule = ExitRule(config, setting.exit_threshold)
        state, layer, expected = rule.start(1), 2, whole.logits
        for exit_layer, logits in whole.exit_logits.items():
            leaves, state = rule.test(logits, state, layer=exit_layer)
            if bool(leaves):
                layer, expected = exit_layer, logits
                break
        assert output.exit_layer[row] == layer, f"row {row}"
        np.testing.assert_allclose(output.logits[row], expected[0].numpy(), atol=TOLERANCE, rtol=TOLERANCE)


def test_patience_needs_agreement_in_a_row():
    patient = tiny.changed(exit={"criterion": "patience"})
    assert set(run(patient, setting=Setting(exit_threshold=1 / 3)).exit_layer.tolist()) == {2}
    output = run(patient, setting=Setting(exit_threshold=1 / 2))
    assert 0 not in output.exit_layer
    assert 1 in output.exit_layer
    assert set(run(patient, setting=Setting(exit_threshold=1.0)).exit_layer.tolist()) == {0}


def test_dense_runs_every_token_through_every_layer():
    output = run(setting=DENSE)
    assert (output.num_tokens == np.array(LENGTHS)[:, None]).all()
    assert set(output.exit_layer.tolist()) == {2}


def test_the_stored_knobs_are_the_default_setting():
    assert default_setting(tiny.CONFIG) == Setting(prune_scale=1.0, exit_threshold=0.6)
    assert default_setting(tiny.PLAIN) == DENSE
    scaled = tiny.changed(prune={"scale": 1.5}, exit={"threshold": None})
    assert default_setting(scaled) == Setting(prune_scale=1.5, exit_threshold=None)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "1", None, True])
def test_an_impossible_prune_scale_is_refused(value):
    with pytest.raises(ConfigError, match=r"prune_scale is .*; it must be a number >= 0 \(1 = as trained\)"):
        Setting(prune_scale=value)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.5", True])
def test_an_impossible_exit_threshold_is_refused(value):
    with pytest.raises(ConfigError, match=r"exit_threshold is .*; it must lie in \[0, 1\]"):
        Setting(exit_threshold=value)


@pytest.mark.parametrize("batch_size", [0, -3])
def test_an_impossible_batch_size_is_refused(batch_size):
    with pytest.raises(ConfigError, match=r"batch_size is -?\d; it must be at least 1, or None"):
        plan_batches([3, 4], tokens_per_batch=10, batch_size=batch_size)


def test_batches_keep_to_the_budget_and_take_the_shortest_first():
    assert plan_batches([5, 2, 9, 3], tokens_per_batch=10, batch_size=None) == [[1, 3, 0], [2]]
    assert plan_batches([5, 2, 99, 3], tokens_per_batch=5, batch_size=None) == [[1, 3], [0], [2]]
    assert plan_batches([5, 2, 9, 3], tokens_per_batch=1, batch_size=3) == [[1, 3, 0], [2]]
    assert plan_batches([], tokens_per_batch=1, batch_size=None) == []


def test_an_engine_puts_its_model_into_evaluation_mode():
    model = tiny.build().train()
    TorchEngine(model)
    assert not model.training

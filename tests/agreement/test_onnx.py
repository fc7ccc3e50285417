"""Exported segments agree with oracle and model: the same decisions exactly, the same logits to 1e-4."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cases
import oracle
import tiny
from cases import ASKED, CASES, HEADS, LENGTHS, ORT_TOLERANCE, SETTINGS, TOLERANCE
from exported import engine_of, pair
from magic_pyramid.engine.interface import DENSE, Setting
from magic_pyramid.engine.ort_engine import ENOUGH_TOKENS
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.tokenization import EncodedTexts
from test_engine import CRITERIA, threshold_for

BOTH = SETTINGS["both"]
assert_same = partial(cases.assert_same, tolerance=ORT_TOLERANCE)
INT8_TOLERANCE = 0.02
"""One code of an activation: rounding of fp32 may move a value across the border of two codes."""


@pytest.mark.parametrize("name", CASES)
def test_the_segments_agree_with_the_oracle(name):
    model, engine = pair(CASES[name])
    encoded = tiny.encoded(*LENGTHS)

    output = engine.run(encoded, setting=BOTH)

    for row, ids in enumerate(encoded.token_ids):
        logits, exit_layer, history = oracle.run(model, ids, exit_threshold=BOTH.exit_threshold)
        counts = [len(ids), *map(len, history)]
        assert output.exit_layer[row] == exit_layer, f"row {row}"
        assert output.num_tokens[row, : len(counts)].tolist() == counts, f"row {row}"
        np.testing.assert_allclose(output.logits[row], logits.numpy(), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_segments_agree_with_the_model(name, setting):
    model, engine = pair(CASES[name])
    encoded = tiny.encoded(*LENGTHS, 30, 17, seed=1)
    expected = TorchEngine(model).run(encoded, setting=setting)
    for batch_size in (None, 1, 3):
        assert_same(engine.run(encoded, setting=setting, batch_size=batch_size), expected)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("choice", ASKED.values(), ids=ASKED)
def test_the_segments_ask_the_heads_that_the_model_asks(name, choice):
    model, engine = pair(CASES[name])
    encoded = tiny.encoded(*LENGTHS, 30, 17, seed=1)
    setting = replace(BOTH, **choice)
    expected = TorchEngine(model).run(encoded, setting=setting)
    for batch_size in (None, 2):
        assert_same(engine.run(encoded, setting=setting, batch_size=batch_size), expected)


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_every_criterion_decides_as_in_the_model(name, batch_size):
    model, engine = pair(CRITERIA[name], seed=5)
    encoded = tiny.encoded(*LENGTHS, 20, 7)
    setting = Setting(exit_threshold=threshold_for(model, encoded))
    assert_same(
        engine.run(encoded, setting=setting, batch_size=batch_size),
        TorchEngine(model).run(encoded, setting=setting),
    )


@pytest.mark.parametrize("act", ["gelu_new", "gelu_pytorch_tanh", "relu", "silu", "tanh"])
def test_every_activation_is_exact(act):
    backbone = tiny.BACKBONE.replace(hidden_act=act, head_act=act)
    model, engine = pair(tiny.changed(exit={"head": "block"}).replace(backbone=backbone))
    encoded = tiny.encoded(*LENGTHS)
    assert_same(
        engine.run(encoded, setting=DENSE), TorchEngine(model).run(encoded, setting=DENSE), tolerance=1e-3
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 32), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
    family=st.sampled_from(sorted(tiny.FAMILIES)),
    scale=st.sampled_from([0.0, 0.5, 1.0, 2.5]),
    threshold=st.sampled_from([None, 0.0, 0.3, 0.7, 1.0]),
    batch_size=st.sampled_from([None, 1, 2, 5]),
)
def test_any_ragged_batch_agrees_at_any_setting(lengths, seed, family, scale, threshold, batch_size):
    model, engine = pair(tiny.CONFIG.replace(backbone=tiny.FAMILIES[family]))
    encoded, setting = tiny.encoded(*lengths, seed=seed), Setting(prune_scale=scale, exit_threshold=threshold)
    assert_same(
        engine.run(encoded, setting=setting, batch_size=batch_size),
        TorchEngine(model).run(encoded, setting=setting),
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    mates=st.lists(st.integers(1, 32), max_size=10),
    place=st.integers(0, 10),
    precision=st.sampled_from(["fp32", "int8"]),
)
def test_batch_mates_do_not_change_the_result(mates, place, precision):
    """The setting removes no token and lets none leave, so that no tie can hide behind a tolerance."""
    _, engine = pair(tiny.CONFIG, precision=precision)
    ids, others = tiny.token_lists(11, seed=9), tiny.token_lists(*mates, seed=2)
    place = min(place, len(others))
    together = others[:place] + ids + others[place:]
    alone = engine.run(EncodedTexts(ids, [[0] * 11]), setting=DENSE)
    mixed = engine.run(EncodedTexts(together, [[0] * len(row) for row in together]), setting=DENSE)
    tolerance = TOLERANCE if precision == "fp32" else INT8_TOLERANCE
    np.testing.assert_allclose(mixed.logits[place], alone.logits[0], atol=tolerance, rtol=tolerance)


def test_int8_agrees_with_itself_for_any_batching():
    _, engine = pair(tiny.CONFIG, precision="int8")
    encoded = tiny.encoded(*LENGTHS, 30, 17, 4, seed=4)
    expected = engine.run(encoded, setting=BOTH, batch_size=1)
    for batch_size in (2, 5, None):
        assert_same(
            engine.run(encoded, setting=BOTH, batch_size=batch_size), expected, tolerance=INT8_TOLERANCE
        )


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_int8_is_near_the_model(name):
    config = tiny.CONFIG.replace(backbone=tiny.FAMILIES[name])
    model, engine = pair(config, precision="int8")
    encoded = tiny.encoded(*LENGTHS)
    exact = TorchEngine(model).run(encoded, setting=DENSE).logits
    found = engine.run(encoded, setting=DENSE).logits
    assert np.abs(found - exact).mean() < 0.1 * np.abs(exact).mean()


@pytest.mark.parametrize("budget", [1, 16, 10_000])
def test_the_token_budget_changes_no_answer(budget):
    model = tiny.build(seed=3)
    encoded = tiny.encoded(*LENGTHS)
    output = engine_of(model, tokens_per_batch=budget).run(encoded, setting=BOTH)
    assert_same(output, TorchEngine(model).run(encoded, setting=BOTH))


@pytest.mark.parametrize("boundaries", [(), (0,), (0, 1, 2)])
@pytest.mark.parametrize("exits", [None, tiny.CONFIG.exit.replace(layers=(1,))], ids=["no exits", "one exit"])
def test_the_grouping_of_layers_changes_no_answer(boundaries, exits):
    model = tiny.build(tiny.CONFIG.replace(exit=exits), seed=3)
    encoded = tiny.encoded(*LENGTHS)
    engine = engine_of(model, boundaries=boundaries)
    assert {part.last for part in engine.plan.segments} == {*boundaries, *((1,) if exits else ()), 2}
    assert_same(engine.run(encoded, setting=BOTH), TorchEngine(model).run(encoded, setting=BOTH))


def test_survivors_of_many_batches_run_together():
    """More tokens than one batch takes, most of which leave: late segments still see few, full batches."""
    model, engine = pair(tiny.CONFIG)
    encoded = tiny.encoded(*[9, 2, 14, 5, 20] * 60)
    calls = []
    ask = engine.ask
    engine.ask = lambda layer, batch: (calls.append((layer, len(batch.hidden))), ask(layer, batch))[1]
    try:
        output = engine.run(encoded, setting=BOTH, batch_size=8)
    finally:
        del engine.ask
    assert_same(output, TorchEngine(model).run(encoded, setting=BOTH))
    early = [tokens for layer, tokens in calls if layer == 0]
    late = [tokens for layer, tokens in calls if layer is None]
    assert len(late) < len(early) / 2
    assert max(tokens for _, tokens in calls) <= ENOUGH_TOKENS


def test_answers_come_in_input_order():
    _, engine = pair(tiny.CONFIG)
    encoded, order = tiny.encoded(*LENGTHS), [3, 0, 5, 1, 2, 4]
    straight = engine.run(encoded, setting=BOTH)
    shuffled = engine.run(encoded.select(order), setting=BOTH)
    assert shuffled.num_tokens[:, 0].tolist() == [LENGTHS[row] for row in order]
    np.testing.assert_allclose(shuffled.logits, straight.logits[order], atol=TOLERANCE, rtol=TOLERANCE)


def test_no_inputs_give_no_answers():
    _, engine = pair(tiny.CONFIG)
    output = engine.run(EncodedTexts([], []), setting=BOTH)
    assert output.logits.shape == (0, 3)
    assert output.num_tokens.shape == (0, 4)


def test_token_types_reach_the_segments():
    model, engine = pair(tiny.CONFIG)
    pairs = EncodedTexts(tiny.token_lists(6), [[0, 0, 0, 1, 1, 1]])
    assert_same(engine.run(pairs, setting=DENSE), TorchEngine(model).run(pairs, setting=DENSE))


def test_one_engine_serves_many_threads():
    model, engine = pair(tiny.CONFIG)
    inputs = [tiny.encoded(*LENGTHS, seed=seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda encoded: engine.run(encoded, setting=BOTH), inputs))
    for encoded, output in zip(inputs, outputs, strict=True):
        assert_same(output, TorchEngine(model).run(encoded, setting=BOTH))


def test_a_larger_knob_saves_more():
    _, engine = pair(tiny.CONFIG)
    encoded = tiny.encoded(*LENGTHS, 30, 17)
    layers = [
        engine.run(encoded, setting=Setting(exit_threshold=threshold)).exit_layer.mean()
        for threshold in (None, 0.3, 0.6, 1.0)
    ]
    tokens = [
        engine.run(encoded, setting=Setting(prune_scale=scale)).num_tokens.sum()
        for scale in (0.0, 0.5, 1.0, 3.0)
    ]
    assert layers == sorted(layers, reverse=True)
    assert layers[0] > layers[-1]
    assert tokens == sorted(tokens, reverse=True)
    assert tokens[0] > tokens[-1]

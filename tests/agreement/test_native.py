"""The native engine agrees with oracle and model on every instruction set of this processor."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import tiny
from cases import ASKED, CASES, HEADS, LENGTHS, SETTINGS, TOLERANCE, assert_same
from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.interface import DENSE, EngineOutput, Setting
from magic_pyramid.engine.native_engine import NativeEngine
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.export import native_engine
from magic_pyramid.model import PyramidModel
from magic_pyramid.native.library import instruction_sets, is_built
from magic_pyramid.tokenization import EncodedTexts
from test_engine import CRITERIA, threshold_for

pytestmark = pytest.mark.skipif(not is_built(), reason="the native engine is not built")
SETS = instruction_sets() if is_built() else ("none",)
BOTH = SETTINGS["both"]
WIDE = tiny.BACKBONE.replace(hidden_size=200, num_attention_heads=2, intermediate_size=330)
"""More columns than any tile, a head wider than a tile, and nothing divisible by a register's width."""


def tolerance_for(expected: EngineOutput) -> float:
    """Rounding is relative; on the worst of these models PyTorch's logits are 1e-4 from the exact ones."""
    return TOLERANCE * max(1.0, float(np.abs(expected.logits).max(initial=0.0)))


@cache
def pair(
    config: ModelConfig, *, seed: int = 3, precision: str = "fp32", instruction_set: str | None = None
) -> tuple[PyramidModel, NativeEngine]:
    model = tiny.build(config, seed=seed)
    if config.backbone.hidden_size > tiny.BACKBONE.hidden_size:
        # The usual weights are made for few inputs; on many the softmax would see nothing but extremes.
        for parameter in model.parameters():
            parameter.data.mul_(0.3 if parameter.ndim == 2 else 1.0)
    return model, native_engine(
        model, precision=precision, threads=1, instruction_set=instruction_set or SETS[0]
    )


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("name", CASES)
def test_the_engine_agrees_with_the_oracle(name, instruction_set):
    model, engine = pair(CASES[name], instruction_set=instruction_set)
    encoded = tiny.encoded(*LENGTHS)

    output = engine.run(encoded, setting=BOTH)

    for row, ids in enumerate(encoded.token_ids):
        logits, exit_layer, history = oracle.run(model, ids, exit_threshold=BOTH.exit_threshold)
        counts = [len(ids), *map(len, history)]
        assert output.exit_layer[row] == exit_layer, f"row {row}"
        assert output.num_tokens[row, : len(counts)].tolist() == counts, f"row {row}"
        tolerance = TOLERANCE * max(1.0, float(logits.abs().max()))
        np.testing.assert_allclose(output.logits[row], logits.numpy(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_engine_agrees_with_the_model(name, setting, instruction_set):
    model, engine = pair(CASES[name], instruction_set=instruction_set)
    encoded = tiny.encoded(*LENGTHS, 30, 17, seed=1)
    expected = TorchEngine(model).run(encoded, setting=setting)
    for batch_size in (None, 1, 3):
        output = engine.run(encoded, setting=setting, batch_size=batch_size)
        assert_same(output, expected, tolerance=tolerance_for(expected))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("choice", ASKED.values(), ids=ASKED)
def test_the_engine_asks_the_heads_that_the_model_asks(name, choice):
    model, engine = pair(CASES[name], instruction_set=SETS[0])
    encoded = tiny.encoded(*LENGTHS, 30, 17, seed=1)
    setting = replace(BOTH, **choice)
    expected = TorchEngine(model).run(encoded, setting=setting)
    for batch_size in (None, 2):
        output = engine.run(encoded, setting=setting, batch_size=batch_size)
        assert_same(output, expected, tolerance=tolerance_for(expected))


@pytest.mark.parametrize("name", [*HEADS, "no exits", "one exit"])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_all_heads_say_what_those_of_the_model_say(name, scale):
    model, engine = pair(CASES[name], instruction_set=SETS[0])
    encoded = tiny.encoded(*LENGTHS, 30, 17, seed=1)
    expected = TorchEngine(model).answer_all_heads(encoded, scale=scale)
    found = engine.answer_all_heads(encoded, scale=scale)
    assert found.num_tokens.tolist() == expected.num_tokens.tolist()
    assert found.logits.keys() == expected.logits.keys()
    for layer, logits in expected.logits.items():
        tolerance = TOLERANCE * max(1.0, float(np.abs(logits).max()))
        np.testing.assert_allclose(found.logits[layer], logits, atol=tolerance, rtol=tolerance)


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


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("act", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "tanh"])
def test_every_activation_is_exact(act, instruction_set):
    backbone = tiny.BACKBONE.replace(hidden_act=act, head_act=act)
    config = tiny.changed(exit={"head": "block"}).replace(backbone=backbone)
    model, engine = pair(config, instruction_set=instruction_set)
    encoded = tiny.encoded(*LENGTHS)
    assert_same(engine.run(encoded, setting=DENSE), TorchEngine(model).run(encoded, setting=DENSE))


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("head", ["fastbert", "cls", "block"])
def test_widths_that_fill_no_tile_are_exact(head, instruction_set):
    model, engine = pair(
        tiny.changed(exit={"head": head}).replace(backbone=WIDE), instruction_set=instruction_set
    )
    encoded = tiny.encoded(32, 31, 17, 16, 15, 1, 2)
    for setting in (DENSE, BOTH):
        expected = TorchEngine(model).run(encoded, setting=setting)
        assert_same(engine.run(encoded, setting=setting), expected, tolerance=tolerance_for(expected))


@settings(max_examples=200, deadline=None, derandomize=True)
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
    expected = TorchEngine(model).run(encoded, setting=setting)
    output = engine.run(encoded, setting=setting, batch_size=batch_size)
    assert_same(output, expected, tolerance=tolerance_for(expected))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    mates=st.lists(st.integers(1, 32), max_size=10),
    place=st.integers(0, 10),
    precision=st.sampled_from(["fp32", "int8"]),
    instruction_set=st.sampled_from(SETS),
    setting=st.sampled_from(list(SETTINGS.values())),
)
def test_batch_mates_do_not_change_a_bit(mates, place, precision, instruction_set, setting):
    _, engine = pair(tiny.CONFIG, precision=precision, instruction_set=instruction_set)
    ids, others = tiny.token_lists(11, seed=9), tiny.token_lists(*mates, seed=2)
    place = min(place, len(others))
    together = others[:place] + ids + others[place:]
    alone = engine.run(EncodedTexts(ids, [[0] * 11]), setting=setting)
    mixed = engine.run(EncodedTexts(together, [[0] * len(row) for row in together]), setting=setting)
    assert mixed.logits[place].tobytes() == alone.logits[0].tobytes()
    assert mixed.exit_layer[place] == alone.exit_layer[0]
    assert mixed.num_tokens[place].tolist() == alone.num_tokens[0].tolist()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("lengths", [(9,), (30, 2, 17), (32,) * 40])
def test_the_number_of_threads_changes_no_bit(lengths, precision):
    model = tiny.build(tiny.CONFIG.replace(backbone=WIDE), seed=3)
    encoded = tiny.encoded(*lengths)
    alone, together = (
        native_engine(model, precision=precision, threads=threads).run(encoded, setting=BOTH)
        for threads in (1, 3)
    )
    assert_same(together, alone, tolerance=0.0)


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_int8_is_near_the_model(name, instruction_set):
    config = tiny.CONFIG.replace(backbone=tiny.FAMILIES[name])
    model, engine = pair(config, precision="int8", instruction_set=instruction_set)
    encoded = tiny.encoded(*LENGTHS)
    exact = TorchEngine(model).run(encoded, setting=DENSE).logits
    found = engine.run(encoded, setting=DENSE).logits
    assert 0 < np.abs(found - exact).mean() < 0.1 * np.abs(exact).mean()


@pytest.mark.parametrize("instruction_set", SETS)
def test_int8_sums_do_not_overflow(instruction_set):
    """The largest activations meet the largest weights, all of one sign: 16 bits would saturate."""
    backbone = tiny.BACKBONE.replace(hidden_act="relu")
    model = tiny.build(tiny.PLAIN.replace(backbone=backbone), seed=3)
    for block in model.layers:
        block.feedforward.up.weight.data.fill_(0.5)
        block.feedforward.up.bias.data.fill_(3.0)
        block.feedforward.down.weight.data[::2] = 0.5
        block.feedforward.down.weight.data[1::2] = -0.5
    engine = native_engine(model, precision="int8", threads=1, instruction_set=instruction_set)
    encoded = tiny.encoded(*LENGTHS)
    exact = TorchEngine(model).run(encoded, setting=DENSE).logits
    np.testing.assert_allclose(engine.run(encoded, setting=DENSE).logits, exact, atol=0.1)


def test_token_types_reach_the_engine():
    model, engine = pair(tiny.CONFIG)
    pairs = EncodedTexts(tiny.token_lists(6), [[0, 0, 0, 1, 1, 1]])
    assert_same(engine.run(pairs, setting=DENSE), TorchEngine(model).run(pairs, setting=DENSE))


def test_answers_come_in_input_order():
    _, engine = pair(tiny.CONFIG)
    encoded, order = tiny.encoded(*LENGTHS), [3, 0, 5, 1, 2, 4]
    straight = engine.run(encoded, setting=BOTH)
    shuffled = engine.run(encoded.select(order), setting=BOTH)
    assert shuffled.num_tokens[:, 0].tolist() == [LENGTHS[row] for row in order]
    assert shuffled.logits.tobytes() == straight.logits[order].tobytes()


def test_no_inputs_give_no_answers():
    _, engine = pair(tiny.CONFIG)
    output = engine.run(EncodedTexts([], []), setting=BOTH)
    assert output.logits.shape == (0, 3)
    assert output.num_tokens.shape == (0, 4)


@pytest.mark.parametrize("threads", [1, 2])
def test_one_engine_serves_many_threads(threads):
    model = tiny.build(seed=3)
    engine = native_engine(model, threads=threads)
    inputs = [tiny.encoded(*LENGTHS, seed=seed) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda encoded: engine.run(encoded, setting=BOTH), inputs))
    for encoded, output in zip(inputs, outputs, strict=True):
        assert_same(output, TorchEngine(model).run(encoded, setting=BOTH))

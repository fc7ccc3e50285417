"""The conformance list: what any implementation of the method must satisfy, each law by name."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

import tiny
from magic_pyramid.checkpoint import load_model, save_model, to_huggingface
from magic_pyramid.config import PruneConfig
from magic_pyramid.engine.interface import DENSE, Setting
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.layers import layout as layouts
from magic_pyramid.packing import pack, pack_sequences
from magic_pyramid.tokenization import EncodedTexts

TOLERANCE = 1e-4
LENGTHS = (9, 2, 14, 1, 5)
BOTH = Setting(prune_scale=1.0, exit_threshold=0.6)
NORMS = ("kept", "input", "fixed")
MODELS = {
    norm: tiny.build(tiny.changed(prune={"score_norm": norm, "fixed_length": 8}), seed=3) for norm in NORMS
}
several_lengths = st.lists(st.integers(1, 20), min_size=1, max_size=6)


def answer(model, ids, *, setting=BOTH, batch_size=None):
    encoded = EncodedTexts(ids, [[0] * len(row) for row in ids])
    return TorchEngine(model).run(encoded, setting=setting, batch_size=batch_size)


def assert_same_rows(one, other, rows=slice(None)):
    assert one.exit_layer[rows].tolist() == other.exit_layer.tolist()
    assert one.num_tokens[rows].tolist() == other.num_tokens.tolist()
    np.testing.assert_allclose(one.logits[rows], other.logits, atol=TOLERANCE, rtol=TOLERANCE)


def kept_positions(model, batch):
    """Positions alive after each layer, per sequence."""
    state, found = model.begin(batch), []
    with torch.no_grad():
        for layer in range(3):
            state = model.remove_tokens(state, layer)
            found.append([p.tolist() for p in state.batch.position_ids.split(state.batch.lengths.tolist())])
    return found


@pytest.mark.parametrize("norm", NORMS)
def test_h1_the_mass_of_a_row_sums_to_the_tokens_that_arrive(norm):
    model, batch = MODELS[norm], tiny.packed(*LENGTHS)
    state = model.begin(batch)
    with torch.no_grad():
        for layer in range(3):
            before = state.batch
            state = model.remove_tokens(state, layer)
            assert state.mass is not None
            sums = [float(part.sum()) for part in state.mass.split(before.lengths.tolist())]
            assert sums == pytest.approx(before.lengths.tolist(), abs=1e-4)
            assert float(state.mass.mean()) == pytest.approx(1.0, abs=1e-5)


@given(several_lengths, st.integers(0, 2**16), st.sampled_from(NORMS))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_h2_an_answer_does_not_depend_on_batch_mates(lengths, seed, norm):
    ids = tiny.token_lists(*lengths, seed=seed)
    together = answer(MODELS[norm], ids)
    for row, tokens in enumerate(ids):
        assert_same_rows(together, answer(MODELS[norm], [tokens]), [row])


@given(several_lengths, st.integers(0, 2**16), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_h2_an_answer_does_not_depend_on_the_order(lengths, seed, random):
    ids = tiny.token_lists(*lengths, seed=seed)
    order = random.sample(range(len(ids)), len(ids))
    shuffled = answer(MODELS["kept"], [ids[row] for row in order], batch_size=3)
    assert_same_rows(answer(MODELS["kept"], ids, batch_size=2), shuffled, order)


@given(several_lengths, st.integers(0, 2**16), st.sampled_from(["left", "right"]), st.integers(0, 7))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_h2_an_answer_does_not_depend_on_padding(lengths, seed, side, extra):
    ids = tiny.token_lists(*lengths, seed=seed)
    width = max(lengths) + extra
    padded, mask = torch.full((len(ids), width), 5), torch.zeros(len(ids), width)
    for row, tokens in enumerate(ids):
        place = slice(0, len(tokens)) if side == "right" else slice(width - len(tokens), width)
        padded[row, place], mask[row, place] = torch.tensor(tokens), 1.0
    engine = TorchEngine(MODELS["kept"])
    one = engine.answer(pack(padded, attention_mask=mask), setting=BOTH)
    other = engine.answer(pack_sequences(ids), setting=BOTH)
    assert torch.equal(one.exit_layer, other.exit_layer)
    assert torch.equal(one.num_tokens, other.num_tokens)
    assert torch.equal(one.logits, other.logits)


@pytest.mark.parametrize("waste", [1.0, 1e9], ids=["each length alone", "all padded together"])
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_h2_an_answer_does_not_depend_on_the_layout(waste, family, monkeypatch):
    model = tiny.build(tiny.CONFIG.replace(backbone=tiny.FAMILIES[family]), seed=3)
    ids = tiny.token_lists(*LENGTHS, 10, 14)
    usual = answer(model, ids)
    monkeypatch.setattr(layouts, "MAX_WASTE", waste)
    assert_same_rows(usual, answer(model, ids))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_h3_zero_thresholds_without_exits_are_the_plain_encoder(family):
    backbone = tiny.FAMILIES[family]
    zero = PruneConfig(manual_thresholds=(0.0, 0.0, 0.0))
    pyramid = tiny.build(tiny.CONFIG.replace(backbone=backbone, prune=zero), seed=3)
    plain = tiny.build(tiny.PLAIN.replace(backbone=backbone), seed=3)
    plain.load_state_dict({name: pyramid.state_dict()[name] for name in plain.state_dict()})
    ids = tiny.token_lists(*LENGTHS)
    ours = answer(pyramid, ids, setting=Setting(prune_scale=1.0, exit_threshold=None))
    assert_same_rows(ours, answer(plain, ids, setting=DENSE))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_h3_the_dense_setting_is_the_hugging_face_model(family, tmp_path):
    model = tiny.build(tiny.CONFIG.replace(backbone=tiny.FAMILIES[family]), seed=3)
    to_huggingface(model, tmp_path, encoder=None)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids = tiny.token_lists(*LENGTHS)
    ours = answer(model, ids, setting=DENSE)
    for row, tokens in enumerate(ids):
        with torch.no_grad():
            logits = theirs(input_ids=torch.tensor([tokens])).logits[0]
        np.testing.assert_allclose(ours.logits[row], logits.numpy(), atol=1e-5, rtol=1e-5)


def test_h4_an_exit_threshold_of_one_leaves_after_the_first_layer():
    ours = answer(MODELS["kept"], tiny.token_lists(*LENGTHS), setting=Setting(exit_threshold=1.0))
    assert ours.exit_layer.tolist() == [0] * 5
    assert not ours.num_tokens[:, 2:].any()


def test_h4_without_exits_every_layer_runs():
    ours = answer(MODELS["kept"], tiny.token_lists(*LENGTHS), setting=Setting(exit_threshold=None))
    assert ours.exit_layer.tolist() == [2] * 5
    assert ours.num_tokens.all()


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**16))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_h4_a_larger_exit_threshold_never_leaves_later(one, other, seed):
    ids = tiny.token_lists(8, 3, seed=seed)
    low, high = (
        answer(MODELS["kept"], ids, setting=Setting(exit_threshold=tau)) for tau in sorted((one, other))
    )
    assert (high.exit_layer <= low.exit_layer).all()


def masked_logits(model, tokens, kept):
    """Logits with every token in place: removed ones are hidden as keys from the next layer on."""
    batch = pack_sequences([tokens])
    hidden, n = model.embeddings(batch), len(tokens)
    layout = layouts.plan_layout(batch)
    bias = torch.zeros(1, 1, n, n)
    if model.config.backbone.relative_attention_num_buckets:
        bias = bias + model.relative_bias.for_layout(batch, layout)[0]
    for layer in range(3):
        block = model.block(layer)
        hidden = block.finish(block.attention(hidden, layout, (bias,)), hidden)
        gone = [i for i in range(n) if i not in kept[layer]]
        bias = bias.clone()
        bias[:, :, :, gone] = -torch.inf
    alive = torch.tensor([i in kept[-1] for i in range(n)])
    return model.final_head(hidden[alive], batch.select_tokens(alive))[0]


@pytest.mark.parametrize("family", ["bert", "electra", "mpnet"])
@pytest.mark.parametrize("final_head", ["cls", "fastbert"])
def test_h5_removal_equals_masking_for_the_survivors(family, final_head):
    """With MPNet: the position bias of the tokens left is that of their places in the input."""
    config = tiny.CONFIG.replace(backbone=tiny.FAMILIES[family], final_head=final_head)
    model = tiny.build(config, seed=3)
    for tokens in tiny.token_lists(14, 9):
        batch = pack_sequences([tokens])
        kept = [layer[0] for layer in kept_positions(model, batch)]
        assert 1 < len(kept[-1]) < len(tokens)
        with torch.no_grad():
            removed = model(batch, masking="hard").logits[0]
            masked = masked_logits(model, tokens, kept)
        torch.testing.assert_close(removed, masked, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("lengths", [(9,), (9, 4), (2,), (2, 2), (1,), (2, 14, 1)], ids=str)
@pytest.mark.parametrize("threshold", [0.06, 1.0], ids=["some pruned", "all pruned"])
@pytest.mark.parametrize("tau", [None, 0.6, 1.0], ids=["no exits", "some exit", "all exit"])
def test_h6_the_first_token_is_always_alive(lengths, threshold, tau):
    model = tiny.build(tiny.changed(prune={"manual_thresholds": (threshold,) * 3}), seed=3)
    for layer in kept_positions(model, tiny.packed(*lengths)):
        assert all(positions[0] == 0 for positions in layer)
    output = answer(model, tiny.token_lists(*lengths), setting=Setting(exit_threshold=tau))
    for row, exit_layer in enumerate(output.exit_layer):
        assert (output.num_tokens[row, : exit_layer + 2] >= 1).all()
    if threshold == 1.0:
        assert set(output.num_tokens[:, 1].tolist()) == {1}
    assert np.isfinite(output.logits).all()


def test_h6_kept_sets_shrink_and_keep_their_order():
    layers = kept_positions(MODELS["kept"], tiny.packed(*LENGTHS))
    for row in range(len(LENGTHS)):
        for before, after in zip(layers, layers[1:], strict=False):
            assert set(after[row]) <= set(before[row])
            assert after[row] == sorted(after[row])


def test_h7_the_printed_rule_keeps_nothing():
    """Importance shares sum to 1 over a text: none exceeds its threshold by one half, as printed."""
    model, batch = tiny.build(spread=0.1), tiny.packed(14, 9, 5)
    state = model.begin(batch)
    with torch.no_grad():
        after = model.remove_tokens(state, 0)
    assert after.mass is not None
    importance = after.mass / batch.lengths.repeat_interleave(batch.lengths)
    threshold = float(model.pruner.token_thresholds[0].detach())
    assert not (importance - threshold > 0.5).any()
    assert after.batch.num_tokens > 3


@pytest.mark.parametrize("norm", NORMS)
def test_h9_a_cold_soft_gate_leaves_the_hard_keep_set(norm):
    fields = {"score_norm": norm, "fixed_length": 8, "temperature": 1e-6}
    model = tiny.build(tiny.changed(prune=fields), seed=3)
    start = model.begin(tiny.packed(*LENGTHS))
    with torch.no_grad():
        soft, hard = model.mask_softly(start, 0), model.remove_tokens(start, 0)
    kept = torch.ones(start.batch.num_tokens) if hard.kept is None else hard.kept.float()
    assert kept.sum() < start.batch.num_tokens
    torch.testing.assert_close(soft.soft_mask, kept, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_h14_a_saved_model_keeps_thresholds_norm_and_count(norm, tmp_path):
    model = copy.deepcopy(MODELS[norm])
    with torch.no_grad():
        model.pruner.delta.add_(torch.tensor([0.01, -0.02, 0.005]))
    save_model(model, tmp_path, encoder=None, info={}, readme=None)
    again = load_model(tmp_path).model
    assert again.config.prune == model.config.prune
    assert (again.pruner.config.score_norm, again.pruner.config.fixed_length) == (norm, 8)
    assert torch.equal(again.pruner.token_thresholds, model.pruner.token_thresholds)
    assert_same_rows(answer(again, tiny.token_lists(*LENGTHS)), answer(model, tiny.token_lists(*LENGTHS)))

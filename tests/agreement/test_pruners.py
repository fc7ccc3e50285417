"""Every way to prune: what the oracle defines, whatever the batch, with or without exits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import tiny
from magic_pyramid.checkpoint import load_model, save_model
from magic_pyramid.config import PRUNE_KINDS, CascadeConfig, PruneConfig, RankBinsConfig, RankCountsConfig
from magic_pyramid.engine.interface import DENSE, Setting, flops_of
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.layers.layout import plan_layout
from magic_pyramid.packing import pack_sequences

LAYERS, HEADS = 4, 4
BACKBONE = tiny.BACKBONE.replace(num_hidden_layers=LAYERS, num_attention_heads=HEADS)
LENGTHS = (9, 2, 14, 1, 5)
SETTINGS = {
    "less": Setting(prune_scale=0.6),
    "as trained": Setting(prune_scale=1.0),
    "with exits": Setting(prune_scale=1.0, exit_threshold=0.6),
    "most": Setting(prune_scale=100.0, exit_threshold=0.6),
}
TOLERANCE = 1e-4
several_lengths = st.lists(st.integers(1, 20), min_size=1, max_size=5)


def build(prune, *, backbone=BACKBONE, seed=3):
    """A model whose pruner looks trained."""
    model = tiny.build(tiny.CONFIG.replace(prune=prune, backbone=backbone), seed=seed)
    with torch.no_grad():
        if isinstance(prune, RankCountsConfig):
            falling = torch.tensor([0.45, 0.3, 0.35, 0.1])[:, None]
            model.pruner.shares.copy_((falling + 0.2 * torch.rand_like(model.pruner.shares)).clamp(max=1.0))
        if isinstance(prune, RankBinsConfig):
            model.pruner.fine.normal_(std=3.0)
            model.pruner.coarse.fill_(2.0)
    return model


CASCADE = CascadeConfig(final_keep_ratio=0.2, whole_layers=1, final_head_ratio=0.25, whole_head_layers=1)
BINS = RankBinsConfig(layers=(0, 1, 2, 3), num_bins=7)
CONFIGS = {
    "threshold": PruneConfig(manual_thresholds=(0.06, 0.08, 0.1, 0.12)),
    "relative threshold": PruneConfig(score_norm="max", manual_thresholds=(0.2, 0.3, 0.45, 0.6)),
    "rank_bins": BINS,
    "rank_bins, those alone": BINS.replace(selection="bins", num_bins=5),
    "rank_counts": RankCountsConfig(),
    "cascade": CASCADE,
    "cascade of each layer's own": CASCADE.replace(accumulate=False, final_head_ratio=1.0),
    "cascade of heads": CASCADE.replace(accumulate=False, final_keep_ratio=1.0),
}
MODELS = {name: build(prune) for name, prune in CONFIGS.items()}
every_way = pytest.mark.parametrize("name", CONFIGS)


def test_every_kind_is_among_them():
    assert {prune.kind for prune in CONFIGS.values()} == set(PRUNE_KINDS)


@every_way
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_engine_and_model_agree_with_the_oracle(name, setting):
    assert_as_the_oracle(MODELS[name], setting, tiny.encoded(*LENGTHS))


@pytest.mark.parametrize("name", ["rank_counts", "cascade", "relative threshold"])
def test_relative_positions_count_from_the_input(name):
    backbone = tiny.FAMILIES["mpnet"].replace(num_hidden_layers=LAYERS, num_attention_heads=HEADS)
    model = build(CONFIGS[name], backbone=backbone)
    assert_as_the_oracle(model, SETTINGS["as trained"], tiny.encoded(9, 14))


def assert_as_the_oracle(model, setting, encoded):
    output = TorchEngine(model).run(encoded, setting=setting)
    for row, ids in enumerate(encoded.token_ids):
        logits, exit_layer, history = oracle.run(
            model, ids, exit_threshold=setting.exit_threshold, scale=setting.prune_scale
        )
        counts = [len(ids), *map(len, history)]
        assert output.exit_layer[row] == exit_layer
        assert output.num_tokens[row, : len(counts)].tolist() == counts
        np.testing.assert_allclose(output.logits[row], logits.numpy(), atol=TOLERANCE, rtol=TOLERANCE)


@every_way
def test_the_cases_prune_something_but_not_everything(name):
    output = TorchEngine(MODELS[name]).run(tiny.encoded(*LENGTHS), setting=SETTINGS["as trained"])
    assert (1 < int(output.num_tokens[2, -1]) < 14) is (name != "cascade of heads")


@every_way
def test_at_scale_zero_the_model_is_the_plain_one(name):
    plain = tiny.build(tiny.PLAIN.replace(backbone=BACKBONE))
    plain.load_state_dict({key: MODELS[name].state_dict()[key] for key in plain.state_dict()})
    ids = tiny.encoded(*LENGTHS)
    ours, theirs = (TorchEngine(model).run(ids, setting=DENSE) for model in (MODELS[name], plain))
    assert np.array_equal(ours.logits, theirs.logits)
    assert ours.num_tokens.tolist() == theirs.num_tokens.tolist()


@given(several_lengths, st.integers(0, 2**16), st.sampled_from(list(CONFIGS)))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_an_answer_does_not_depend_on_batch_mates(lengths, seed, name):
    engine, ids = TorchEngine(MODELS[name]), tiny.token_lists(*lengths, seed=seed)
    together = engine.answer(pack_sequences(ids), setting=SETTINGS["with exits"])
    for row, tokens in enumerate(ids):
        alone = engine.answer(pack_sequences([tokens]), setting=SETTINGS["with exits"])
        assert torch.equal(together.num_tokens[row], alone.num_tokens[0])
        torch.testing.assert_close(together.logits[row], alone.logits[0], atol=TOLERANCE, rtol=TOLERANCE)


@every_way
@torch.no_grad()
def test_removal_equals_masking_for_the_survivors(name):
    """Removed tokens hidden as keys from the next layer on, heads that do not run set to 0."""
    model = MODELS[name]
    for tokens in tiny.token_lists(14, 9):
        state = model.begin(pack_sequences([tokens]))
        kept, run = [], []
        for layer in range(LAYERS):
            chosen = model.pruner.heads(layer, state.history, scale=1.0)
            run.append(range(HEADS) if chosen is None else chosen[0].tolist())
            state = model.remove_tokens(state, layer)
            kept.append(state.batch.position_ids.tolist())
        removed = model.final_head(state.hidden_states, state.batch)[0]
        masked = masked_logits(model, tokens, kept, run)
        torch.testing.assert_close(removed, masked, atol=TOLERANCE, rtol=TOLERANCE)


def masked_logits(model, tokens, kept, run):
    batch, n = pack_sequences([tokens]), len(tokens)
    hidden, layout, bias = model.embeddings(batch), plan_layout(batch), torch.zeros(1, 1, n, n)
    for layer in range(LAYERS):
        block = model.block(layer)
        context = block.attention(hidden, layout, (bias,)).view(n, HEADS, -1).clone()
        context[:, [head for head in range(HEADS) if head not in run[layer]]] = 0.0
        hidden = block.finish(context.flatten(1), hidden)
        bias = bias.clone()
        bias[:, :, :, [i for i in range(n) if i not in kept[layer]]] = -torch.inf
    alive = torch.tensor([i in kept[-1] for i in range(n)])
    return model.final_head(hidden[alive], batch.select_tokens(alive))[0]


@every_way
def test_kept_sets_shrink_keep_their_order_and_the_first_token(name):
    state, before = MODELS[name].begin(tiny.packed(*LENGTHS)), [list(range(n)) for n in LENGTHS]
    with torch.no_grad():
        for layer in range(LAYERS):
            state = MODELS[name].remove_tokens(state, layer, scale=1.3)
            after = [p.tolist() for p in state.batch.position_ids.split(state.batch.lengths.tolist())]
            for now, earlier in zip(after, before, strict=True):
                assert now[0] == 0
                assert now == sorted(set(now) & set(earlier))
            before = after


@every_way
@pytest.mark.parametrize("scale", [0.0, 0.6, 1.0, 1.7])
def test_flops_are_those_of_the_tokens_and_heads_that_ran(name, scale):
    model, encoded = MODELS[name], tiny.encoded(*LENGTHS)
    setting = Setting(prune_scale=scale, exit_threshold=0.6)
    output = TorchEngine(model).run(encoded, setting=setting)
    d, f, s, labels = 16, 24, 8, 3
    for row, flops in enumerate(flops_of(model.config, output, setting)):
        macs = 0.0
        for layer in range(output.exit_layer[row] + 1):
            n, k = (int(count) for count in output.num_tokens[row, layer : layer + 2])
            run = HEADS
            if name in ("cascade", "cascade of heads") and layer:
                run = max(1, round(HEADS * (1 - min(1.0, scale * 0.75 * layer / 3))))
            macs += 2 * d * n * n * run / HEADS + 4 * d * d * n + 2 * d * f * k
            if layer == LAYERS - 1:
                macs += d * d + d * labels
            else:
                macs += (d * s + 2 * s * s + 2 * s) * k + 3 * s * s + s * labels
        assert flops == pytest.approx(2 * macs)


@every_way
def test_a_saved_model_prunes_as_before(name, tmp_path):
    model, ids = MODELS[name], tiny.encoded(*LENGTHS)
    save_model(model, tmp_path, encoder=None, info={}, readme=None)
    again = load_model(tmp_path).model
    assert again.config == model.config
    assert again.pruner.learned() == model.pruner.learned()
    ours, theirs = (TorchEngine(one).run(ids, setting=SETTINGS["with exits"]) for one in (model, again))
    assert np.array_equal(ours.logits, theirs.logits)


@every_way
def test_a_text_is_followed_with_what_its_layers_saw(name):
    trace = tiny.classifier(MODELS[name].config).explain(tiny.TEXTS[2], exit_threshold=None)
    assert len(trace.layers) == LAYERS
    for layer in trace.layers:
        assert math.isclose(sum(layer.importance), len(layer.arrived), rel_tol=1e-4)

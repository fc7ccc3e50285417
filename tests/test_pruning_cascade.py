"""A schedule of tokens and heads, against numbers worked out by hand."""

import pytest
import torch

import tiny
from magic_pyramid.config import CascadeConfig
from magic_pyramid.errors import ConfigError
from magic_pyramid.packing import pack_sequences
from magic_pyramid.pruning.cascade import CascadePruner
from magic_pyramid.pruning.history import History
from magic_pyramid.pruning.interface import Attended

BATCH = pack_sequences([[2, 7, 8, 9, 10], [2, 7, 8]])
MASS = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 2.0])
SO_FAR = torch.tensor([0.0, 9.0, 8.0, 7.0, 6.0, 0.0, 4.0, 3.0])
FOUR_HEADS = tiny.BACKBONE.replace(num_attention_heads=4, num_hidden_layers=4)
STEEP = CascadeConfig(final_keep_ratio=0.25, whole_layers=1, final_head_ratio=0.25, whole_head_layers=1)


def pruner(prune):
    return CascadePruner(tiny.CONFIG.replace(prune=prune, backbone=FOUR_HEADS), prune)


def history(*, heads=((1.0, 3.0, 3.0, 2.0), (0.0, 0.0, 5.0, 0.0))):
    return History(token_mass=SO_FAR, head_output=torch.tensor(heads))


def kept(prune, layer, *, scale=1.0):
    seen = Attended(batch=BATCH, mass=MASS, input_lengths=torch.tensor([8, 3]), history=history())
    mask = pruner(prune).keep_mask(layer, seen, scale=scale)
    return [row.nonzero().flatten().tolist() for row in mask.split(BATCH.lengths.tolist())]


def test_the_first_layers_keep_all_then_the_share_falls_linearly():
    found = CascadeConfig().keep_ratios(12)
    assert found == pytest.approx([1.0] * 3 + [1.0 - 0.1 * step for step in range(1, 10)])
    assert CascadeConfig().keep_ratios(30)[:6] == pytest.approx([1.0] * 5 + [1.0 - 0.9 / 25])
    assert CascadeConfig(whole_layers=0, final_keep_ratio=0.0).keep_ratios(4) == (0.75, 0.5, 0.25, 0.0)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_last_layer_prunes_however_few_there_are(num_layers):
    assert CascadeConfig(final_keep_ratio=0.5).keep_ratios(num_layers) == (1.0,) * (num_layers - 1) + (0.5,)


def test_heads_fall_from_all_to_the_final_share():
    config = CascadeConfig(final_head_ratio=0.5)
    assert config.heads_run(12, 12, scale=1.0) == (12, 12, 12, 12, 11, 10, 10, 9, 8, 8, 7, 6)
    assert config.heads_run(12, 12, scale=0.0) == (12,) * 12
    assert config.heads_run(12, 12, scale=100.0)[4:] == (1,) * 8
    assert CascadeConfig(final_head_ratio=1.0).heads_run(12, 12, scale=5.0) == (12,) * 12


def test_as_many_stay_as_are_left_of_the_input_ranked_over_all_layers_so_far():
    # Of inputs of 8 and 3 tokens 6 and 2, then 4 and 2, then 2 and 1.
    assert [kept(STEEP, layer) for layer in range(4)] == [
        [[0, 1, 2, 3, 4], [0, 1, 2]],
        [[0, 1, 2, 3, 4], [0, 1]],
        [[0, 1, 2, 3], [0, 1]],
        [[0, 1], [0]],
    ]


def test_without_accumulation_only_this_layer_ranks():
    assert kept(STEEP.replace(accumulate=False), 2) == [[0, 2, 3, 4], [0, 2]]


def test_the_scale_multiplies_the_share_removed():
    assert kept(STEEP, 3, scale=0.5) == [[0, 1, 2, 3, 4], [0, 1]]
    assert kept(STEEP, 3, scale=10.0) == [[0], [0]]
    assert not pruner(STEEP).prunes_at(3, scale=0.0)
    assert not pruner(STEEP).prunes_at(0, scale=10.0)


def test_the_heads_that_gave_most_run_and_of_equals_the_earlier():
    part = pruner(STEEP)
    assert part.heads(0, history(), scale=1.0) is None
    assert part.heads(1, history(), scale=1.0).tolist() == [[1, 2, 3], [0, 1, 2]]
    assert part.heads(3, history(), scale=1.0).tolist() == [[1], [2]]
    assert part.heads(3, history(), scale=0.0) is None


def test_only_a_pruner_that_looks_back_is_shown_a_history():
    assert pruner(STEEP).looks_back
    assert pruner(STEEP.replace(accumulate=False)).looks_back
    alone = STEEP.replace(accumulate=False, final_head_ratio=1.0)
    assert not pruner(alone).looks_back
    model = tiny.build(tiny.CONFIG.replace(prune=alone, backbone=FOUR_HEADS))
    assert model.begin(BATCH).history is None


@torch.no_grad()
def test_the_history_is_the_sum_over_layers_of_what_is_left():
    model = tiny.build(tiny.CONFIG.replace(prune=STEEP, backbone=FOUR_HEADS), seed=3)
    ids = tiny.token_lists(14, 6, 9)
    state, alone = model.begin(pack_sequences(ids)), model.begin(pack_sequences([ids[2]]))
    received = torch.zeros(9)
    for layer in range(4):
        weights = model.weigh(alone, layer, scale=1.0)
        received[alone.batch.position_ids] += weights.mass
        before = alone.history.head_output
        state, alone = model.remove_tokens(state, layer), model.remove_tokens(alone, layer)
        if layer == 1:
            leaves = torch.tensor([False, True, False])
            state = model.regroup(state.select_sequences(~leaves))
        torch.testing.assert_close(alone.history.token_mass, received[alone.batch.position_ids])
        run = range(4) if weights.heads is None else weights.heads[0].tolist()
        grown = (alone.history.head_output - before)[0] > 0
        assert grown.nonzero().flatten().tolist() == list(run)
        assert [part.shape[1] for part in weights.probs] == [len(run)]
    torch.testing.assert_close(state.history.head_output[1], alone.history.head_output[0])
    ours = state.history.token_mass[-alone.batch.num_tokens :]
    torch.testing.assert_close(ours, alone.history.token_mass)


def test_a_wanted_speed_chooses_the_final_share():
    part, lengths = pruner(STEEP.replace(final_keep_ratio=1.0)), torch.tensor([40, 20])

    def removed(num_tokens):
        return float((num_tokens[:, :1] - num_tokens[:, 1:]).sum())

    assert part.meet(lengths, wanted=60.0, measure=removed) == pytest.approx(60.0, abs=1.0)
    assert part.keep_ratios[-1] == pytest.approx(0.5, abs=0.02)
    assert part.meet(lengths, wanted=1000.0, measure=removed) == pytest.approx(118.0, abs=1.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"final_keep_ratio": 1.5}, r"prune\.final_keep_ratio is 1\.5; it must lie in"),
        ({"final_head_ratio": -0.5}, r"prune\.final_head_ratio is -0\.5; it must lie in"),
        ({"whole_layers": 5}, r"prune\.whole_layers is 5; it must lie in \[0, 4\]"),
        ({"whole_head_layers": 0}, r"prune\.whole_head_layers is 0; it must lie in \[1, 4\]"),
        ({"scale": -1.0}, r"prune\.scale is -1\.0; it must lie in"),
        ({"kind": "threshold"}, r"prune\.kind is 'threshold'; known: cascade"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        tiny.CONFIG.replace(prune=CascadeConfig(**fields), backbone=FOUR_HEADS)

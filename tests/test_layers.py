"""Bricks of the encoder: attention in groups, the mass tokens receive, embeddings, position bias."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers.activations import ACT2FN
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

import tiny
from magic_pyramid.activations import ACTIVATIONS
from magic_pyramid.layers import layout as layouts
from magic_pyramid.layers.attention import Attention
from magic_pyramid.layers.block import Block
from magic_pyramid.layers.embeddings import Embeddings, init_weights
from magic_pyramid.layers.feedforward import FeedForward
from magic_pyramid.layers.layout import MAX_GROUP_AREA, MAX_WASTE, plan_layout
from magic_pyramid.layers.relative_bias import RelativeBias, bucket

TOLERANCE = 1e-5
GROUPINGS = {
    "one sequence": (5,),
    "equal lengths": (4, 4, 4),
    "every sequence alone, packed order": (2, 5, 11),
    "every sequence alone, other order": (11, 2, 5),
    "padded group": (10, 9, 10),
    "groups of one and of several": (9, 2, 10, 3, 9, 1),
}
lengths_of_batches = st.lists(st.integers(1, 30), min_size=1, max_size=8).map(tuple)


def attention_and_states(lengths, *, seed=0):
    torch.manual_seed(seed)
    attention = Attention(tiny.BACKBONE).eval()
    init_weights(attention, std=0.5)
    return attention, torch.randn(sum(lengths), tiny.BACKBONE.hidden_size)


def weigh(lengths, *, seed=0):
    attention, states = attention_and_states(lengths, seed=seed)
    with torch.no_grad():
        return attention.weigh(states, plan_layout(tiny.packed(*lengths)), None)


@given(lengths_of_batches)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_mass_of_a_sequence_sums_to_its_tokens(lengths):
    sums = [part.sum() for part in weigh(lengths).mass.split(lengths)]
    torch.testing.assert_close(torch.stack(sums), torch.tensor(lengths).float(), atol=1e-4, rtol=1e-5)


def test_mass_is_the_column_sum_of_the_head_mean():
    weights = weigh((4, 4))
    by_hand = weights.probs[0].mean(1).sum(1).flatten()
    torch.testing.assert_close(weights.mass, by_hand, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("lengths", GROUPINGS.values(), ids=GROUPINGS)
def test_what_a_token_pays_to_itself_is_the_diagonal_of_the_head_mean(lengths):
    attention, states = attention_and_states(lengths)
    with torch.no_grad():
        own = attention.weigh(states, plan_layout(tiny.packed(*lengths)), None, with_own_mass=True).own_mass
        for place, rows in zip(own.split(lengths), states.split(lengths), strict=True):
            alone = attention.weigh(rows, plan_layout(tiny.packed(len(rows))), None)
            by_hand = alone.probs[0][0].mean(0).diagonal()
            torch.testing.assert_close(place, by_hand, atol=TOLERANCE, rtol=TOLERANCE)
            assert alone.own_mass is None


@pytest.mark.parametrize("lengths", GROUPINGS.values(), ids=GROUPINGS)
def test_only_the_heads_that_run_are_computed_and_the_others_give_zeros(lengths):
    attention, states = attention_and_states(lengths)
    layout = plan_layout(tiny.packed(*lengths))
    run = torch.arange(len(lengths)) % 2
    with torch.no_grad():
        every = attention.weigh(states, layout, None).context().view(sum(lengths), 2, -1)
        weights = attention.weigh(states, layout, None, heads=run[:, None])
        some = weights.context()
        kept = torch.arange(0, sum(lengths), 3)
        of_kept = weights.context_of(kept)
    assert {probs.shape[1] for probs in weights.probs} == {1}
    expected = torch.zeros_like(every)
    rows, heads = torch.arange(sum(lengths)), run.repeat_interleave(torch.tensor(lengths))
    expected[rows, heads] = every[rows, heads]
    torch.testing.assert_close(some, expected.flatten(1), atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(of_kept, some[kept], atol=TOLERANCE, rtol=TOLERANCE)


def test_mass_is_measured_before_dropout():
    attention, states = attention_and_states((6,))
    layout = plan_layout(tiny.packed(6))
    calm = attention.weigh(states, layout, None)
    attention.train().dropout = 0.9
    dropped = attention.weigh(states, layout, None)
    assert torch.equal(dropped.mass, calm.mass)
    assert not torch.equal(dropped.context(), calm.context())


@pytest.mark.parametrize("lengths", GROUPINGS.values(), ids=GROUPINGS)
def test_fused_attention_sees_what_the_weights_see(lengths):
    attention, states = attention_and_states(lengths)
    layout = plan_layout(tiny.packed(*lengths))
    with torch.no_grad():
        fused, weighed = attention(states, layout, None), attention.weigh(states, layout, None).context()
    torch.testing.assert_close(fused, weighed, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("lengths", GROUPINGS.values(), ids=GROUPINGS)
@pytest.mark.parametrize("seed", range(3))
def test_the_context_of_kept_tokens_is_a_part_of_the_context(lengths, seed):
    weights = weigh(lengths, seed=seed)
    keep = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(seed)) > 0.4
    keep[tiny.packed(*lengths).first_tokens] = True
    torch.testing.assert_close(
        weights.context_of(keep.nonzero().flatten()), weights.context()[keep], atol=TOLERANCE, rtol=TOLERANCE
    )


@pytest.mark.parametrize("lengths", GROUPINGS.values(), ids=GROUPINGS)
@pytest.mark.parametrize("waste", [1.0, 1e9], ids=["never padded", "one padded group"])
def test_grouping_changes_nothing(lengths, waste, monkeypatch):
    attention, states = attention_and_states(lengths)
    with torch.no_grad():
        usual = attention.weigh(states, plan_layout(tiny.packed(*lengths)), None)
        monkeypatch.setattr(layouts, "MAX_WASTE", waste)
        layout = plan_layout(tiny.packed(*lengths))
        other = attention.weigh(states, layout, None)
    if waste > 1:
        assert len(layout.groups) == 1
    torch.testing.assert_close(other.context(), usual.context(), atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(other.mass, usual.mass, atol=TOLERANCE, rtol=TOLERANCE)


@given(lengths_of_batches)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_layout_holds_every_token_once_and_finds_it_again(lengths):
    layout = plan_layout(tiny.packed(*lengths))
    rows = [group.tokens_of(group.rows) for group in layout.groups]
    assert layout.to_packed(rows).tolist() == list(range(sum(lengths)))


@given(lengths_of_batches)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_groups_waste_little(lengths):
    for group in plan_layout(tiny.packed(*lengths)).groups:
        counts = (
            torch.full(group.rows.shape[:1], group.rows.shape[1])
            if group.valid is None
            else group.valid.sum(1)
        )
        assert group.rows.shape[0] * group.rows.shape[1] ** 2 <= MAX_WASTE * float((counts**2).sum())


def test_a_group_of_long_sequences_stays_small():
    batch = tiny.packed(*[200] * 4)
    assert [group.rows.shape[0] for group in plan_layout(batch).groups] == [MAX_GROUP_AREA // 200**2] * 4


def test_equal_lengths_need_no_padding_and_no_reordering():
    layout = plan_layout(tiny.packed(3, 3))
    assert layout.inverse is None
    assert layout.groups[0].valid is None
    assert layout.groups[0].rows.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_padding_points_at_row_zero_and_is_not_valid(monkeypatch):
    monkeypatch.setattr(layouts, "MAX_WASTE", 10.0)
    (group,) = plan_layout(tiny.packed(1, 2)).groups
    assert group.rows.tolist() == [[0, 0], [1, 2]]
    assert group.valid is not None
    assert group.valid.tolist() == [[True, False], [True, True]]


def test_padded_keys_get_no_attention():
    weights = weigh((10, 9))
    (probs,), (group,) = weights.probs, weights.layout.groups
    assert group.valid is not None
    assert not probs.transpose(1, 3)[~group.valid].any()


def test_a_block_finishes_each_token_on_its_own():
    torch.manual_seed(0)
    block = Block(tiny.BACKBONE).eval()
    context, residual = torch.randn(5, 16), torch.randn(5, 16)
    with torch.no_grad():
        whole = block.finish(context, residual)
        part = block.finish(context[[3, 1]], residual[[3, 1]])
    torch.testing.assert_close(part, whole[[3, 1]], atol=TOLERANCE, rtol=TOLERANCE)


def test_embeddings_are_the_normed_sum_of_their_tables():
    torch.manual_seed(0)
    tables = Embeddings(tiny.BACKBONE.replace(position_offset=2)).eval()
    batch = tiny.packed(3, 2)
    states = tables(batch)
    summed = (
        tables.token.weight[batch.token_ids]
        + tables.position.weight[[2, 3, 4, 2, 3]]
        + tables.token_type.weight[0]
    )
    centred = summed - summed.mean(1, keepdim=True)
    by_hand = centred / (centred.square().mean(1, keepdim=True) + 1e-12).sqrt()
    torch.testing.assert_close(states, by_hand, atol=TOLERANCE, rtol=TOLERANCE)


def test_embeddings_have_the_parts_of_their_backbone():
    names = {
        family: {name.partition(".")[0] for name in Embeddings(backbone).state_dict()}
        for family, backbone in tiny.FAMILIES.items()
    }
    assert names["bert"] == {"token", "position", "token_type", "norm"}
    assert names["mpnet"] == names["distilbert"] == {"token", "position", "norm"}
    assert names["electra"] == {"token", "position", "token_type", "norm", "projection"}


def test_a_position_follows_its_token_when_neighbours_leave():
    tables = Embeddings(tiny.BACKBONE).eval()
    batch = tiny.packed(6)
    keep = torch.tensor([True, False, True, False, False, True])
    assert torch.equal(tables(batch.select_tokens(keep)), tables(batch)[keep])


def test_initial_weights_have_the_spread_of_bert():
    torch.manual_seed(0)
    block = Block(tiny.BACKBONE.replace(hidden_size=128, intermediate_size=256))
    init_weights(block)
    assert float(block.feedforward.up.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert not block.feedforward.up.bias.any()
    assert torch.equal(block.output_norm.weight, torch.ones(128))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_those_of_transformers(name):
    torch.manual_seed(0)
    feedforward = FeedForward(tiny.BACKBONE.replace(hidden_act=name))
    states = torch.randn(7, 16)
    with torch.no_grad():
        widened = functional.linear(states, feedforward.up.weight, feedforward.up.bias)
        theirs = feedforward.down(ACT2FN[name](widened))
        torch.testing.assert_close(feedforward(states), theirs, atol=TOLERANCE, rtol=TOLERANCE)
    with torch.inference_mode():
        torch.testing.assert_close(feedforward(states), theirs, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("num_buckets", [8, 32])
def test_distance_buckets_are_those_of_mpnet(num_buckets):
    distances = torch.arange(-300, 301)
    theirs = MPNetEncoder.relative_position_bucket(distances, num_buckets=num_buckets)
    assert torch.equal(bucket(distances, num_buckets=num_buckets), theirs)


def test_the_bias_of_survivors_is_the_bias_they_had():
    torch.manual_seed(0)
    relative = RelativeBias(8, 2)
    batch = tiny.packed(12)
    keep = torch.tensor([True, *[False, True] * 5, True])
    smaller = batch.select_tokens(keep)
    (whole,) = relative.for_layout(batch, plan_layout(batch))
    (part,) = relative.for_layout(smaller, plan_layout(smaller))
    assert torch.equal(part, whole[:, :, keep][:, :, :, keep])

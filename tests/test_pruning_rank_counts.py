"""Learned counts, against numbers worked out by hand."""

import pytest
import torch

import tiny
from magic_pyramid.config import RankCountsConfig
from magic_pyramid.errors import ConfigError
from magic_pyramid.packing import pack_sequences
from magic_pyramid.pruning.interface import Attended
from magic_pyramid.pruning.rank_counts import RankCountsPruner

BATCH = pack_sequences([[2, 7, 8, 9, 10], [2, 7, 8]])
MASS = torch.tensor([9.0, 1.2, 1.5, 0.1, 0.9, 0.0, 0.2, 0.4])
OWN = torch.tensor([0.0, 0.2, 1.3, 0.0, 0.1, 0.0, 0.1, 0.2])
"""What is left of the first sequence: 9.0, 1.0, 0.2, 0.1, 0.8; of the second: 0.0, 0.1, 0.2."""
SEEN = Attended(batch=BATCH, mass=MASS, own_mass=OWN, input_lengths=BATCH.lengths)


def pruner(*shares, **fields):
    """A row of shares for each of three layers, by rank; inputs have up to 6 tokens."""
    prune = RankCountsConfig(**fields)
    part = RankCountsPruner(tiny.CONFIG.replace(prune=prune, max_length=6), prune)
    if shares:
        with torch.no_grad():
            part.shares.copy_(torch.tensor(shares))
    return part


FALLING = ([1.0, 1.0, 0.7, 0.2, 0.0], [1.0, 1.0, 1.0, 1.0, 0.5], [0.6, 0.3, 0.0, 0.0, 0.0])


def kept(part, layer, *, scale=1.0):
    return [row.tolist() for row in part.keep_mask(layer, SEEN, scale=scale).split(BATCH.lengths.tolist())]


def test_before_training_no_layer_removes_a_token():
    part = pruner()
    assert part.counts() == [6, 6, 6]
    assert not any(part.prunes_at(layer, scale=1.0) for layer in range(3))
    assert part.prunes_at(0, scale=1.3)
    assert not part.prunes_at(0, scale=0.0)


def test_counts_are_what_shares_amount_to_and_never_grow():
    assert pruner(*FALLING).counts() == [3, 3, 1]
    assert pruner(*reversed(FALLING)).counts() == [1, 1, 1]
    assert pruner(*FALLING).learned() == {"kept_counts": [3.0, 3.0, 1.0]}


def test_the_tokens_that_others_attend_to_stay():
    assert kept(pruner(*FALLING), 0) == [[True, True, False, False, True], [True, True, True]]
    assert kept(pruner(*FALLING), 2) == [[True, *[False] * 4], [True, False, False]]


def test_the_scale_divides_the_counts():
    part = pruner(*FALLING)
    assert kept(part, 0, scale=0.5) == [[True] * 5, [True] * 3]
    assert kept(part, 0, scale=0.75) == [[True, True, True, False, True], [True] * 3]
    assert kept(part, 0, scale=1.5) == [[True, True, False, False, False], [True, False, True]]
    assert kept(part, 0, scale=1e6) == [[True, *[False] * 4], [True, False, False]]


def test_the_soft_mask_is_the_share_of_the_rank_and_1_for_the_first_token():
    weights = pruner(*FALLING).soft_mask(0, SEEN)
    assert weights.tolist() == pytest.approx([1.0, 1.0, 0.7, 0.2, 1.0, 1.0, 1.0, 1.0])
    weights = pruner(*FALLING).soft_mask(2, SEEN)
    assert weights.tolist() == pytest.approx([1.0, 0.6, 0.0, 0.0, 0.3, 1.0, 0.3, 0.6])


def test_the_penalty_weights_a_layer_by_its_number_and_reaches_every_rank():
    part = pruner(*FALLING)
    weights = part.soft_mask(1, SEEN)
    penalty = part.penalty(1, weights, BATCH)
    assert penalty.tolist() == pytest.approx([9.0, 9.0])
    penalty.mean().backward()
    assert part.shares.grad[1].tolist() == [2.0] * 5
    assert not part.shares.grad[[0, 2]].any()


def test_shares_return_to_their_range_after_a_step():
    part = pruner([1.5, -0.5, 0.3, 1.0, 0.0], *FALLING[1:])
    part.settle()
    assert part.shares[0].tolist() == pytest.approx([1.0, 0.0, 0.3, 1.0, 0.0])


def test_expected_tokens_are_those_left_with_the_gradient_of_the_mean_share():
    part = pruner(*FALLING)
    arrived = torch.tensor([5.0, 3.0, 2.0])
    left = part.expected_tokens(0, torch.ones(8), BATCH, arrived)
    assert left.tolist() == pytest.approx([3.0, 3.0, 2.0])
    left.sum().backward()
    assert part.shares.grad[0].tolist() == pytest.approx([(4 + 2 + 1) / 5] * 5)


def test_shares_are_shifted_until_texts_are_as_short_as_wanted():
    part, lengths = pruner(*FALLING), torch.tensor([6, 4])

    def removed(num_tokens):
        return float((num_tokens[:, :1] - num_tokens[:, 1:]).sum())

    assert part.meet(lengths, wanted=8.0, measure=removed) == 8.0
    counts = torch.tensor(part.counts())
    assert int((lengths[:, None] - lengths[:, None].minimum(counts)).sum()) == 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"penalty": -1.0}, r"prune\.penalty is -1\.0; it must lie in"),
        ({"scale": -1.0}, r"prune\.scale is -1\.0; it must lie in"),
        ({"kind": "cascade"}, r"prune\.kind is 'cascade'; known: rank_counts"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        RankCountsConfig(**fields)

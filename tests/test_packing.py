"""Packed batches: exact small cases, and the laws of packing and of the two selections."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from magic_pyramid.errors import InputError
from magic_pyramid.packing import PackedBatch, offsets, pack, pack_sequences, unpack

LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=5)
SEEDS = st.integers(0, 2**31)


def small() -> PackedBatch:
    """Lengths 3 and 2."""
    return pack_sequences([[5, 6, 7], [8, 9]], token_type_ids=[[0, 0, 1], [0, 1]])


def random_batch(lengths: list[int], seed: int) -> PackedBatch:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(1, 30, (n,), generator=generator).tolist() for n in lengths]
    return pack_sequences(ids)


def padded(rows: list[list[int]], *, side: str, fill: int, extra: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded ids and their mask, with padding of any content on either side."""
    width = max(map(len, rows)) + extra
    ids, mask = [], []
    for row in rows:
        hole = width - len(row)
        ids.append([fill] * hole + row if side == "left" else row + [fill] * hole)
        mask.append([0] * hole + [1] * len(row) if side == "left" else [1] * len(row) + [0] * hole)
    return torch.tensor(ids), torch.tensor(mask)


def rows_of(batch: PackedBatch) -> list[list[int]]:
    return [part.tolist() for part in batch.token_ids.split(batch.lengths.tolist())]


def assert_same(first: PackedBatch, second: PackedBatch) -> None:
    for f in dataclasses.fields(PackedBatch):
        one, other = getattr(first, f.name), getattr(second, f.name)
        assert one.dtype == other.dtype, f.name
        assert one.tolist() == other.tolist(), f.name


def test_lengths_three_and_two():
    batch = small()
    assert batch.token_ids.tolist() == [5, 6, 7, 8, 9]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert batch.token_type_ids.tolist() == [0, 0, 1, 0, 1]
    assert batch.cu_seqlens.tolist() == [0, 3, 5]
    assert batch.sequence_ids.tolist() == [0, 1]
    assert batch.lengths.tolist() == [3, 2]
    assert batch.first_tokens.tolist() == [0, 3]
    assert batch.sequence_of_token.tolist() == [0, 0, 0, 1, 1]
    assert (batch.num_tokens, batch.num_sequences) == (5, 2)


def test_offsets_are_int32_and_the_rest_int64():
    batch = small()
    assert batch.cu_seqlens.dtype == torch.int32
    others = {f.name for f in dataclasses.fields(batch)} - {"cu_seqlens"}
    assert {getattr(batch, name).dtype for name in others} == {torch.int64}


def test_offsets_start_at_zero_and_end_at_the_sum():
    assert offsets(torch.tensor([3, 2, 4])).tolist() == [0, 3, 5, 9]


def test_sequence_ids_can_be_given():
    assert pack_sequences([[1], [2, 3]], sequence_ids=[7, 4]).sequence_ids.tolist() == [7, 4]


def test_token_types_default_to_zero():
    assert pack_sequences([[1], [2, 3]]).token_type_ids.tolist() == [0, 0, 0]


def test_pack_without_a_mask_takes_every_token():
    batch = pack(torch.tensor([[1, 2], [3, 4]]))
    assert batch.token_ids.tolist() == [1, 2, 3, 4]
    assert batch.cu_seqlens.tolist() == [0, 2, 4]


def test_pack_takes_token_types_where_the_mask_does():
    ids, mask = padded([[5, 6, 7], [8, 9]], side="left", fill=0, extra=1)
    types, _ = padded([[0, 0, 1], [0, 1]], side="left", fill=1, extra=1)
    assert_same(pack(ids, attention_mask=mask, token_type_ids=types), small())


def test_unpack_pads_on_the_right_with_zeros():
    assert unpack(small().token_ids, small()).tolist() == [[5, 6, 7], [8, 9, 0]]


def test_unpack_to_a_given_length():
    assert unpack(small().token_ids, small(), length=4).tolist() == [[5, 6, 7, 0], [8, 9, 0, 0]]


def test_unpack_keeps_trailing_dimensions():
    values = torch.arange(10.0).reshape(5, 2)
    assert unpack(values, small()).shape == (2, 3, 2)
    assert unpack(values, small())[1].tolist() == [[6.0, 7.0], [8.0, 9.0], [0.0, 0.0]]


def test_select_tokens_drops_tokens_and_keeps_their_positions():
    batch = small().select_tokens(torch.tensor([True, False, True, True, False]))
    assert batch.token_ids.tolist() == [5, 7, 8]
    assert batch.position_ids.tolist() == [0, 2, 0]
    assert batch.token_type_ids.tolist() == [0, 1, 0]
    assert batch.cu_seqlens.tolist() == [0, 2, 3]
    assert batch.sequence_ids.tolist() == [0, 1]


def test_per_token_repeats_the_value_of_the_sequence():
    assert small().per_token(torch.tensor([7, 9])).tolist() == [7, 7, 7, 9, 9]
    assert small().select_sequences(torch.tensor([False, True])).per_token(torch.tensor([9])).tolist() == [
        9,
        9,
    ]


def test_select_tokens_may_empty_a_sequence():
    batch = small().select_tokens(torch.tensor([False, False, False, True, True]))
    assert batch.lengths.tolist() == [0, 2]
    assert batch.sequence_of_token.tolist() == [1, 1]


def test_select_sequences_drops_rows_with_all_their_tokens():
    batch = small().select_sequences(torch.tensor([False, True]))
    assert batch.token_ids.tolist() == [8, 9]
    assert batch.position_ids.tolist() == [0, 1]
    assert batch.cu_seqlens.tolist() == [0, 2]
    assert batch.sequence_ids.tolist() == [1]


def test_select_sequences_may_leave_none():
    batch = small().select_sequences(torch.tensor([False, False]))
    assert (batch.num_tokens, batch.num_sequences) == (0, 0)
    assert batch.cu_seqlens.tolist() == [0]


def test_a_selection_gives_a_new_batch():
    batch = small()
    batch.select_tokens(torch.zeros(5, dtype=torch.bool))
    batch.select_sequences(torch.zeros(2, dtype=torch.bool))
    assert_same(batch, small())


def test_a_batch_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().token_ids = torch.tensor([1])


def test_to_moves_every_field():
    moved = small().to("meta")
    assert {getattr(moved, f.name).device.type for f in dataclasses.fields(moved)} == {"meta"}
    assert_same(small().to("cpu"), small())


@pytest.mark.parametrize("ids", [[], [[]], [[1, 2], []]], ids=["no sequence", "only empty", "one empty"])
def test_an_empty_sequence_is_refused(ids):
    with pytest.raises(InputError, match="at least one sequence, each of at least one token"):
        pack_sequences(ids)


def test_a_row_of_padding_only_is_refused():
    with pytest.raises(InputError, match="at least one sequence, each of at least one token"):
        pack(torch.tensor([[1, 2], [3, 4]]), attention_mask=torch.tensor([[1, 1], [0, 0]]))


def test_a_padded_batch_without_rows_is_refused():
    with pytest.raises(InputError, match="at least one sequence, each of at least one token"):
        pack(torch.zeros((0, 3), dtype=torch.int64))


@given(lengths=LENGTHS, seed=SEEDS, extra=st.integers(0, 3))
def test_unpack_undoes_pack(lengths, seed, extra):
    ids, mask = padded(rows_of(random_batch(lengths, seed)), side="right", fill=0, extra=extra)
    batch = pack(ids, attention_mask=mask)
    assert torch.equal(unpack(batch.token_ids, batch, length=ids.shape[1]), ids)


@given(lengths=LENGTHS, seed=SEEDS, extra=st.integers(0, 3), fill=st.integers(0, 29))
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_width_and_content_do_not_matter(side, lengths, seed, extra, fill):
    expected = random_batch(lengths, seed)
    ids, mask = padded(rows_of(expected), side=side, fill=fill, extra=extra)
    assert_same(pack(ids, attention_mask=mask), expected)


@given(lengths=LENGTHS, seed=SEEDS)
def test_selecting_everything_changes_nothing(lengths, seed):
    batch = random_batch(lengths, seed)
    assert_same(batch.select_tokens(torch.ones(batch.num_tokens, dtype=torch.bool)), batch)
    assert_same(batch.select_sequences(torch.ones(batch.num_sequences, dtype=torch.bool)), batch)


@given(lengths=LENGTHS, seed=SEEDS)
def test_the_two_selections_commute(lengths, seed):
    batch = random_batch(lengths, seed)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.rand(batch.num_tokens, generator=generator) < 0.5
    rows = torch.rand(batch.num_sequences, generator=generator) < 0.5
    width_first = batch.select_tokens(tokens).select_sequences(rows)
    depth_first = batch.select_sequences(rows).select_tokens(tokens[rows[batch.sequence_of_token]])
    assert_same(width_first, depth_first)


@given(lengths=LENGTHS, seed=SEEDS)
def test_survivors_keep_their_order(lengths, seed):
    batch = random_batch(lengths, seed)
    keep = torch.rand(batch.num_tokens, generator=torch.Generator().manual_seed(seed)) < 0.5
    kept = batch.select_tokens(keep)
    for row, positions in enumerate(kept.position_ids.split(kept.lengths.tolist())):
        assert positions.tolist() == sorted(set(positions.tolist())), row
    assert kept.lengths.tolist() == [int(part.sum()) for part in keep.split(batch.lengths.tolist())]


def test_the_largest_value_of_each_sequence():
    batch = pack_sequences([[5, 6, 7], [8], [9, 9]])
    values = torch.tensor([0.5, 2.0, 0.1, 0.0, 0.3, 0.2])
    assert batch.max_tokens(values).tolist() == pytest.approx([2.0, 0.0, 0.3])

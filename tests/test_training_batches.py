"""Batches hold what the budget allows, every row comes once an epoch, and processes share without overlap."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from magic_pyramid.tokenization import EncodedTexts
from magic_pyramid.training.batches import TokenBudgetSampler, TrainRows, loader, token_batches
from magic_pyramid.training.teacher import Teacher

LENGTHS = [3, 9, 4, 4, 30, 7, 2, 5, 6, 8, 3, 3]


def sampler(lengths=LENGTHS, **changes):
    return TokenBudgetSampler(lengths, **{"tokens_per_batch": 16, "max_sequences_per_batch": 4, **changes})


def rows_of(found):
    return [cut.rows for cut in found]


def test_rows_are_cut_where_either_limit_is_reached():
    batches = token_batches(
        np.array([5, 5, 5, 1, 1, 1, 1]), order=np.arange(7), tokens_per_batch=10, max_sequences_per_batch=3
    )
    assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3, 4], [5, 6]]


def test_a_sequence_over_the_budget_is_alone():
    batches = token_batches(
        np.array([2, 99, 2]), order=np.arange(3), tokens_per_batch=10, max_sequences_per_batch=8
    )
    assert [batch.tolist() for batch in batches] == [[0], [1], [2]]


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    budget=st.integers(1, 64),
    most=st.integers(1, 9),
)
def test_no_batch_exceeds_its_limits_and_every_row_comes_once(lengths, budget, most):
    batches = rows_of(sampler(lengths, tokens_per_batch=budget, max_sequences_per_batch=most))
    for rows in batches:
        assert len(rows) <= most
        assert sum(lengths[row] for row in rows) <= budget or len(rows) == 1
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))


def test_sequences_of_a_batch_have_similar_lengths():
    lengths = np.random.default_rng(0).integers(5, 100, size=2000)
    batches = rows_of(sampler(lengths, tokens_per_batch=1000, max_sequences_per_batch=1000))
    spread = np.mean([lengths[rows].max() - lengths[rows].min() for rows in batches])
    assert spread < 10


def test_the_order_depends_on_seed_and_epoch_only():
    first = rows_of(sampler(epochs=2, seed=1))
    assert first == rows_of(sampler(epochs=2, seed=1))
    assert first != rows_of(sampler(epochs=2, seed=2))
    half = sampler(epochs=2, seed=1).epoch_ends[0]
    assert first[:half] != first[half:]


def test_every_epoch_has_every_row():
    found = sampler(epochs=3)
    batches = rows_of(found)
    for begin, end in zip([0, *found.epoch_ends], found.epoch_ends, strict=False):
        assert sorted(row for rows in batches[begin:end] for row in rows) == list(range(len(LENGTHS)))
    assert len(found) == found.epoch_ends[-1]


@pytest.mark.parametrize(("epochs", "ends"), [(0.5, 1), (1.0, 1), (1.5, 2)])
def test_a_part_of_an_epoch_is_cut_short(epochs, ends):
    found = sampler([4] * 64, epochs=epochs)
    assert len(found.epoch_ends) == ends
    assert len(found) == epochs * 16


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_processes_share_each_batch_without_overlap(world_size):
    alone = list(sampler(epochs=2))
    shared = zip(
        *(sampler(epochs=2, rank=rank, world_size=world_size) for rank in range(world_size)), strict=True
    )
    for whole, parts in zip(alone, shared, strict=True):
        counted = [row for part in parts for row in part.rows[: part.num_local]]
        assert sorted(counted) == sorted(whole.rows)
        assert {part.num_global for part in parts} == {len(whole.rows)}


def test_a_process_without_a_sequence_borrows_one_that_does_not_count():
    cuts = list(sampler([9], rank=1, world_size=2))
    assert [(cut.rows, cut.num_local, cut.num_global) for cut in cuts] == [([0], 0, 1)]


def teacher(rows: int) -> Teacher:
    return Teacher(logits=torch.eye(rows), ranking=torch.arange(rows)[:, None])


def test_the_loader_packs_the_rows_of_a_cut_with_their_targets():
    encoded = EncodedTexts([[1, 5, 2], [1, 2], [1, 6, 7, 2]], [[0, 0, 0], [0, 0], [0, 0, 1, 1]])
    rows = TrainRows(encoded, torch.tensor([0, 1, 2]), teacher(3))
    (batch,) = loader(rows, sampler(encoded.lengths))
    order = batch.batch.sequence_ids.tolist()
    assert sorted(order) == [0, 1, 2]
    assert batch.targets.tolist() == order
    assert batch.teacher is not None
    assert batch.teacher.logits.argmax(1).tolist() == order
    assert batch.teacher.ranking.flatten().tolist() == order
    assert batch.batch.lengths.tolist() == [encoded.lengths[row] for row in order]
    assert (batch.num_local, batch.num_global) == (3, 3)
    assert len(rows) == 3


def test_a_part_moves_to_a_device_as_a_whole():
    rows = TrainRows(EncodedTexts([[1, 2]], [[0, 0]]), torch.tensor([0]), teacher(1))
    (batch,) = loader(rows, sampler([2]))
    moved = batch.to("meta")
    assert {moved.batch.token_ids.device.type, moved.targets.device.type} == {"meta"}
    assert moved.teacher is not None
    assert {tensor.device.type for tensor in moved.teacher.tensors().values()} == {"meta"}

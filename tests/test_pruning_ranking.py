"""The ranking of tokens, and the loss that teaches it, against plain loops."""

import math

import pytest
import torch

from magic_pyramid.packing import pack_sequences
from magic_pyramid.pruning.ranking import rank_distillation, top_tokens

BATCH = pack_sequences([[2, 5, 6, 7, 3], [2, 8, 3], [2]])
MASS = torch.tensor([9.0, 0.5, 2.0, 0.1, 1.0, 9.0, 0.3, 0.7, 1.0])


def by_loops(mass, batch, ranking) -> float:
    """Every pair of every sequence, one by one."""
    losses = []
    for sequence, positions in enumerate(ranking.tolist()):
        alive = {
            int(batch.position_ids[row]): float(mass[row])
            for row in range(int(batch.cu_seqlens[sequence]), int(batch.cu_seqlens[sequence + 1]))
        }
        relevance = {p: len(positions) - i for i, p in enumerate(positions) if p in alive}
        total = 0.0
        for i, y_i in relevance.items():
            for j, y_j in relevance.items():
                if y_i > y_j:
                    total += (y_i - y_j) * math.log2(1 + math.exp(alive[j] - alive[i]))
        losses.append(total / max(1, len(relevance)) ** 2)
    return sum(losses) / len(losses)


def test_the_ranking_is_by_attention_and_leaves_cls_out():
    assert top_tokens(MASS, BATCH, count=3).tolist() == [[2, 4, 1], [2, 1, -1], [-1, -1, -1]]


def test_a_token_that_receives_no_attention_is_still_ranked():
    batch = pack_sequences([[2, 5, 3]])
    assert top_tokens(torch.tensor([3.0, 0.0, 1.0]), batch, count=4).tolist() == [[2, 1, -1, -1]]


@pytest.mark.parametrize("count", [1, 3, 6])
def test_the_loss_is_the_sum_over_pairs(count):
    torch.manual_seed(count)
    mass = torch.rand(BATCH.num_tokens) * 3
    ranking = top_tokens(MASS, BATCH, count=count)
    expected = by_loops(mass, BATCH, ranking)
    assert float(rank_distillation(mass, BATCH, ranking)) == pytest.approx(expected, abs=1e-6)


def test_removed_tokens_are_left_out_of_the_loss():
    smaller = BATCH.select_tokens(torch.tensor([1, 0, 1, 1, 1, 1, 0, 1, 1]).bool())
    mass = torch.rand(smaller.num_tokens)
    ranking = top_tokens(MASS, BATCH, count=4)
    expected = by_loops(mass, smaller, ranking)
    assert float(rank_distillation(mass, smaller, ranking)) == pytest.approx(expected, abs=1e-6)


def test_descent_brings_the_scores_into_the_teachers_order():
    mass = torch.ones(BATCH.num_tokens, requires_grad=True)
    ranking = top_tokens(MASS, BATCH, count=4)
    for _ in range(20):
        (gradient,) = torch.autograd.grad(rank_distillation(mass, BATCH, ranking), mass)
        mass = (mass - gradient).detach().requires_grad_()
    assert top_tokens(mass.detach(), BATCH, count=4).tolist() == ranking.tolist()


def test_a_margin_of_one_average_token_counts():
    batch, ranking = pack_sequences([[2, 5, 6]]), torch.tensor([[1, 2]])
    wrong = rank_distillation(torch.tensor([0.0, 0.0, 1.0]), batch, ranking)
    right = rank_distillation(torch.tensor([0.0, 1.0, 0.0]), batch, ranking)
    assert float(wrong / right) > 3

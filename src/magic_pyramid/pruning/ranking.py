"""Which tokens matter most: a teacher's ranking, and a loss that brings a layer's attention in its order.

Symbols of LambdaLoss-ARP2: y = relevance, s = score, K = ranked tokens (ToP, section 3.3).
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from magic_pyramid.packing import PackedBatch, unpack


def top_tokens(
    mass: Float[Tensor, " tokens"], batch: PackedBatch, *, count: int
) -> Int64[Tensor, "seqs count"]:
    """Positions of the tokens that receive most attention, most first; [CLS] is left out.

    A sequence with fewer tokens has -1 behind its last.

    Args:
        mass: attention each token received.
        batch: all tokens of the inputs.
        count: positions a sequence.
    """
    contested = mass.masked_fill(batch.position_ids == 0, -1.0)
    padded = functional.pad(unpack(contested + 1.0, batch), (0, count))
    top = padded.topk(count, dim=1)
    return top.indices.masked_fill(top.values == 0, -1)


def ranks(
    importance: Float[Tensor, " tokens"], batch: PackedBatch, *, among: Bool[Tensor, " tokens"]
) -> Int64[Tensor, " tokens"]:
    """Rank of each token in its sequence, the most important 0; the earlier of two equals comes first.

    Args:
        importance: what to rank by.
        batch: the sequences.
        among: the tokens that take part; the others stand behind them.
    """
    order = importance.masked_fill(~among, -torch.inf).argsort(descending=True, stable=True)
    order = order.index_select(0, batch.sequence_of_token.index_select(0, order).argsort(stable=True))
    places = torch.arange(batch.num_tokens, device=order.device) - batch.per_token(batch.first_tokens)
    return torch.empty_like(order).scatter_(0, order, places)


def all_but_first(batch: PackedBatch) -> Bool[Tensor, " tokens"]:
    """The tokens that may be removed: [CLS] carries the label, so it may never be."""
    return batch.position_ids > 0


def rank_distillation(
    mass: Float[Tensor, " tokens"], batch: PackedBatch, ranking: Int64[Tensor, "seqs count"]
) -> Float[Tensor, ""]:
    """How far a layer's attention is from the teacher's order: LambdaLoss-ARP2, the mean over sequences.

    A sequence's K ranked tokens have the relevances K - 1 to 0, and its loss is the sum over their pairs with
    y_i > y_j of ``(y_i - y_j) * log2(1 + exp(s_j - s_i))``, over K squared. The score is the attention mass
    itself, which averages 1: margins do not shrink as texts get longer. Removed tokens are left out.

    Args:
        mass: attention each token alive received.
        batch: the tokens alive.
        ranking: positions by ``top_tokens`` of the teacher, of these sequences.
    """
    rows, found = _rows_of(ranking, batch)
    scores = mass[rows]
    count = ranking.shape[1]
    gap = torch.arange(count, device=mass.device)
    # The i-th in the ranking is j - i more relevant than the j-th, whatever K is.
    weight = (gap[None, :] - gap[:, None]).clamp(min=0)
    pairs = weight * found[:, :, None] * found[:, None, :]
    costs = functional.softplus(scores[:, None, :] - scores[:, :, None]) / torch.log(scores.new_tensor(2.0))
    ranked = found.sum(1).clamp(min=1)
    return ((pairs * costs).sum((1, 2)) / ranked**2).mean()


def _rows_of(ranking: Int64[Tensor, "seqs count"], batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Packed row of each ranked position, and whether it is there."""
    stride = int(batch.position_ids.max()) + 2
    places = batch.sequence_of_token * stride + batch.position_ids
    first = torch.arange(len(ranking), device=ranking.device)[:, None] * stride
    wanted = first + ranking.clamp(max=stride - 1)
    rows = torch.searchsorted(places, wanted.contiguous()).clamp(max=batch.num_tokens - 1)
    return rows, (places[rows] == wanted) & (ranking >= 0)

"""Where each token stands among those of its sequence, by the attention it received."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from magic_pyramid.packing import PackedBatch


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

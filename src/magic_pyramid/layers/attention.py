"""Self-attention on packed hidden states, in two halves: who looks at whom, then what they see.

Token pruning decides between the halves, so the second one runs for the kept queries only
(Magic Pyramid, section 3.1; LTP, section 3.2).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from magic_pyramid.config import BackboneConfig
from magic_pyramid.layers.layout import Group, Layout

Bias = tuple[Float[Tensor, "_ heads _ _"], ...]
"""Relative position bias of each group of a layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWeights:
    """Attention probabilities of one layer, before they are applied to the values."""

    layout: Layout
    probs: tuple[Float[Tensor, "_ heads _ _"], ...]
    values: tuple[Float[Tensor, "_ heads _ head_size"], ...]
    mass: Float[Tensor, " tokens"]
    """Attention each token receives: sum over the sequence's queries, mean over heads; averages 1 exactly."""
    dropout: float
    """Dropout on the probabilities when they are applied."""

    def context(self) -> Float[Tensor, "tokens hidden"]:
        """What every token sees."""
        return self.layout.to_packed(
            [
                _flatten(functional.dropout(probs, self.dropout) @ values, group)
                for group, probs, values in self._parts()
            ]
        )

    def context_of(self, keep: Bool[Tensor, " tokens"]) -> Float[Tensor, "kept hidden"]:
        """What the kept tokens see; a sequence that attends alone skips the work of the others."""
        if any(group.rows.shape[0] > 1 for group in self.layout.groups):
            return self.context().index_select(0, keep.nonzero().flatten())
        parts = []
        for group, probs, values in self._parts():
            queries = probs.index_select(2, group.entries_of(keep).nonzero().flatten())
            parts.append((functional.dropout(queries, self.dropout) @ values)[0].transpose(0, 1).flatten(1))
        if self.layout.inverse is None:
            return torch.cat(parts)
        order = torch.cat([group.rows[0] for group in self.layout.groups])
        return torch.cat(parts)[order[keep[order]].argsort()]

    def _parts(self) -> "zip[tuple[Group, Tensor, Tensor]]":
        return zip(self.layout.groups, self.probs, self.values, strict=True)


class Attention(nn.Module):
    """Multi-head self-attention; query, key and value matrices are stored as one."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: Float[Tensor, "tokens hidden"], layout: Layout, bias: Bias | None
    ) -> Float[Tensor, "tokens hidden"]:
        """What every token sees, with fused kernels; gives no attention mass."""
        qkv = self.qkv(hidden_states)
        parts = []
        for index, group in enumerate(layout.groups):
            query, key, value = self._heads(qkv, group)
            attended = functional.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=_key_bias(group, None if bias is None else bias[index], query),
                dropout_p=self._dropout_now,
            )
            parts.append(_flatten(attended, group))
        return layout.to_packed(parts)

    def weigh(
        self, hidden_states: Float[Tensor, "tokens hidden"], layout: Layout, bias: Bias | None
    ) -> AttentionWeights:
        """Probabilities (fp32, before dropout) and the mass each token receives."""
        qkv = self.qkv(hidden_states)
        probs, values, masses = [], [], []
        for index, group in enumerate(layout.groups):
            query, key, value = self._heads(qkv, group)
            scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2)
            added = _key_bias(group, None if bias is None else bias[index], query)
            scores = scores if added is None else scores + added
            weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
            probs.append(weights.to(value.dtype))
            values.append(value)
            masses.append(_mass(weights, group))
        return AttentionWeights(
            layout=layout,
            probs=tuple(probs),
            values=tuple(values),
            mass=layout.to_packed(masses),
            dropout=self._dropout_now,
        )

    @property
    def _dropout_now(self) -> float:
        return self.dropout if self.training else 0.0

    def _heads(self, qkv: Tensor, group: Group) -> tuple[Tensor, Tensor, Tensor]:
        seqs, length = group.rows.shape
        split = group.entries_of(qkv).view(seqs, length, 3, self.num_heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value


def _key_bias(group: Group, bias: Tensor | None, like: Tensor) -> Tensor | None:
    """What is added to the scores: the position bias, and minus infinity at padded keys."""
    if group.valid is None:
        return None if bias is None else bias.to(like.dtype)
    padding = torch.zeros(group.valid.shape, dtype=like.dtype, device=like.device)
    padding = padding.masked_fill(~group.valid, -torch.inf)[:, None, None, :]
    return padding if bias is None else padding + bias.to(like.dtype)


def _mass(probs: Tensor, group: Group) -> Tensor:
    if group.valid is None:
        return probs.sum(dim=2).mean(dim=1).flatten()
    by_real_queries = torch.einsum("shqk,sq->sk", probs, group.valid.to(probs.dtype)) / probs.shape[1]
    return group.tokens_of(by_real_queries)


def _flatten(attended: Float[Tensor, "seqs heads length head_size"], group: Group) -> Tensor:
    return group.tokens_of(attended.transpose(1, 2).flatten(2))

"""Self-attention on packed hidden states, in two halves: who looks at whom, then what they see.

Token pruning decides between the halves, so the second one runs for the kept queries only
(Magic Pyramid, section 3.1; LTP, section 3.2).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from magic_pyramid.config import BackboneConfig
from magic_pyramid.layers.layout import Group, Layout
from magic_pyramid.linear import Linear

Bias = tuple[Float[Tensor, "_ heads _ _"], ...]
"""Relative position bias of each group of a layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWeights:
    """Attention probabilities of one layer, before they are applied to the values."""

    layout: Layout
    probs: tuple[Float[Tensor, "_ run _ _"], ...]
    values: tuple[Float[Tensor, "_ run _ head_size"], ...]
    mass: Float[Tensor, " tokens"]
    """Attention each token receives: sum over the sequence's queries, mean over the heads that run; averages
    1 exactly."""
    own_mass: Float[Tensor, " tokens"] | None
    """The part of it that each token pays to itself, where that was asked for."""
    dropout: float
    """Dropout on the probabilities when they are applied."""
    num_heads: int
    """Of the layer."""
    heads: Int64[Tensor, "seqs run"] | None
    """Those that run for each sequence; None: all."""

    def context(self) -> Float[Tensor, "tokens hidden"]:
        """What every token sees."""
        return self.layout.to_packed(
            [
                _flatten(self._spread(functional.dropout(probs, self.dropout) @ values, group), group)
                for group, probs, values in self._parts()
            ]
        )

    def context_of(self, kept: Int64[Tensor, " kept"]) -> Float[Tensor, "kept hidden"]:
        """What the tokens at these packed rows see; a single sequence skips the work of most others."""
        is_single = len(self.probs) == 1 and self.probs[0].shape[0] == 1
        # Picking the queries copies their probabilities, which costs more than the work of a few.
        if not is_single or 2 * len(kept) > len(self.mass):
            return self.context().index_select(0, kept)
        queries = self.probs[0].index_select(2, kept)
        context = functional.dropout(queries, self.dropout) @ self.values[0]
        return self._spread(context, self.layout.groups[0])[0].transpose(0, 1).flatten(1)

    def _spread(self, context: Tensor, group: Group) -> Tensor:
        """All heads of a group's sequences: exactly 0 where one did not run."""
        if self.heads is None:
            return context
        seqs, _, queries, head_size = context.shape
        places = _of_group(self.heads, group)[:, :, None, None].expand_as(context)
        return context.new_zeros(seqs, self.num_heads, queries, head_size).scatter(1, places, context)

    def _parts(self) -> "zip[tuple[Group, Tensor, Tensor]]":
        return zip(self.layout.groups, self.probs, self.values, strict=True)


class Attention(nn.Module):
    """Multi-head self-attention; query, key and value matrices are stored as one."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = Linear(config.hidden_size, config.hidden_size)

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
        self,
        hidden_states: Float[Tensor, "tokens hidden"],
        layout: Layout,
        bias: Bias | None,
        *,
        heads: Int64[Tensor, "seqs run"] | None = None,
        with_own_mass: bool = False,
    ) -> AttentionWeights:
        """Probabilities (fp32, before dropout) and the mass each token receives.

        Args:
            hidden_states: of all tokens.
            layout: how their sequences are grouped.
            bias: relative position bias of each group.
            heads: those that run for each sequence, ascending; None: all. Nothing of the others is computed
                behind their projections.
            with_own_mass: also give what each token pays to itself.
        """
        qkv = self.qkv(hidden_states)
        probs, values, masses, own = [], [], [], []
        for index, group in enumerate(layout.groups):
            parts = (*self._heads(qkv, group), None if bias is None else bias[index])
            query, key, value, position_bias = parts if heads is None else _pick(parts, heads, group)
            added = _key_bias(group, position_bias, query)
            weights = _softmax(_scores(query, key, added))
            probs.append(weights.to(value.dtype))
            values.append(value)
            masses.append(_mass(weights, group))
            if with_own_mass:
                own.append(group.tokens_of(weights.diagonal(dim1=2, dim2=3).mean(dim=1)))
        return AttentionWeights(
            layout=layout,
            probs=tuple(probs),
            values=tuple(values),
            mass=layout.to_packed(masses),
            own_mass=layout.to_packed(own) if with_own_mass else None,
            dropout=self._dropout_now,
            num_heads=self.num_heads,
            heads=heads,
        )

    @property
    def _dropout_now(self) -> float:
        return self.dropout if self.training else 0.0

    def _heads(self, qkv: Tensor, group: Group) -> tuple[Tensor, Tensor, Tensor]:
        seqs, length = group.rows.shape
        split = group.entries_of(qkv).view(seqs, length, 3, self.num_heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value


def _of_group(heads: Int64[Tensor, "seqs run"], group: Group) -> Int64[Tensor, "members run"]:
    return heads[list(group.sequences)]


def _pick(
    parts: tuple[Tensor | None, ...], heads: Int64[Tensor, "seqs run"], group: Group
) -> tuple[Any, ...]:
    """What the heads of a group's sequences that run have of each part."""
    places = _of_group(heads, group)[:, :, None, None]
    return tuple(None if part is None else part.take_along_dim(places, dim=1) for part in parts)


def _key_bias(group: Group, bias: Tensor | None, like: Tensor) -> Tensor | None:
    """What is added to the scores: the position bias, and minus infinity at padded keys."""
    if group.valid is None:
        return None if bias is None else bias.to(like.dtype)
    padding = torch.zeros(group.valid.shape, dtype=like.dtype, device=like.device)
    padding = padding.masked_fill(~group.valid, -torch.inf)[:, None, None, :]
    return padding if bias is None else padding + bias.to(like.dtype)


def _scores(query: Tensor, key: Tensor, added: Tensor | None) -> Tensor:
    """Scaled products of queries and keys, plus what is added to them."""
    scale = 1.0 / math.sqrt(query.shape[-1])
    if query.shape[0] > 1:
        scores = (query * scale) @ key.transpose(-1, -2)
        return scores if added is None else scores + added
    unused = query.new_empty(()) if added is None else added[0]
    scores = torch.baddbmm(
        unused, query[0], key[0].transpose(-1, -2), beta=0.0 if added is None else 1.0, alpha=scale
    )
    return scores[None]


def _softmax(scores: Tensor) -> Tensor:
    """Probabilities in fp32; in inference in the scores' own memory, as fresh pages cost more than exp."""
    if torch.is_inference_mode_enabled() and scores.dtype == torch.float32:
        return torch.softmax(scores, dim=-1, out=scores)
    return torch.softmax(scores, dim=-1, dtype=torch.float32)


def _mass(probs: Tensor, group: Group) -> Tensor:
    if group.valid is None:
        return probs.sum(dim=2).mean(dim=1).flatten()
    by_real_queries = torch.einsum("shqk,sq->sk", probs, group.valid.to(probs.dtype)) / probs.shape[1]
    return group.tokens_of(by_real_queries)


def _flatten(attended: Float[Tensor, "seqs heads length head_size"], group: Group) -> Tensor:
    return group.tokens_of(attended.transpose(1, 2).flatten(2))

"""Heads on the hidden states of a layer: the exit heads, and the final head.

A classifier reads only the first token's result, so only that token's query is computed.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from magic_pyramid.activations import ACTIVATIONS
from magic_pyramid.config import ExitConfig, ModelConfig
from magic_pyramid.linear import Linear
from magic_pyramid.packing import PackedBatch, unpack

HeadKind = Literal["fastbert", "cls", "block", "span"]

LAST_LAYERS: dict[HeadKind, str] = {
    "fastbert": "output",
    "cls": "output",
    "block": "classifier.output",
    "span": "output",
}
"""The linear layer of each kind of head that gives the logits."""
NOWHERE = -1e30
"""Logit of a place behind the last token; finite, so that 0 times it is 0."""
SMALLEST_SPREAD = 1e-4
"""A state that varies less than this is taken to vary by this much."""
_NO_INPUT_DROPOUT = frozenset({"bert", "distilbert"})
"""Model types whose classifier drops out after its first layer only."""


def build_head(config: ModelConfig, kind: HeadKind) -> nn.Module:
    """A new head of this kind; it maps hidden states and their batch to logits."""
    return _HEADS[kind](config)


def init_head(head: nn.Module) -> None:
    """Initialise a new head so that signal and gradient keep their size on the way through it.

    With BERT's 0.02 everywhere, the four narrow matrices of a `fastbert` head shrink both a hundredfold.
    """
    for part in head.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=part.in_features**-0.5)


class FastBertHead(nn.Module):
    """FastBERT's classifier: narrow, attend once, answer (FastBERT section 3.1.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        settings = config.exit or ExitConfig()
        size = settings.head_size
        self.narrow = Linear(config.backbone.hidden_size, size, activation="tanh")
        self.attention = FirstTokenAttention(size, num_heads=settings.head_attention_heads)
        self.dense = nn.Linear(size, size)
        self.output = nn.Linear(size, config.num_labels)
        self.dropout = nn.Dropout(config.backbone.classifier_dropout)

    def forward(
        self, hidden_states: Float[Tensor, "tokens hidden"], batch: PackedBatch
    ) -> Float[Tensor, "seqs labels"]:
        """Logits of each sequence, from all of its tokens."""
        narrowed = self.dropout(self.narrow(hidden_states))
        seen = self.attention(narrowed, batch)
        logits: Tensor = self.output(self.dropout(torch.tanh(self.dense(seen))))
        return logits


class ClsHead(nn.Module):
    """The classifier that the backbone's family uses: two layers on the first token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        backbone = config.backbone
        self.dense = nn.Linear(backbone.hidden_size, backbone.hidden_size)
        self.output = nn.Linear(backbone.hidden_size, config.num_labels)
        self.activation = ACTIVATIONS[backbone.head_act]
        drops_input = backbone.model_type not in _NO_INPUT_DROPOUT
        self.input_dropout = nn.Dropout(backbone.classifier_dropout if drops_input else 0.0)
        self.dropout = nn.Dropout(backbone.classifier_dropout)

    def forward(
        self, hidden_states: Float[Tensor, "tokens hidden"], batch: PackedBatch
    ) -> Float[Tensor, "seqs labels"]:
        """Logits of each sequence, from its first token."""
        return self.classify(hidden_states[batch.first_tokens])

    def classify(self, first_states: Float[Tensor, "seqs hidden"]) -> Float[Tensor, "seqs labels"]:
        """Logits from the first tokens' hidden states."""
        pooled = self.activation(self.dense(self.input_dropout(first_states)))
        logits: Tensor = self.output(self.dropout(pooled))
        return logits

    @torch.no_grad()
    def standardise_inputs(self, first_states: Float[Tensor, "seqs hidden"]) -> None:
        """See such states with mean 0 and spread 1 from now on, by the weights of the first layer.

        In early layers the first token differs little from text to text, around a mean a hundred times as
        large: to random weights it looks like a constant.
        """
        spread, mean = torch.std_mean(first_states.float(), dim=0, correction=0)
        self.dense.weight.div_(spread.clamp(min=SMALLEST_SPREAD))
        self.dense.bias.sub_(self.dense.weight @ mean)


class BlockHead(nn.Module):
    """One more full-width transformer block, then the [CLS] classifier: Magic Pyramid's literal wording."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        backbone = config.backbone
        size = backbone.hidden_size
        self.attention = FirstTokenAttention(size, num_heads=backbone.num_attention_heads)
        self.attention_norm = nn.LayerNorm(size, eps=backbone.layer_norm_eps)
        self.up = nn.Linear(size, backbone.intermediate_size)
        self.down = nn.Linear(backbone.intermediate_size, size)
        self.output_norm = nn.LayerNorm(size, eps=backbone.layer_norm_eps)
        self.activation = ACTIVATIONS[backbone.hidden_act]
        self.dropout = nn.Dropout(backbone.classifier_dropout)
        self.classifier = ClsHead(config)

    def forward(
        self, hidden_states: Float[Tensor, "tokens hidden"], batch: PackedBatch
    ) -> Float[Tensor, "seqs labels"]:
        """Logits of each sequence, from all of its tokens."""
        seen = self.dropout(self.attention(hidden_states, batch))
        first = self.attention_norm(hidden_states[batch.first_tokens] + seen)
        widened = self.dropout(self.down(self.activation(self.up(first))))
        return self.classifier.classify(self.output_norm(first + widened))


class SpanHead(nn.Module):
    """How likely an answer starts, and ends, at each token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.output = nn.Linear(config.backbone.hidden_size, config.num_labels)
        self.max_length = config.max_length

    def forward(
        self, hidden_states: Float[Tensor, "tokens hidden"], batch: PackedBatch
    ) -> Float[Tensor, "seqs labels places"]:
        """Logits of each sequence's places, ``NOWHERE`` behind its end."""
        logits = unpack(self.output(hidden_states).float(), batch, length=self.max_length)
        is_behind = torch.arange(self.max_length, device=logits.device) >= batch.lengths[:, None]
        return logits.masked_fill(is_behind[..., None], NOWHERE).transpose(1, 2)


class FirstTokenAttention(nn.Module):
    """Multi-head self-attention of which only the first token's result is computed.

    For one query, ``(W_q x)·(W_k y) = (W_kᵀ W_q x)·y`` and ``Σ a (W_v y) = W_v Σ a y``: so the key and value
    matrices are applied once per sequence, not once per token. A key bias would cancel in the softmax.
    """

    def __init__(self, size: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size, bias=False)
        self.value = nn.Linear(size, size)
        self.output = nn.Linear(size, size)

    def forward(self, states: Float[Tensor, "tokens size"], batch: PackedBatch) -> Float[Tensor, "seqs size"]:
        """What the first token of each sequence sees among its own tokens."""
        size = states.shape[-1]
        split = (self.num_heads, size // self.num_heads)
        queries = self.query(states[batch.first_tokens]).view(-1, *split).transpose(0, 1)
        folded = (queries @ self.key.weight.view(*split, size)).transpose(0, 1)
        seen = _attend(states, folded.to(states.dtype) / math.sqrt(split[1]), batch).transpose(0, 1)
        values = (seen @ self.value.weight.view(*split, size).transpose(1, 2)).transpose(0, 1)
        output: Tensor = self.output(values.flatten(1) + self.value.bias)
        return output


def _attend(
    states: Float[Tensor, "tokens size"], queries: Float[Tensor, "seqs heads size"], batch: PackedBatch
) -> Float[Tensor, "seqs heads size"]:
    """Mean of each sequence's states, weighted by the softmax of their products with its queries."""
    lengths = batch.lengths
    length = int(lengths.max())
    if states.shape[0] == batch.num_sequences * length:
        padded = states.reshape(batch.num_sequences, length, -1)
        scores = padded @ queries.transpose(1, 2)
    else:
        padded = unpack(states, batch, length=length)
        is_padding = torch.arange(length, device=states.device) >= lengths[:, None]
        scores = (padded @ queries.transpose(1, 2)).masked_fill(is_padding[..., None], -torch.inf)
    probs = scores.softmax(1, dtype=torch.float32).to(padded.dtype)
    seen: Tensor = probs.transpose(1, 2) @ padded
    return seen


_HEADS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "fastbert": FastBertHead,
    "cls": ClsHead,
    "block": BlockHead,
    "span": SpanHead,
}

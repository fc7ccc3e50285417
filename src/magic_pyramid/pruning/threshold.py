"""Learned thresholds on importance: token pruning of LTP and of Magic Pyramid's width half.

A token's importance is its attention mass divided by ``score_norm``'s count. While training softly a token's
hidden state is weighted by ``sigmoid((importance - threshold) / temperature)``; afterwards a token whose
importance is below the threshold is removed (LTP section 3; Magic Pyramid section 3.1).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from magic_pyramid.config import ModelConfig, PruneConfig
from magic_pyramid.packing import PackedBatch
from magic_pyramid.pruning.interface import Attended, Pruner

SMALLEST_THRESHOLD = 1e-5
"""A layer that prunes at all prunes at least below this importance, as LTP does."""


class ThresholdPruner(Pruner[PruneConfig]):
    """One learnable threshold per layer: a fixed initial ramp plus a learned difference."""

    def __init__(self, config: ModelConfig, prune: PruneConfig) -> None:
        super().__init__(config, prune)
        self.sep_token_id = config.backbone.sep_token_id if prune.protect_sep else None
        self.register_buffer("initial", initial_thresholds(prune, config.backbone.num_hidden_layers))
        self.delta = nn.Parameter(torch.zeros_like(self.initial), requires_grad=prune.learn_thresholds)

    initial: Tensor

    @property
    def token_thresholds(self) -> Float[Tensor, " layers"]:
        """Threshold of each layer, never below 0, before the run-time ``scale``."""
        return (self.initial + self.delta).clamp(min=0.0)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring thresholds that an optimiser step took below 0 back to it: below, they have no gradient."""
        self.delta.clamp_(min=-self.initial)

    def soft_mask(self, layer: int, attended: Attended) -> Float[Tensor, " tokens"]:
        """Weight of each token's hidden state, in (0, 1)."""
        batch = attended.batch
        divisor = self._divisor(attended, alive=batch.lengths, input_lengths=batch.lengths)
        importance = attended.mass / batch.per_token(divisor)
        soft = torch.sigmoid((importance - self.token_thresholds[layer]) / self.config.temperature)
        protected = self._separators(batch) if self.config.gate_cls else self.protected(batch)
        return soft.masked_fill(protected, 1.0)

    def penalty(
        self, layer: int, soft_mask: Float[Tensor, " tokens"], batch: PackedBatch
    ) -> Float[Tensor, " seqs"]:
        """Mean soft mask of each sequence (LTP's regulariser)."""
        totals = batch.sum_tokens(soft_mask)
        widths = {"valid": batch.lengths, "padded": batch.lengths.max().expand_as(batch.lengths)}
        return totals / widths[self.config.penalty_norm]

    def keep_mask(self, layer: int, attended: Attended, *, scale: float) -> Bool[Tensor, " tokens"]:
        """Which tokens stay: importance at or above the scaled threshold, ties kept, [CLS] always."""
        bar = self.mass_threshold(layer, attended, scale=scale)
        return (attended.mass >= attended.batch.per_token(bar)).logical_or_(self.protected(attended.batch))

    def mass_threshold(self, layer: int, attended: Attended, *, scale: float) -> Float[Tensor, " seqs"]:
        """The attention mass below which a token of each sequence is removed."""
        bar = (self.token_thresholds[layer] * scale).clamp(min=SMALLEST_THRESHOLD)
        alive, input_lengths = attended.batch.lengths, attended.input_lengths
        return bar * self._divisor(attended, alive=alive, input_lengths=input_lengths)

    def prunes_at(self, layer: int, *, scale: float) -> bool:
        """Whether the layer may remove tokens; a threshold of exactly 0 removes none."""
        return scale > 0 and float(self.token_thresholds[layer].detach()) > 0

    def learned(self) -> dict[str, list[float]]:
        """The threshold of each layer."""
        return {"token_thresholds": self.token_thresholds.tolist()}

    def protected(self, batch: PackedBatch) -> Bool[Tensor, " tokens"]:
        """Tokens that are never removed: the first of each sequence, and separators where asked."""
        # [CLS] carries the label, so it may never be pruned.
        mask = self._separators(batch)
        mask[batch.first_tokens] = True
        return mask

    def _separators(self, batch: PackedBatch) -> Bool[Tensor, " tokens"]:
        if self.sep_token_id is None:
            return torch.zeros_like(batch.token_ids, dtype=torch.bool)
        return batch.token_ids == self.sep_token_id

    def _divisor(self, attended: Attended, *, alive: Tensor, input_lengths: Tensor) -> Float[Tensor, " seqs"]:
        """What turns a sequence's attention mass into importance."""
        if self.config.score_norm == "max":
            return attended.batch.max_tokens(attended.mass)
        if self.config.score_norm == "fixed":
            return torch.full_like(alive, self.config.fixed_length, dtype=torch.float32)
        return (alive if self.config.score_norm == "kept" else input_lengths).to(torch.float32)


def initial_thresholds(config: PruneConfig, num_layers: int) -> Float[Tensor, " layers"]:
    """The starting thresholds: given one by one, or a linear ramp up to ``final_threshold``."""
    if config.manual_thresholds is not None:
        return torch.tensor(config.manual_thresholds, dtype=torch.float32)
    first = 1 if config.threshold_index == "one_based" else 0
    steps = torch.arange(first, first + num_layers, dtype=torch.float32)
    return config.final_threshold * steps / num_layers

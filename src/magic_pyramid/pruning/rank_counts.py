"""Learned counts: how many of its most significant tokens each layer keeps, the same for every input.

A token's significance is the attention it receives from the others. While training softly, the token of a
rank is weighted by that layer's share for the rank; what a layer's shares amount to is then the count that
it keeps, and an input with fewer tokens keeps all. (PoWER-BERT: Goyal et al., *PoWER-BERT: Accelerating
BERT Inference via Progressive Word-vector Elimination*, ICML 2020.)
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from magic_pyramid.config import ModelConfig, RankCountsConfig
from magic_pyramid.packing import PackedBatch
from magic_pyramid.pruning.bisection import bisect
from magic_pyramid.pruning.interface import Attended, Pruner
from magic_pyramid.pruning.ranking import all_but_first, ranks

_ROUNDING = 1e-4
"""Slack of a sum or quotient that should be a whole number."""


class RankCountsPruner(Pruner[RankCountsConfig]):
    """A share in [0, 1] for each rank behind the first token, which is never removed, in each layer."""

    sees_own_mass = True

    def __init__(self, config: ModelConfig, prune: RankCountsConfig) -> None:
        super().__init__(config, prune)
        self.shares = nn.Parameter(torch.ones(self.num_layers, config.max_length - 1))

    def soft_mask(self, layer: int, attended: Attended) -> Float[Tensor, " tokens"]:
        """Weight of each token's hidden state: its rank's share, and 1 for the first token."""
        rank = _ranks(attended).clamp(max=self.shares.shape[1] - 1)
        weights = self.shares[layer].index_select(0, rank)
        return torch.where(all_but_first(attended.batch), weights, 1.0)

    def penalty(
        self, layer: int, soft_mask: Float[Tensor, " tokens"], batch: PackedBatch
    ) -> Float[Tensor, " seqs"]:
        """The sum of the layer's shares, also of ranks that no input has, times its number from one."""
        return ((layer + 1) * self.shares[layer].sum()).expand(batch.num_sequences)

    def expected_tokens(
        self,
        layer: int,
        survival: Float[Tensor, " tokens"],
        batch: PackedBatch,
        arrived: Float[Tensor, " seqs"],
    ) -> Float[Tensor, " seqs"]:
        """The tokens that would be left, with a gradient as if each input kept the mean share.

        A count above an input's length has no effect on it and no gradient of its own.
        """
        expected = 1.0 + (arrived - 1.0) * self.shares[layer].mean()
        left = arrived.detach().clamp(max=self.counts()[layer])
        return expected + (left - expected).detach()

    def keep_mask(self, layer: int, attended: Attended, *, scale: float) -> Bool[Tensor, " tokens"]:
        """The first token and the most significant others, up to the layer's count over the scale."""
        removable = self._count(layer, scale=scale) - 1
        return (_ranks(attended) < removable).logical_or_(~all_but_first(attended.batch))

    def counts(self) -> list[int]:
        """Tokens that each layer keeps at most: what its shares amount to, but never more than before it."""
        sums = self.shares.detach().double().sum(1)
        return [1 + math.floor(most + _ROUNDING) for most in sums.cummin(0).values.tolist()]

    def prunes_at(self, layer: int, *, scale: float) -> bool:
        """Whether an input of the greatest length would lose tokens there."""
        return scale > 0 and self._count(layer, scale=scale) <= self.shares.shape[1]

    def learned(self) -> dict[str, list[float]]:
        """The count of each layer."""
        return {"kept_counts": [float(count) for count in self.counts()]}

    def meet(
        self, lengths: Int64[Tensor, " seqs"], *, wanted: float, measure: Callable[[Tensor], float]
    ) -> float | None:
        """Shift all shares alike, by bisection."""
        learned = self.shares.detach().clone()

        def measured(shift: float) -> float:
            with torch.no_grad():
                self.shares.copy_((learned - shift).clamp(0.0, 1.0))
            limits = [lengths.clamp(max=count) for count in self.counts()]
            return measure(torch.stack([lengths, *limits], dim=1))

        return bisect(measured, -1.0, 1.0, wanted=wanted)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring the shares back into [0, 1]."""
        self.shares.clamp_(0.0, 1.0)

    def _count(self, layer: int, *, scale: float) -> int:
        return max(1, math.floor(self.counts()[layer] / scale + _ROUNDING))


def _ranks(attended: Attended) -> Int64[Tensor, " tokens"]:
    """Rank of each token but the first, by the attention that it receives from others."""
    assert attended.own_mass is not None
    batch = attended.batch
    return ranks(attended.mass - attended.own_mass, batch, among=all_but_first(batch))

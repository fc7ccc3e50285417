"""Learned shares of a ranking: which parts of the tokens, ranked by attention, a layer keeps.

Each candidate layer has a coarse variable, whether it prunes at all, and one fine variable for each bin of
relative rank. Shares, not counts, are learned, so that an input is pruned in proportion to its own length.
(ToP: Li et al., *Constraint-aware and Ranking-distilled Token Pruning for Efficient Transformer Inference*,
KDD 2023.)
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from magic_pyramid.config import ModelConfig, RankBinsConfig
from magic_pyramid.packing import PackedBatch
from magic_pyramid.pruning.bisection import bisect
from magic_pyramid.pruning.hard_concrete import LARGEST, binarise, probability, sample
from magic_pyramid.pruning.interface import Attended, Pruner
from magic_pyramid.pruning.ranking import all_but_first, ranks

_ROUNDING = 1e-9
"""Slack of a product that should be a whole number."""
_LARGEST_SHIFT = 4 * LARGEST
"""From here on every bin of a layer is likely, or none."""


class RankBinsPruner(Pruner[RankBinsConfig]):
    """Hard-concrete variables while training softly, afterwards the mask that they amount to."""

    def __init__(self, config: ModelConfig, prune: RankBinsConfig) -> None:
        super().__init__(config, prune)
        self.rows = {layer: row for row, layer in enumerate(prune.layers_of(self.num_layers))}
        # Every bin is kept and no layer prunes at first, with the variables at their limits.
        self.fine = nn.Parameter(torch.full((len(self.rows), prune.num_bins), LARGEST))
        self.coarse = nn.Parameter(torch.full((len(self.rows),), -LARGEST))

    def soft_mask(self, layer: int, attended: Attended) -> Float[Tensor, " tokens"]:
        """Weight of each token's hidden state: those of the layers so far, times the share of its bin.

        Tokens of weight 0 do not count in the ranking. The variables are drawn anew in training mode, and
        take their most likely value in evaluation mode.
        """
        batch = attended.batch
        earlier = torch.ones_like(attended.mass) if attended.soft_mask is None else attended.soft_mask
        if layer not in self.rows:
            return earlier
        among = all_but_first(batch) & (earlier > 0)
        bins = self._bins(attended.mass, batch, among)
        shares, gate = self._drawn(layer) if self.training else (self.kept_bins(layer).float(), 1.0)
        weights = 1.0 - (1.0 - shares.index_select(0, bins)) * gate
        return torch.where(among, weights, 1.0) * earlier

    def survival(
        self, soft_mask: Float[Tensor, " tokens"], earlier: Float[Tensor, " tokens"]
    ) -> Float[Tensor, " tokens"]:
        """How likely each token is alive behind a layer: its soft mask is that already."""
        return soft_mask

    def expected_tokens(
        self,
        layer: int,
        survival: Float[Tensor, " tokens"],
        batch: PackedBatch,
        arrived: Float[Tensor, " seqs"],
    ) -> Float[Tensor, " seqs"]:
        """The tokens that would be left, rounding included, with the gradient of the expected share."""
        if layer not in self.rows:
            return arrived
        row = self.rows[layer]
        removed = (1.0 - probability(self.fine[row]).mean()) * probability(self.coarse[row])
        expected = 1.0 + (arrived - 1.0) * (1.0 - removed)
        left = self.num_kept(layer, arrived.detach().round().long())
        return expected + (left - expected).detach()

    def keep_mask(self, layer: int, attended: Attended, *, scale: float) -> Bool[Tensor, " tokens"]:
        """Which tokens stay; the scale multiplies the share removed, at most all but the first token."""
        batch, among = attended.batch, all_but_first(attended.batch)
        if self.config.selection == "bins":
            bins = self._bins(attended.mass, batch, among)
            return self.kept_bins(layer, scale=scale).index_select(0, bins).logical_or_(~among)
        counts = self._topk_kept(layer, batch.lengths - 1, scale=scale)
        return (ranks(attended.mass, batch, among=among) < batch.per_token(counts)).logical_or_(~among)

    def num_kept(self, layer: int, arrived: Int64[Tensor, " seqs"]) -> Int64[Tensor, " seqs"]:
        """Tokens that a layer keeps of so many at the scale 1: it depends on their number alone."""
        count = self._topk_kept if self.config.selection == "ranked_topk" else self._bins_kept
        return 1 + count(layer, arrived - 1, scale=1.0)

    def kept_bins(self, layer: int, *, scale: float = 1.0) -> Bool[Tensor, " bins"]:
        """The bins that stay: all but the least likely ones, as many as their probabilities amount to."""
        kept = torch.ones(self.config.num_bins, dtype=torch.bool, device=self.fine.device)
        removed = min(round(self._num_removed(layer) * scale), self.config.num_bins)
        if removed:
            # Of equally likely bins the ones of low rank go first.
            order = self.fine[self.rows[layer]].detach().flip(0).argsort(stable=True)
            kept[self.config.num_bins - 1 - order[:removed]] = False
        return kept

    def prunes_at(self, layer: int, *, scale: float) -> bool:
        """Whether any share is removed there."""
        return scale > 0 and self._num_removed(layer) > 0

    def learned(self) -> dict[str, list[float]]:
        """The share of the removable tokens that each layer keeps."""
        bins = self.config.num_bins
        return {"keep_ratios": [1.0 - self._num_removed(layer) / bins for layer in range(self.num_layers)]}

    def meet(
        self, lengths: Int64[Tensor, " seqs"], *, wanted: float, measure: Callable[[Tensor], float]
    ) -> float | None:
        """Shift the fine variables of all layers alike, by bisection.

        Which layers prune stays as it is, unless they cannot remove enough: then all do.
        """
        learned = self.fine.detach().clone()

        def measured(shift: float) -> float:
            with torch.no_grad():
                self.fine.copy_(learned - shift)
            return measure(self._counts(lengths))

        if measured(_LARGEST_SHIFT) < wanted:
            with torch.no_grad():
                self.coarse.fill_(LARGEST)
        return bisect(measured, -_LARGEST_SHIFT, _LARGEST_SHIFT, wanted=wanted)

    def settle(self) -> None:
        """Bring the variables back to where they learn."""
        with torch.no_grad():
            self.fine.clamp_(-LARGEST, LARGEST)
            self.coarse.clamp_(-LARGEST, LARGEST)

    def _counts(self, lengths: Int64[Tensor, " seqs"]) -> Int64[Tensor, "seqs layers_plus_1"]:
        counts = [lengths]
        for layer in range(self.num_layers):
            counts.append(self.num_kept(layer, counts[-1]))
        return torch.stack(counts, dim=1)

    def _topk_kept(
        self, layer: int, removable: Int64[Tensor, " seqs"], *, scale: float
    ) -> Int64[Tensor, " seqs"]:
        removed = min(self._num_removed(layer) * scale / self.config.num_bins, 1.0)
        return (removable.double() * (1.0 - removed) - _ROUNDING).ceil().long()

    def _bins_kept(
        self, layer: int, removable: Int64[Tensor, " seqs"], *, scale: float
    ) -> Int64[Tensor, " seqs"]:
        rank = torch.arange(int(removable.max()), device=removable.device)
        bins = rank * self.config.num_bins // removable[:, None].clamp(min=1)
        kept = self.kept_bins(layer, scale=scale)[bins.clamp(max=self.config.num_bins - 1)]
        return (kept & (rank < removable[:, None])).sum(1)

    def _drawn(self, layer: int) -> tuple[Tensor, Tensor]:
        row = self.rows[layer]
        return sample(self.fine[row]), binarise(sample(self.coarse[row]))

    def _num_removed(self, layer: int) -> int:
        """Bins that a layer removes: as many as are unlikely in sum, if it is likely to prune at all."""
        if layer not in self.rows:
            return 0
        row = self.rows[layer]
        if float(probability(self.coarse[row].detach())) < 0.5:
            return 0
        return round(self.config.num_bins - float(probability(self.fine[row].detach()).sum()))

    def _bins(
        self, mass: Float[Tensor, " tokens"], batch: PackedBatch, among: Bool[Tensor, " tokens"]
    ) -> Int64[Tensor, " tokens"]:
        """Bin of each token's rank among those that take part; the last bin for the others."""
        taking_part = torch.zeros_like(batch.lengths).index_add(0, batch.sequence_of_token, among.long())
        rank = ranks(mass, batch, among=among)
        bins = rank * self.config.num_bins // batch.per_token(taking_part).clamp(min=1)
        return bins.clamp(max=self.config.num_bins - 1)

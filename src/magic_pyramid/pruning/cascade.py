"""A schedule of tokens and attention heads: what amounted to least so far is removed for good.

Tokens are ranked by the attention they received, heads by the magnitude of what they gave, both summed over
the layers so far. How many stay follows from the layer and the length of the input, and nothing is learned.
(SpAtten: Wang, Zhang and Han, *SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head
Pruning*, HPCA 2021.)
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from magic_pyramid.config import CascadeConfig, ModelConfig
from magic_pyramid.pruning.bisection import bisect
from magic_pyramid.pruning.history import History
from magic_pyramid.pruning.interface import Attended, Pruner
from magic_pyramid.pruning.ranking import all_but_first, ranks


class CascadePruner(Pruner[CascadeConfig]):
    """Keeps a share of the input's tokens that falls from layer to layer, and runs a share of the heads."""

    keep_ratios: Tensor

    def __init__(self, config: ModelConfig, prune: CascadeConfig) -> None:
        super().__init__(config, prune)
        self.num_heads = config.backbone.num_attention_heads
        self.register_buffer("keep_ratios", torch.tensor(prune.keep_ratios(self.num_layers)))

    @property
    def looks_back(self) -> bool:
        """Where tokens are ranked by more than one layer, or heads are removed."""
        return self.config.accumulate or self.config.final_head_ratio < 1

    def keep_mask(self, layer: int, attended: Attended, *, scale: float) -> Bool[Tensor, " tokens"]:
        """The first token and the most attended others, as many as the schedule leaves."""
        batch, among = attended.batch, all_but_first(attended.batch)
        importance = attended.mass
        if self.config.accumulate:
            assert attended.history is not None
            importance = attended.history.token_mass
        removable = self._num_kept(layer, attended.input_lengths, scale=scale) - 1
        return (ranks(importance, batch, among=among) < batch.per_token(removable)).logical_or_(~among)

    def prunes_at(self, layer: int, *, scale: float) -> bool:
        """Whether tokens are removed there; heads may be in any case."""
        return scale > 0 and float(self.keep_ratios[layer]) < 1

    def heads(self, layer: int, history: History | None, *, scale: float) -> Int64[Tensor, "seqs run"] | None:
        """Those of the largest output so far; as it only grows, a head that was left out never returns."""
        run = self.config.heads_run(self.num_layers, self.num_heads, scale=scale)[layer]
        if run == self.num_heads:
            return None
        assert history is not None
        return history.head_output.argsort(dim=1, descending=True, stable=True)[:, :run].sort(dim=1).values

    def learned(self) -> dict[str, list[float]]:
        """The share of an input's tokens that each layer leaves."""
        return {"keep_ratios": self.keep_ratios.tolist()}

    def meet(
        self, lengths: Int64[Tensor, " seqs"], *, wanted: float, measure: Callable[[Tensor], float]
    ) -> float | None:
        """Choose the share that the last layer leaves, by bisection."""

        def measured(removed: float) -> float:
            ratios = self.config.keep_ratios(self.num_layers, final=1.0 - removed)
            self.keep_ratios.copy_(torch.tensor(ratios))
            kept = [self._num_kept(layer, lengths, scale=1.0) for layer in range(self.num_layers)]
            return measure(torch.stack([lengths, *kept], dim=1))

        return bisect(measured, 0.0, 1.0, wanted=wanted)

    def _num_kept(
        self, layer: int, input_lengths: Int64[Tensor, " seqs"], *, scale: float
    ) -> Int64[Tensor, " seqs"]:
        """Tokens left of inputs of these lengths: the nearest number to the share, at least one."""
        share = max(0.0, 1.0 - scale * (1.0 - float(self.keep_ratios[layer])))
        return (input_lengths.double() * share).round().long().clamp(min=1)

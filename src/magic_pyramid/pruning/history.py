"""What tokens and attention heads amounted to in the layers so far, for pruners that look back."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from magic_pyramid.packing import PackedBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Sums over the layers, which shrink with the batch; none has a gradient."""

    token_mass: Float[Tensor, " tokens"]
    """Attention that each token alive received."""
    head_output: Float[Tensor, "seqs heads"]
    """Magnitude of what each head gave: absolute values, summed over its width and the tokens kept."""

    @classmethod
    def begin(cls, batch: PackedBatch, *, num_heads: int) -> Self:
        """Before the first layer."""
        device = batch.token_ids.device
        return cls(
            token_mass=torch.zeros(batch.num_tokens, device=device),
            head_output=torch.zeros(batch.num_sequences, num_heads, device=device),
        )

    def with_mass(self, mass: Float[Tensor, " tokens"]) -> Self:
        """After a layer's attention."""
        return replace(self, token_mass=self.token_mass + mass.detach())

    def with_output(self, context: Float[Tensor, "tokens hidden"], batch: PackedBatch) -> Self:
        """After what each head of a layer gave to the tokens kept, all heads side by side."""
        num_heads = self.head_output.shape[1]
        magnitude = context.detach().float().view(batch.num_tokens, num_heads, -1).abs().sum(-1)
        return replace(self, head_output=self.head_output.index_add(0, batch.sequence_of_token, magnitude))

    def take_tokens(self, kept: Int64[Tensor, " kept"]) -> Self:
        """Drop the tokens whose packed rows are not named."""
        return replace(self, token_mass=self.token_mass.index_select(0, kept))

    def select_sequences(self, keep: Bool[Tensor, " seqs"], tokens: Int64[Tensor, " kept"]) -> Self:
        """Drop finished sequences; ``tokens`` are the packed rows of the others."""
        return replace(self.take_tokens(tokens), head_output=self.head_output[keep])

"""What the model asks of every way to prune, and what it shows a pruner of a layer."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from magic_pyramid.config import AnyPruneConfig, ModelConfig
from magic_pyramid.packing import PackedBatch
from magic_pyramid.pruning.history import History

SomePruneConfig = TypeVar("SomePruneConfig", bound=AnyPruneConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """The tokens that arrived at a layer, and the attention they received there."""

    batch: PackedBatch
    mass: Float[Tensor, " tokens"]
    """Attention each token received: sum over the queries alive, mean over heads."""
    input_lengths: Int64[Tensor, " seqs"]
    """Tokens of each sequence before any was removed."""
    soft_mask: Float[Tensor, " tokens"] | None = None
    """What the previous layer's ``soft_mask`` gave; None in the first layer, and where tokens are removed."""
    own_mass: Float[Tensor, " tokens"] | None = None
    """The part of the mass that each token pays to itself; None unless ``sees_own_mass``."""
    history: History | None = None
    """What tokens, this layer included, and heads amounted to so far; None unless ``looks_back``."""


class Pruner(nn.Module, ABC, Generic[SomePruneConfig]):
    """Decides which tokens a layer drops; its parameters are the group ``thresholds``.

    It never looks at other sequences, and never removes the first token of one. Every method that takes a
    ``scale`` removes nothing at 0 and what was trained at 1; what lies between and beyond is its own.
    ``keep_mask`` is all that a way to prune must have.
    """

    sees_own_mass: ClassVar[bool] = False
    """Whether it is shown how much of its attention each token pays to itself."""

    def __init__(self, model: ModelConfig, prune: SomePruneConfig) -> None:
        super().__init__()
        self.config = prune
        self.num_layers = model.backbone.num_hidden_layers

    def configure(self, config: SomePruneConfig) -> None:
        """Take over run-time settings; what was learned stays."""
        self.config = config

    @property
    def looks_back(self) -> bool:
        """Whether it is shown what tokens and heads amounted to in the layers so far."""
        return False

    def soft_mask(self, layer: int, attended: Attended) -> Float[Tensor, " tokens"]:
        """Weight of each token's hidden state behind a layer, in [0, 1], while none is removed."""
        return torch.ones_like(attended.mass)

    def penalty(
        self, layer: int, soft_mask: Float[Tensor, " tokens"], batch: PackedBatch
    ) -> Float[Tensor, " seqs"]:
        """What a layer's soft mask adds to each sequence's penalty, before its weight."""
        return soft_mask.new_zeros(batch.num_sequences)

    def survival(
        self, soft_mask: Float[Tensor, " tokens"], earlier: Float[Tensor, " tokens"]
    ) -> Float[Tensor, " tokens"]:
        """How likely each token is alive behind a layer: the product of its soft masks so far."""
        return earlier * soft_mask

    def expected_tokens(
        self,
        layer: int,
        survival: Float[Tensor, " tokens"],
        batch: PackedBatch,
        arrived: Float[Tensor, " seqs"],
    ) -> Float[Tensor, " seqs"]:
        """Tokens of each sequence that a layer is expected to leave, with a gradient for what learns.

        Args:
            layer: 0-based layer.
            survival: how likely each token is alive behind it.
            batch: all tokens; none is removed while training softly.
            arrived: the tokens expected before it.
        """
        return batch.sum_tokens(survival)

    @abstractmethod
    def keep_mask(self, layer: int, attended: Attended, *, scale: float) -> Bool[Tensor, " tokens"]:
        """Which of the tokens that arrived stay."""

    def prunes_at(self, layer: int, *, scale: float) -> bool:
        """Whether ``keep_mask`` is to be asked at a layer; if not, its attention mass need not be known."""
        return scale > 0

    def heads(self, layer: int, history: History | None, *, scale: float) -> Int64[Tensor, "seqs run"] | None:
        """The attention heads that a layer runs for each sequence, ascending; None: all."""
        return None

    def learned(self) -> dict[str, list[float]]:
        """What training found, one value a layer, by its name."""
        return {}

    def meet(
        self, lengths: Int64[Tensor, " seqs"], *, wanted: float, measure: Callable[[Tensor], float]
    ) -> float | None:
        """Adjust what was learned so that inputs of these lengths are pruned to what is wanted.

        Gives what ``measure`` is then, as near as it comes; None, and nothing is done, where the number of
        tokens left depends on more than the length.

        Args:
            lengths: tokens of each input.
            wanted: value of ``measure``.
            measure: of ``[seqs, layers + 1]``, the tokens of the input and those left by each layer; it grows
                with what is removed.
        """
        return None

    def settle(self) -> None:
        """Bring the parameters back into their range after an optimiser step."""
        return

    def mass_threshold(
        self, layer: int, attended: Attended, *, scale: float
    ) -> Float[Tensor, " seqs"] | None:
        """The attention mass below which a token of each sequence is removed; None: there is no such bar."""
        return None

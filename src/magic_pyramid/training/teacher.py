"""What the fine-tuned model says about the train rows, as each batch needs it."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """Answers of the fine-tuned model, one row a text; also a batch's part of them."""

    logits: Float[Tensor, "seqs *answer"]
    """Of the final head."""
    ranking: Int64[Tensor, "seqs count"]
    """Positions of the tokens that receive most attention in the last layer; see ``top_tokens``."""

    def tensors(self) -> dict[str, Tensor]:
        """By name, for a file."""
        return {"logits": self.logits, "ranking": self.ranking}

    def select(self, rows: list[int]) -> Self:
        """The answers to these texts."""
        return type(self)(logits=self.logits[rows], ranking=self.ranking[rows])

    def to(self, device: torch.device | str) -> Self:
        """The same answers on another device."""
        return type(self)(logits=self.logits.to(device), ranking=self.ranking.to(device))

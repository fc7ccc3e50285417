"""When a sequence may leave: the uncertainty of an answer, and the rule that compares it with tau.

Symbols: u = ``uncertainty``, tau = ``exit_threshold``, C = labels (Magic Pyramid, 3.2; FastBERT, 3.3).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from magic_pyramid.config import ExitConfig, ModelConfig, ProblemType
from magic_pyramid.exit_thresholds import ExitThreshold, threshold_after

Confidence = Literal["entropy", "max_prob", "margin"]


def uncertainty(
    logits: Float[Tensor, "seqs labels"], *, problem_type: ProblemType, criterion: Confidence
) -> Float[Tensor, " seqs"]:
    """How far each answer is from sure: 0 is one-hot, 1 is uniform; always fp32.

    The answer to a multi-label text is a set, which is right only if every label is: it is as unsure as its
    least sure label (a mean would call one coin flip among many sure labels sure). A single class: 0.
    """
    values = logits.float()
    if problem_type == "multi_label":
        positive = values.sigmoid()
        per_label = _UNCERTAINTIES[criterion](torch.stack([positive, (-values).sigmoid()], dim=-1))
        return per_label.amax(-1).clamp(0.0, 1.0)
    if values.shape[-1] == 1:
        return values.new_zeros(values.shape[0])
    return _UNCERTAINTIES[criterion](values.softmax(-1)).clamp(0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitState:
    """What the rule remembers of each sequence; confidence criteria remember nothing."""

    answer: Float[Tensor, "seqs answers"] | None
    """The previous exit head's answer; None before the first."""
    streak: Int64[Tensor, " seqs"]
    """Exit heads in a row, up to the previous one, that gave this answer."""

    def select(self, keep: Bool[Tensor, " seqs"]) -> Self:
        """The state of the kept sequences."""
        return type(self)(
            answer=None if self.answer is None else self.answer[keep],
            streak=self.streak[keep],
        )


@dataclass(frozen=True, slots=True)
class ExitRule:
    """Says after each exit head which sequences leave; None as threshold lets nobody leave."""

    config: ModelConfig
    """The model, whose exit settings are followed."""
    threshold: ExitThreshold | None
    """Leave when the uncertainty is at most this, or this layer's."""

    def start(self, num_sequences: int, *, device: torch.device | str = "cpu") -> ExitState:
        """State before the first exit head."""
        return ExitState(answer=None, streak=torch.zeros(num_sequences, dtype=torch.int64, device=device))

    def test(
        self, logits: Float[Tensor, "seqs labels"], state: ExitState, *, layer: int
    ) -> tuple[Bool[Tensor, " seqs"], ExitState]:
        """Which sequences leave after a 0-based layer, and the state for the next exit head (of all)."""
        settings = self.config.exit
        if self.threshold is None or settings is None:
            return torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device), state
        if settings.criterion == "patience":
            state = _count_agreement(logits, state, config=self.config, settings=settings)
            unsure = 1.0 / (state.streak.float() + 0.5)
        else:
            unsure = uncertainty(logits, problem_type=self.config.problem_type, criterion=settings.criterion)
        return unsure <= threshold_after(self.config, self.threshold, layer), state


def _count_agreement(
    logits: Float[Tensor, "seqs labels"], state: ExitState, *, config: ModelConfig, settings: ExitConfig
) -> ExitState:
    answer = _answer(logits, config.problem_type)
    streak = torch.ones(len(answer), dtype=torch.int64, device=answer.device)
    if state.answer is not None:
        tolerance = settings.patience_tolerance if config.problem_type == "regression" else 0.0
        agrees = ((answer - state.answer).abs() <= tolerance).all(-1)
        streak = torch.where(agrees, state.streak + 1, streak)
    return ExitState(answer=answer, streak=streak)


def _answer(logits: Float[Tensor, "seqs labels"], problem_type: ProblemType) -> Float[Tensor, "seqs answers"]:
    if problem_type == "regression":
        return logits.float()
    if problem_type == "multi_label":
        return (logits > 0).float()
    return logits.argmax(-1, keepdim=True).float()


def _entropy(probs: Float[Tensor, "*batch labels"]) -> Float[Tensor, "*batch"]:
    return -torch.xlogy(probs, probs).sum(-1) / math.log(probs.shape[-1])


def _max_prob(probs: Float[Tensor, "*batch labels"]) -> Float[Tensor, "*batch"]:
    num_labels = probs.shape[-1]
    return (1.0 - probs.amax(-1)) * num_labels / (num_labels - 1)


def _margin(probs: Float[Tensor, "*batch labels"]) -> Float[Tensor, "*batch"]:
    top = probs.topk(2, dim=-1).values
    return 1.0 - (top[..., 0] - top[..., 1])


_UNCERTAINTIES: dict[Confidence, Callable[[Tensor], Tensor]] = {
    "entropy": _entropy,
    "max_prob": _max_prob,
    "margin": _margin,
}

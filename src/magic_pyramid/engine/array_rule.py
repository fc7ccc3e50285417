"""When a sequence may leave, on numpy arrays: the decisions of ``exiting.criteria`` without PyTorch.

All arithmetic is fp32, as there; the formulas are in docs/method.md.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from magic_pyramid.config import ExitConfig, ModelConfig
from magic_pyramid.exit_thresholds import ExitThreshold, threshold_after


def uncertainty(
    logits: Float[np.ndarray, "seqs labels"], *, problem_type: str, criterion: str
) -> Float32[np.ndarray, " seqs"]:
    """How far each answer is from sure: 0 is one-hot, 1 is uniform; of many labels, the least sure counts."""
    values = logits.astype(np.float32)
    measure = _UNCERTAINTIES[criterion]
    if problem_type == "multi_label":
        per_label = measure(np.stack([_sigmoid(values), _sigmoid(-values)], axis=-1))
        return np.asarray(np.clip(per_label.max(axis=-1), 0.0, 1.0))
    if values.shape[-1] == 1:
        return np.zeros(len(values), dtype=np.float32)
    return np.asarray(np.clip(measure(_softmax(values)), 0.0, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayState:
    """What the rule remembers of each sequence; confidence criteria remember nothing."""

    answer: Float32[np.ndarray, "seqs answers"]
    """The previous exit head's answer; NaN, which agrees with nothing, before the first."""
    streak: Int64[np.ndarray, " seqs"]
    """Exit heads in a row, up to the previous one, that gave this answer."""

    def select(self, rows: np.ndarray) -> Self:
        """The state of some sequences."""
        return type(self)(answer=self.answer[rows], streak=self.streak[rows])

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """The state of several batches as one."""
        return cls(
            answer=np.concatenate([part.answer for part in parts]),
            streak=np.concatenate([part.streak for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class ArrayExitRule:
    """Says after each exit head which sequences leave."""

    config: ModelConfig
    """The model, which has exits."""
    threshold: ExitThreshold
    """Leave when the uncertainty is at most this, or this layer's."""

    def start(self, num_sequences: int) -> ArrayState:
        """State before the first exit head."""
        width = 1 if self.config.problem_type == "single_label" else self.config.num_labels
        return ArrayState(
            answer=np.full((num_sequences, width), np.nan, dtype=np.float32),
            streak=np.zeros(num_sequences, dtype=np.int64),
        )

    def test(
        self, logits: Float32[np.ndarray, "seqs labels"], state: ArrayState, *, layer: int
    ) -> tuple[Bool[np.ndarray, " seqs"], ArrayState]:
        """Which sequences leave after a 0-based layer, and the state for the next exit head (of all)."""
        unsure, state = self.measure(logits, state)
        return unsure <= np.float32(threshold_after(self.config, self.threshold, layer)), state

    def measure(
        self, logits: Float32[np.ndarray, "seqs labels"], state: ArrayState
    ) -> tuple[Float32[np.ndarray, " seqs"], ArrayState]:
        """What is compared with the threshold, and the state for the next exit head."""
        settings = self.config.exit or ExitConfig()
        if settings.criterion == "patience":
            state = self._count_agreement(logits, state, settings)
            return np.float32(1) / (state.streak.astype(np.float32) + np.float32(0.5)), state
        problem = self.config.problem_type
        return uncertainty(logits, problem_type=problem, criterion=settings.criterion), state

    def _count_agreement(self, logits: np.ndarray, state: ArrayState, settings: ExitConfig) -> ArrayState:
        answer = _ANSWERS[self.config.problem_type](logits.astype(np.float32))
        tolerance = settings.patience_tolerance if self.config.problem_type == "regression" else 0.0
        agrees = (np.abs(answer - state.answer) <= np.float32(tolerance)).all(axis=-1)
        return ArrayState(answer=answer, streak=np.where(agrees, state.streak + 1, 1))


def _softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    probs: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return probs


def _sigmoid(values: np.ndarray) -> np.ndarray:
    # The power of a number that is never positive cannot overflow.
    powers = np.exp(-np.abs(values))
    return np.asarray(np.where(values >= 0, 1 / (1 + powers), powers / (1 + powers)))


def _entropy(probs: np.ndarray) -> np.ndarray:
    logs = np.log(np.where(probs > 0, probs, np.float32(1)))
    entropy: np.ndarray = -(probs * logs).sum(axis=-1) / np.float32(math.log(probs.shape[-1]))
    return entropy


def _max_prob(probs: np.ndarray) -> np.ndarray:
    labels = probs.shape[-1]
    unsure: np.ndarray = (1 - probs.max(axis=-1)) * np.float32(labels) / np.float32(labels - 1)
    return unsure


def _margin(probs: np.ndarray) -> np.ndarray:
    ordered = np.sort(probs, axis=-1)
    margin: np.ndarray = 1 - (ordered[..., -1] - ordered[..., -2])
    return margin


def _largest(logits: np.ndarray) -> np.ndarray:
    return np.asarray(logits.argmax(axis=-1)[:, None], dtype=np.float32)


def _signs(logits: np.ndarray) -> np.ndarray:
    return (logits > 0).astype(np.float32)


def _number(logits: np.ndarray) -> np.ndarray:
    return logits


_UNCERTAINTIES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "entropy": _entropy,
    "max_prob": _max_prob,
    "margin": _margin,
}
_ANSWERS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "single_label": _largest,
    "multi_label": _signs,
    "regression": _number,
}

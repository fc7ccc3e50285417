"""How good answers are: one number per kind of problem."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from magic_pyramid.config import ProblemType

Label = int | float | tuple[int, ...]
"""Index of the label, the number of a regression, or the indices of all labels that hold."""

METRIC_NAMES: dict[ProblemType, str] = {
    "single_label": "accuracy",
    "multi_label": "exact match",
    "regression": "Pearson correlation",
}
"""What ``quality`` measures."""


def probabilities(logits: Float[np.ndarray, "rows labels"], problem_type: ProblemType) -> np.ndarray:
    """Softmax, a sigmoid per label, or for regression the outputs themselves."""
    if problem_type == "regression":
        return logits
    if problem_type == "multi_label":
        return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def quality(
    logits: Float[np.ndarray, "rows labels"], labels: Sequence[Label], problem_type: ProblemType
) -> float:
    """Share of right answers, share of rows with every label right, or Pearson's correlation."""
    return _METRICS[problem_type](logits, labels)


def _accuracy(logits: np.ndarray, labels: Sequence[Label]) -> float:
    return float((logits.argmax(axis=1) == np.asarray(labels)).mean())


def _exact_match(logits: np.ndarray, labels: Sequence[Label]) -> float:
    wanted = np.zeros(logits.shape, dtype=bool)
    for row, indices in enumerate(labels):
        assert isinstance(indices, tuple)
        wanted[row, list(indices)] = True
    return float(((logits > 0) == wanted).all(axis=1).mean())


def _pearson(logits: np.ndarray, labels: Sequence[Label]) -> float:
    answers, targets = logits[:, 0].astype(np.float64), np.asarray(labels, dtype=np.float64)
    if answers.std() == 0 or targets.std() == 0:
        return 0.0
    return float(np.corrcoef(answers, targets)[0, 1])


_METRICS: dict[ProblemType, Callable[[np.ndarray, Sequence[Label]], float]] = {
    "single_label": _accuracy,
    "multi_label": _exact_match,
    "regression": _pearson,
}

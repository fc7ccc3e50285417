"""How good answers are: one number per kind of problem, and what else is usual to report."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int64

from magic_pyramid.config import ModelConfig, ProblemType
from magic_pyramid.spans import Reading, Window, exact_match, f1_score, read_question

Label = int | float | tuple[int, ...] | Window
"""Index of the label, the number of a regression, the indices of all labels that hold, or for spans the
window with the question's answers."""

METRIC_NAMES: dict[ProblemType, str] = {
    "single_label": "accuracy",
    "multi_label": "exact match",
    "regression": "Pearson correlation",
    "span": "F1",
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


def quality(logits: Float[np.ndarray, "rows *answer"], labels: Sequence[Label], config: ModelConfig) -> float:
    """Share of right answers, share of rows with every label right, Pearson's correlation, or mean F1."""
    return _METRICS[config.problem_type](logits, labels, config)


def further_metrics(
    logits: Float[np.ndarray, "rows *answer"], labels: Sequence[Label], config: ModelConfig
) -> dict[str, float]:
    """What is usually reported beside ``quality``, by name; nothing for single labels."""
    return _FURTHER[config.problem_type](logits, labels, config)


def examples_of(labels: Sequence[Label]) -> Int64[np.ndarray, " rows"]:
    """Which example each row belongs to, from 0: its own, or the question of a window."""
    questions = [label.question if isinstance(label, Window) else row for row, label in enumerate(labels)]
    return np.unique(questions, return_inverse=True)[1].astype(np.int64)


def read_windows(
    logits: Float[np.ndarray, "rows 2 places"],
    windows: Sequence[Window],
    config: ModelConfig,
    *,
    count: int = 1,
) -> dict[int, Reading]:
    """The best spans of each question, by its number."""
    assert config.span is not None
    by_question: dict[int, list[int]] = {}
    for row, window in enumerate(windows):
        by_question.setdefault(window.question, []).append(row)
    longest = config.span.max_answer_length
    return {
        question: read_question(
            [(windows[row], logits[row]) for row in rows], max_answer_length=longest, count=count
        )
        for question, rows in by_question.items()
    }


def _accuracy(logits: np.ndarray, labels: Sequence[Label], config: ModelConfig) -> float:
    return float((logits.argmax(axis=1) == np.asarray(labels)).mean())


def _all_right(logits: np.ndarray, labels: Sequence[Label], config: ModelConfig) -> float:
    return float(((logits > 0) == _wanted(labels, logits.shape)).all(axis=1).mean())


def _micro_f1(logits: np.ndarray, labels: Sequence[Label], config: ModelConfig) -> dict[str, float]:
    """F1 over all pairs of a row and a label; 1 where no label holds and none is given."""
    given, wanted = logits > 0, _wanted(labels, logits.shape)
    named = int(given.sum() + wanted.sum())
    return {"micro_f1": 2 * int((given & wanted).sum()) / named if named else 1.0}


def _wanted(labels: Sequence[Label], shape: tuple[int, ...]) -> np.ndarray:
    wanted = np.zeros(shape, dtype=bool)
    for row, indices in enumerate(labels):
        assert isinstance(indices, tuple)
        wanted[row, list(indices)] = True
    return wanted


def _pearson(logits: np.ndarray, labels: Sequence[Label], config: ModelConfig) -> float:
    return _correlation(logits[:, 0].astype(np.float64), np.asarray(labels, dtype=np.float64))


def _spearman(logits: np.ndarray, labels: Sequence[Label], config: ModelConfig) -> dict[str, float]:
    """Pearson's correlation of the ranks; equal numbers share their mean rank."""
    return {"spearman": _correlation(_ranks(logits[:, 0]), _ranks(np.asarray(labels, dtype=np.float64)))}


def _correlation(answers: np.ndarray, targets: np.ndarray) -> float:
    if answers.std() == 0 or targets.std() == 0:
        return 0.0
    return float(np.corrcoef(answers, targets)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[group], dtype=np.float64)


def _span_f1(logits: np.ndarray, labels: Sequence[Label], config: ModelConfig) -> float:
    return _mean_score(f1_score, logits, labels, config)


def _span_exact_match(logits: np.ndarray, labels: Sequence[Label], config: ModelConfig) -> dict[str, float]:
    return {"exact_match": _mean_score(exact_match, logits, labels, config)}


def _mean_score(
    score: Callable[[str, Iterable[str]], float],
    logits: np.ndarray,
    labels: Sequence[Label],
    config: ModelConfig,
) -> float:
    """Mean score over the questions."""
    assert config.span is not None
    windows = [label for label in labels if isinstance(label, Window)]
    right = {window.question: window.answers or () for window in windows}
    threshold = config.span.no_answer_threshold
    scores = [
        score(reading.answers(threshold)[0].text, [answer.text for answer in right[question]])
        for question, reading in read_windows(logits, windows, config).items()
    ]
    return float(np.mean(scores))


def _nothing(logits: np.ndarray, labels: Sequence[Label], config: ModelConfig) -> dict[str, float]:
    return {}


_METRICS: dict[ProblemType, Callable[[np.ndarray, Sequence[Label], ModelConfig], float]] = {
    "single_label": _accuracy,
    "multi_label": _all_right,
    "regression": _pearson,
    "span": _span_f1,
}
_FURTHER: dict[ProblemType, Callable[[np.ndarray, Sequence[Label], ModelConfig], dict[str, float]]] = {
    "single_label": _nothing,
    "multi_label": _micro_f1,
    "regression": _spearman,
    "span": _span_exact_match,
}

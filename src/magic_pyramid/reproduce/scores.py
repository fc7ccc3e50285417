"""Every number that a kind of task is judged by; the first one decides."""

from collections.abc import Sequence

import numpy as np

from magic_pyramid.config import ProblemType
from magic_pyramid.metrics import METRIC_NAMES, Label, quality

SPEARMAN = "Spearman correlation"


def scores_of(logits: np.ndarray, labels: Sequence[Label], problem_type: ProblemType) -> dict[str, float]:
    """The main number by its name, then the others that papers print."""
    scores = {METRIC_NAMES[problem_type]: quality(logits, labels, problem_type)}
    if problem_type == "regression":
        targets = _ranks(np.asarray(labels, dtype=np.float64))
        scores[SPEARMAN] = quality(_ranks(logits[:, 0])[:, None], targets.tolist(), problem_type)
    return scores


def _ranks(values: np.ndarray) -> np.ndarray:
    """Place of each value in ascending order; equal values share their mean place."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    places: np.ndarray = ((ends - counts) + (ends - 1)) / 2
    return places[inverse]

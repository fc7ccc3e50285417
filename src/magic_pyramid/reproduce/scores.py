"""Every number that a kind of task is judged by; the first one decides."""

from collections.abc import Sequence

import numpy as np

from magic_pyramid.config import ModelConfig
from magic_pyramid.metrics import METRIC_NAMES, Label, further_metrics, quality

SPEARMAN = "Spearman correlation"
_NAMES = {"spearman": SPEARMAN, "micro_f1": "micro F1", "exact_match": "exact match"}


def scores_of(logits: np.ndarray, labels: Sequence[Label], config: ModelConfig) -> dict[str, float]:
    """The main number by its name, then the others that papers print."""
    further = further_metrics(logits, labels, config)
    return {
        METRIC_NAMES[config.problem_type]: quality(logits, labels, config),
        **{_NAMES[name]: value for name, value in further.items()},
    }

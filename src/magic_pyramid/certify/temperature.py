"""One temperature for each head, so that its probabilities are neither too sure nor too timid."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32

from magic_pyramid.certify.outcomes import Answers
from magic_pyramid.config import ProblemType

COLDEST, HOTTEST = 0.2, 5.0
"""A head that errs on none of its texts would be the likelier the surer it is."""
_STEPS = 40
_GOLDEN = (math.sqrt(5) - 1) / 2


def fit_temperatures(
    logits: Mapping[int, Float32[np.ndarray, "texts labels"]], wanted: Answers, problem_type: ProblemType
) -> dict[int, float]:
    """By layer, what its head's logits are to be divided by for the likeliest probabilities (Guo, 2017).

    The likelihood has one peak in the logarithm of the temperature; its place is found by golden section.
    """
    return {layer: round(_fit(values, wanted, problem_type), 4) for layer, values in logits.items()}


def _fit(logits: np.ndarray, wanted: np.ndarray, problem_type: ProblemType) -> float:
    loss = _multi_label_loss if problem_type == "multi_label" else _single_label_loss
    values = logits.astype(np.float64)
    low, high = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if loss(values / math.exp(left), wanted) <= loss(values / math.exp(right), wanted):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def _single_label_loss(logits: np.ndarray, wanted: np.ndarray) -> float:
    totals = np.logaddexp.reduce(logits, axis=1)
    return float((totals - np.take_along_axis(logits, wanted, axis=1)[:, 0]).mean())


def _multi_label_loss(logits: np.ndarray, wanted: np.ndarray) -> float:
    return float((np.logaddexp(0.0, logits) - wanted * logits).mean())

"""Are a contender's answers those of the model? One that answers wrongly is reported, not timed."""

from dataclasses import dataclass

import numpy as np

from magic_pyramid.bench.contender import Contender
from magic_pyramid.config import ProblemType

TOLERANCE = 1e-3
"""Largest difference of fp32 logits, as a share of the largest logit where that is above 1."""
LEAST_AGREEMENT = 0.9
"""Share of answers that int8 and adaptive contenders must have in common with the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the comparison with our own engine in PyTorch found."""

    logit_difference: float
    """Largest difference of a logit."""
    agreement: float
    """Share of texts with the same answer."""
    reason: str | None
    """Why the contender is refused; None: it answers as the model does."""


def judge(
    contender: Contender, logits: np.ndarray, reference: np.ndarray, problem_type: ProblemType
) -> Verdict:
    """Compare the logits of a contender with those of the same setting in ``TorchEngine``."""
    if logits.shape != reference.shape or not np.isfinite(logits).all():
        wrong = f"its logits of the shape {logits.shape} are not {reference.shape} finite numbers"
        return Verdict(logit_difference=float("inf"), agreement=0.0, reason=wrong)
    difference = float(np.abs(logits - reference).max())
    agreement = float((decisions(logits, reference, problem_type)).mean())
    reason: str | None = None
    if contender.precision == "fp32" and not contender.adaptive:
        allowed = TOLERANCE * max(1.0, float(np.abs(reference).max()))
        if difference > allowed:
            reason = f"its logits differ by {difference:.2g} from the model's; {allowed:.2g} is allowed"
    elif agreement < LEAST_AGREEMENT:
        reason = f"only {agreement:.0%} of its answers are the model's; {LEAST_AGREEMENT:.0%} are wanted"
    return Verdict(logit_difference=difference, agreement=agreement, reason=reason)


def decisions(logits: np.ndarray, reference: np.ndarray, problem_type: ProblemType) -> np.ndarray:
    """Whether each text has the same answer; a number is the same within a quarter of their spread."""
    if problem_type == "single_label":
        same = logits.argmax(1) == reference.argmax(1)
    elif problem_type == "multi_label":
        same = ((logits > 0) == (reference > 0)).all(1)
    else:
        same = np.abs(logits - reference).max(1) <= 0.25 * max(float(reference.std()), 1e-6)
    return np.asarray(same)

"""Losses: an answer against its label, and an exit head or a student against its teacher.

All are means over the batch, in fp32. Teachers never receive a gradient.
"""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from magic_pyramid.config import ProblemType

LOWEST_LOG_PROB = -20.0
"""Floor of the teacher's log-probabilities in the reverse direction, where they are the target."""


def task_loss(
    logits: Float[Tensor, "seqs *answer"], labels: Shaped[Tensor, "seqs ..."], *, problem_type: ProblemType
) -> Float[Tensor, ""]:
    """Cross-entropy; per label for multi-label (labels ``[seqs, labels]``); squared error for regression.

    For spans the mean of both ends' cross-entropies, labels ``[seqs, 2]``.
    """
    if problem_type == "span":
        return functional.cross_entropy(logits.float().flatten(0, 1), labels.long().flatten())
    if problem_type == "single_label":
        return functional.cross_entropy(logits.float(), labels.long())
    if problem_type == "multi_label":
        return functional.binary_cross_entropy_with_logits(logits.float(), labels.float())
    return functional.mse_loss(logits.float(), labels.float().view_as(logits))


def exit_distillation(
    student_logits: Float[Tensor, "seqs *answer"],
    teacher_logits: Float[Tensor, "seqs *answer"],
    *,
    kl: Literal["forward", "reverse"],
    problem_type: ProblemType,
) -> Float[Tensor, ""]:
    """How far an exit head's answer is from the final head's (Magic Pyramid, section 3.2).

    ``forward`` is KL(teacher, student), which FastBERT's program computes: its gradient is p_s - p_t, so a
    head that is sure and wrong is pulled back. ``reverse`` is KL(student, teacher), which both papers print.
    Multi-label: the mean over labels of the divergence of each yes-or-no answer, as the task loss takes it.
    Spans: the mean over start and end.
    Regression: squared error.
    """
    student, teacher = student_logits.float(), teacher_logits.detach().float()
    if problem_type == "regression":
        return functional.mse_loss(student, teacher)
    student_log, teacher_log = _log_probs(student, problem_type), _log_probs(teacher, problem_type)
    if kl == "reverse":
        return _mean_divergence(student_log, teacher_log.clamp(min=LOWEST_LOG_PROB))
    return _mean_divergence(teacher_log, student_log)


def distillation(
    student_logits: Float[Tensor, "seqs *answer"],
    teacher_logits: Float[Tensor, "seqs *answer"],
    *,
    temperature: float,
    problem_type: ProblemType = "single_label",
) -> Float[Tensor, ""]:
    """KL(teacher, student) of softened answers, times temperature squared: gradients keep their size."""
    if problem_type == "regression":
        return exit_distillation(student_logits, teacher_logits, kl="forward", problem_type=problem_type)
    softened = exit_distillation(
        student_logits / temperature, teacher_logits / temperature, kl="forward", problem_type=problem_type
    )
    return softened * temperature**2


def _log_probs(
    logits: Float[Tensor, "seqs *answer"], problem_type: ProblemType
) -> Float[Tensor, "seqs *labels outcomes"]:
    if problem_type == "multi_label":
        return functional.logsigmoid(torch.stack([logits, -logits], dim=-1))
    return logits.log_softmax(-1)


def _mean_divergence(
    log_probs: Float[Tensor, "*batch outcomes"], target_log_probs: Float[Tensor, "*batch outcomes"]
) -> Float[Tensor, ""]:
    """Mean over the batch of KL(probs, target)."""
    return (log_probs.exp() * (log_probs - target_log_probs)).sum(-1).mean()

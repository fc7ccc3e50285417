"""Losses: values and gradients by hand; the teacher is never taught."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from magic_pyramid.exiting import distillation, exit_distillation, task_loss

PROBLEMS = ("single_label", "multi_label", "regression")


def logits(seed: int, *, seqs: int = 5, labels: int = 4) -> torch.Tensor:
    return torch.randn(seqs, labels, generator=torch.Generator().manual_seed(seed))


def gradient(student: torch.Tensor, teacher: torch.Tensor, **settings: Any) -> torch.Tensor:
    student = student.clone().requires_grad_()
    exit_distillation(
        student, teacher, **({"kl": "forward", "problem_type": "single_label"} | settings)
    ).backward()
    assert student.grad is not None
    return student.grad


def test_forward_gradient_is_student_minus_teacher():
    student, teacher = logits(0), logits(1)
    expected = (student.softmax(-1) - teacher.softmax(-1)) / 5
    torch.testing.assert_close(gradient(student, teacher), expected)


def test_reverse_gradient_is_weighted_by_the_student():
    student, teacher = logits(0), logits(1)
    ratio = student.log_softmax(-1) - teacher.log_softmax(-1)
    probs = student.softmax(-1)
    expected = probs * (ratio - (probs * ratio).sum(-1, keepdim=True)) / 5
    torch.testing.assert_close(gradient(student, teacher, kl="reverse"), expected)


def test_a_sure_and_wrong_student_is_pulled_back_by_forward_only():
    student, teacher = torch.tensor([[40.0, 0.0]]), torch.tensor([[0.0, 10.0]])
    assert gradient(student, teacher).abs().max() > 0.99
    assert gradient(student, teacher, kl="reverse").abs().max() < 1e-6


def test_forward_equals_the_divergence_of_torch():
    student, teacher = logits(0), logits(1)
    expected = functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
    ours = exit_distillation(student, teacher, kl="forward", problem_type="single_label")
    torch.testing.assert_close(ours, expected)


def test_reverse_stays_finite_when_the_teacher_is_saturated():
    student, teacher = torch.zeros(1, 2), torch.tensor([[1e4, 0.0]])
    loss = exit_distillation(student, teacher, kl="reverse", problem_type="single_label")
    assert float(loss) == pytest.approx(10.0 + torch.tensor(0.5).log().item())


def test_multi_label_is_the_mean_of_binary_divergences():
    student, teacher = logits(0), logits(1)
    pairs = [
        torch.stack([values, torch.zeros_like(values)], -1).flatten(0, 1) for values in (student, teacher)
    ]
    for kl in ("forward", "reverse"):
        expected = exit_distillation(*pairs, kl=kl, problem_type="single_label")
        torch.testing.assert_close(
            exit_distillation(student, teacher, kl=kl, problem_type="multi_label"), expected
        )


def test_regression_is_the_squared_error():
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]])
    assert float(exit_distillation(student, teacher, kl="forward", problem_type="regression")) == 2.5
    assert float(distillation(student, teacher, temperature=2.0, problem_type="regression")) == 2.5


@pytest.mark.parametrize("problem_type", PROBLEMS)
@pytest.mark.parametrize("kl", ["forward", "reverse"])
def test_equal_answers_cost_nothing_and_the_teacher_is_never_taught(kl, problem_type):
    teacher = logits(1).requires_grad_()
    student = teacher.detach().clone().requires_grad_()
    loss = exit_distillation(student, teacher, kl=kl, problem_type=problem_type)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert teacher.grad is None


@pytest.mark.parametrize("problem_type", ["single_label", "multi_label"])
def test_distillation_softens_and_rescales(problem_type):
    student, teacher = logits(0), logits(1)
    soft = exit_distillation(student / 2, teacher / 2, kl="forward", problem_type=problem_type)
    torch.testing.assert_close(
        distillation(student, teacher, temperature=2.0, problem_type=problem_type), 4 * soft
    )


def test_task_loss_of_each_problem():
    values = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    log_two = torch.tensor(2.0).log().item()
    assert float(task_loss(values, torch.tensor([0, 1]), problem_type="single_label")) == pytest.approx(
        log_two
    )
    sets = torch.tensor([[1, 0], [1, 1]])
    assert float(task_loss(values, sets, problem_type="multi_label")) == pytest.approx(log_two)
    numbers = torch.tensor([1.0, 3.0])
    assert float(task_loss(values[:, :1], numbers, problem_type="regression")) == 5.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_fp32_whatever_the_logits(dtype):
    student, teacher = logits(0).to(dtype), logits(1).to(dtype)
    for kl in ("forward", "reverse"):
        assert exit_distillation(student, teacher, kl=kl, problem_type="single_label").dtype == torch.float32
    assert task_loss(student, torch.zeros(5), problem_type="single_label").dtype == torch.float32

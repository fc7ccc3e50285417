"""Exit criteria: exact small values, the laws of uncertainty, and who leaves when."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magic_pyramid.config import BackboneConfig, ExitConfig, ModelConfig
from magic_pyramid.exiting import ExitRule, uncertainty

CRITERIA = ("entropy", "max_prob", "margin")
NUMBERS = st.floats(-30, 30, width=32)


def rule_of(*, problem_type="single_label", num_labels=3, **settings) -> ExitRule:
    backbone = BackboneConfig(
        model_type="bert",
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=32,
    )
    config = ModelConfig(
        backbone=backbone,
        labels=tuple(f"label {i}" for i in range(num_labels)),
        problem_type=problem_type,
        max_length=16,
        exit=ExitConfig(**settings),
    )
    assert config.exit is not None
    return ExitRule(config, config.exit.threshold)


def unsure(logits: Tensor, criterion: Any, problem_type: Any = "single_label") -> list[float]:
    return uncertainty(logits, problem_type=problem_type, criterion=criterion).tolist()


def log(*probs: float) -> Tensor:
    return torch.tensor([probs]).log()


@pytest.mark.parametrize("num_labels", [2, 3, 77])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_uniform_is_one_and_one_hot_is_zero(criterion, num_labels):
    uniform, one_hot = torch.zeros(1, num_labels), torch.zeros(1, num_labels)
    one_hot[0, 0] = 200.0
    assert unsure(uniform, criterion) == pytest.approx([1.0])
    assert unsure(one_hot, criterion) == [0.0]


def test_values_by_hand():
    logits = log(0.7, 0.2, 0.1)
    entropy = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)) / math.log(3)
    assert unsure(logits, "entropy") == pytest.approx([entropy])
    assert unsure(logits, "max_prob") == pytest.approx([0.45])
    assert unsure(logits, "margin") == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("threshold", "probability"), [(0.1, 0.987), (0.2, 0.969), (0.5, 0.890), (0.8, 0.757)]
)
def test_binary_entropy_dictionary(threshold, probability):
    assert unsure(log(probability, 1 - probability), "entropy") == pytest.approx([threshold], abs=3e-3)


@pytest.mark.parametrize("criterion", ["entropy", "max_prob"])
def test_multi_label_is_as_unsure_as_its_least_sure_label(criterion):
    logits = torch.tensor([[100.0, -100.0, 0.0], [100.0, -100.0, 100.0]])
    assert unsure(logits, criterion, "multi_label") == [1.0, 0.0]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_single_class_is_sure(criterion):
    assert unsure(torch.tensor([[-3.0], [5.0]]), criterion) == [0.0, 0.0]


@pytest.mark.parametrize("problem_type", ["single_label", "multi_label"])
@settings(deadline=None, max_examples=40)
@given(logits=st.lists(NUMBERS, min_size=2, max_size=6))
def test_uncertainty_is_a_share_in_fp32(problem_type, logits):
    for criterion in CRITERIA:
        for dtype in (torch.float32, torch.bfloat16):
            value = uncertainty(
                torch.tensor([logits], dtype=dtype), problem_type=problem_type, criterion=criterion
            )
            assert value.dtype == torch.float32
            assert 0.0 <= float(value) <= 1.0


@settings(deadline=None, max_examples=40)
@given(logits=st.lists(NUMBERS, min_size=3, max_size=3), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_higher_threshold_never_leaves_later(logits, low, high):
    low, high = sorted((low, high))
    values = torch.tensor([logits])
    for criterion in CRITERIA:
        leaves = [leaves_of(rule_of(criterion=criterion, threshold=tau), values) for tau in (low, high)]
        assert leaves[0] <= leaves[1]


def leaves_of(rule: ExitRule, logits: Tensor) -> list[bool]:
    leaves, _ = rule.test(logits, rule.start(len(logits)), layer=0)
    return leaves.tolist()


def test_leaving_is_at_most_not_less_than():
    sure = torch.tensor([[500.0, 0.0, 0.0]])
    assert leaves_of(rule_of(threshold=0.0), sure) == [True]
    assert leaves_of(rule_of(threshold=1.0), torch.zeros(1, 3)) == [True]


@pytest.mark.parametrize("criterion", [*CRITERIA, "patience"])
def test_without_a_threshold_nobody_leaves(criterion):
    rule = rule_of(criterion=criterion, threshold=None)
    assert leaves_of(rule, torch.tensor([[500.0, 0.0, 0.0]])) == [False]


def test_a_model_without_exits_lets_nobody_leave():
    rule = rule_of(threshold=1.0)
    assert leaves_of(ExitRule(rule.config.replace(exit=None), 1.0), torch.zeros(2, 3)) == [False, False]


def test_not_a_number_stays():
    assert leaves_of(rule_of(threshold=1.0), torch.full((1, 3), math.nan)) == [False]


def walk(rule: ExitRule, answers: list[Tensor]) -> list[list[bool]]:
    state, history = rule.start(len(answers[0])), []
    for layer, logits in enumerate(answers):
        leaves, state = rule.test(logits, state, layer=layer)
        history.append(leaves.tolist())
    return history


def test_patience_waits_for_layers_in_a_row():
    one, two = [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
    answers = [torch.tensor(rows) for rows in ([one, one], [one, two], [one, two], [two, two])]
    history = walk(rule_of(criterion="patience", patience=3), answers)
    assert history == [[False, False], [False, False], [True, False], [False, True]]


def test_patience_of_one_leaves_at_once():
    assert walk(rule_of(criterion="patience", patience=1), [torch.zeros(2, 3)]) == [[True, True]]


@pytest.mark.parametrize("patience", range(1, 41))
def test_a_threshold_of_one_over_t_waits_for_t_heads(patience):
    rule = rule_of(criterion="patience", threshold=1 / patience)
    assert walk(rule, [torch.zeros(1, 3)] * patience) == [*[[False]] * (patience - 1), [True]]


def test_a_rounded_threshold_waits_for_as_many_heads():
    for threshold, patience in ((0.33, 3), (0.34, 3), (0.333333, 3), (0.14, 7), (0.083, 12), (0.5, 2)):
        rule = rule_of(criterion="patience", threshold=threshold)
        assert walk(rule, [torch.zeros(1, 3)] * patience)[-2:] == [[False], [True]]


@given(
    answers=st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=8),
    patience=st.integers(1, 4),
)
def test_patience_counts_each_sequence_alone(answers, patience):
    """Expected: a sequence leaves where its last answers, as many as the patience, are all the same."""
    rule = rule_of(criterion="patience", patience=patience)
    history = walk(rule, [torch.eye(3)[row] for row in answers])
    for layer, leaves in enumerate(history):
        for row in range(3):
            last = [answer[row] for answer in answers[max(0, layer + 1 - patience) : layer + 1]]
            assert leaves[row] == (len(last) == patience and len(set(last)) == 1)


def test_patience_of_multi_label_compares_sets():
    rule = rule_of(criterion="patience", patience=2, problem_type="multi_label")
    answers = [
        torch.tensor([[1.0, -1.0, 2.0]]),
        torch.tensor([[1.0, 1.0, 2.0]]),
        torch.tensor([[9.0, 0.1, 3.0]]),
    ]
    assert walk(rule, answers) == [[False], [False], [True]]


def test_patience_of_regression_has_a_tolerance():
    settings = {"criterion": "patience", "patience": 2, "patience_tolerance": 0.25, "num_labels": 1}
    rule = rule_of(problem_type="regression", **settings)
    assert walk(rule, [torch.tensor([[v]]) for v in (1.0, 1.5, 1.75)]) == [[False], [False], [True]]


def test_patience_survives_the_leaving_of_others():
    rule = rule_of(criterion="patience", patience=2)
    first, second = torch.eye(3), torch.eye(3)[[0, 2, 2]]
    leaves, state = rule.test(first, rule.start(3), layer=0)
    keep = torch.tensor([False, True, True])
    leaves, state = rule.test(second[keep], state.select(keep), layer=1)
    assert leaves.tolist() == [False, True]
    assert state.streak.tolist() == [1, 2]


def test_selecting_before_the_first_head_keeps_an_empty_memory():
    state = rule_of(criterion="patience").start(3).select(torch.tensor([True, False, True]))
    assert state.answer is None
    assert state.streak.tolist() == [0, 0]

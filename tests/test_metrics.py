"""How good answers are, by hand."""

import numpy as np
import pytest

import tiny
from magic_pyramid.metrics import METRIC_NAMES, further_metrics, probabilities, quality

LOGITS = np.array([[2.0, 0.0, -1.0], [0.0, 3.0, 1.0], [-1.0, 0.5, 0.2]], dtype=np.float32)


def test_accuracy_is_the_share_of_right_answers():
    assert quality(LOGITS, [0, 1, 1], tiny.CONFIG) == 1.0
    assert quality(LOGITS, [0, 2, 2], tiny.CONFIG) == pytest.approx(1 / 3)


def test_a_set_of_labels_is_right_only_as_a_whole():
    assert quality(LOGITS, [(0,), (1, 2), (1, 2)], tiny.MULTI_LABEL) == 1.0
    assert quality(LOGITS, [(0,), (1,), ()], tiny.MULTI_LABEL) == pytest.approx(1 / 3)


def test_no_label_at_all_can_be_right():
    assert quality(-np.ones((1, 3), dtype=np.float32), [()], tiny.MULTI_LABEL) == 1.0


def test_regression_is_scored_by_pearsons_correlation():
    answers = np.array([[1.0], [2.0], [4.0]], dtype=np.float32)
    assert quality(answers, [10.0, 20.0, 40.0], tiny.REGRESSION) == pytest.approx(1.0)
    assert quality(answers, [4.0, 2.0, 0.0], tiny.REGRESSION) == pytest.approx(-0.981981, abs=1e-6)


@pytest.mark.parametrize(("answers", "targets"), [([1.0, 1.0], [0.0, 1.0]), ([0.0, 1.0], [2.0, 2.0])])
def test_a_constant_correlates_with_nothing(answers, targets):
    assert quality(np.array(answers, dtype=np.float32)[:, None], targets, tiny.REGRESSION) == 0.0


def test_probabilities_of_one_label_out_of_many_are_a_softmax():
    probs = probabilities(np.array([[0.0, np.log(3.0)]], dtype=np.float32), "single_label")
    np.testing.assert_allclose(probs, [[0.25, 0.75]], rtol=1e-6)


def test_probabilities_of_many_labels_are_one_sigmoid_each():
    probs = probabilities(np.array([[0.0, np.log(3.0)]], dtype=np.float32), "multi_label")
    np.testing.assert_allclose(probs, [[0.5, 0.75]], rtol=1e-6)


def test_a_regression_answers_with_its_number():
    assert probabilities(LOGITS[:, :1], "regression").tolist() == LOGITS[:, :1].tolist()


@pytest.mark.parametrize("problem_type", ["single_label", "multi_label"])
def test_large_logits_do_not_overflow(problem_type):
    probs = probabilities(np.array([[800.0, -800.0]], dtype=np.float32), problem_type)
    np.testing.assert_allclose(probs, [[1.0, 0.0]], atol=1e-12)


def test_every_problem_has_a_name_for_its_number():
    assert set(METRIC_NAMES) == {"single_label", "multi_label", "regression", "span"}


def test_spearman_is_the_correlation_of_ranks():
    answers = np.array([[1.0], [2.0], [30.0], [4.0]], dtype=np.float32)
    assert further_metrics(answers, [0.1, 0.2, 5.0, 0.4], tiny.REGRESSION) == {"spearman": pytest.approx(1.0)}
    # Ranks 1, 2, 4, 3 against 4, 3, 1, 2.
    assert further_metrics(answers, [9.0, 8.0, 1.0, 2.0], tiny.REGRESSION)["spearman"] == pytest.approx(-1.0)


def test_equal_numbers_share_their_mean_rank():
    answers = np.array([[1.0], [1.0], [2.0]], dtype=np.float32)
    # Ranks 1.5, 1.5, 3 against 1, 2, 3: covariance 1.5, deviations sqrt(1.5) and sqrt(2).
    expected = 1.5 / np.sqrt(1.5 * 2.0)
    assert further_metrics(answers, [1.0, 2.0, 3.0], tiny.REGRESSION)["spearman"] == pytest.approx(expected)
    assert further_metrics(answers, [1.0, 1.0, 1.0], tiny.REGRESSION)["spearman"] == 0.0


def test_micro_f1_counts_pairs_of_a_row_and_a_label():
    # Given (0), (1, 2), (1, 2); right are three of five given and of four wanted.
    assert further_metrics(LOGITS, [(0,), (1, 0), (1,)], tiny.MULTI_LABEL) == {
        "micro_f1": pytest.approx(2 * 3 / (5 + 4))
    }
    assert further_metrics(-np.ones((1, 3), dtype=np.float32), [()], tiny.MULTI_LABEL) == {"micro_f1": 1.0}


def test_single_labels_have_nothing_further():
    assert further_metrics(LOGITS, [0, 1, 1], tiny.CONFIG) == {}

"""Answers with their receipts, in the words of the model's labels."""

import json

import numpy as np
import pytest

import tiny
from magic_pyramid.cost import CostModel
from magic_pyramid.engine.interface import EngineOutput, Setting
from magic_pyramid.predictions import predictions_of

BOTH = Setting(prune_scale=1.0, exit_threshold=0.6)


def answers(logits, config=tiny.CONFIG, *, setting=BOTH):
    rows = len(logits)
    output = EngineOutput(
        logits=np.array(logits, dtype=np.float32).reshape(rows, config.num_labels),
        exit_layer=np.array([0, 2])[:rows],
        num_tokens=np.array([[4, 3, 0, 0], [8, 6, 4, 2]])[:rows],
    )
    return predictions_of(config, output, setting)


def test_a_single_label_is_the_most_probable_one():
    found = answers([[0, 2, 1], [3, 0, 0]])
    assert found.labels == ["so-so", "bad"]
    np.testing.assert_allclose(found.probabilities.sum(1), 1.0, rtol=1e-6)


def test_several_labels_are_those_over_one_half():
    found = answers([[1, -1, 0.1], [-1, -1, -1]], tiny.MULTI_LABEL)
    assert found.labels == [["bad", "good"], []]


def test_a_regression_answers_with_a_number():
    found = answers([[0.25], [-2.0]], tiny.REGRESSION)
    assert found.labels == [0.25, -2.0]
    assert found.probabilities.tolist() == [[0.25], [-2.0]]


def test_receipts_are_passed_on_and_priced():
    found = answers([[0, 2, 1], [3, 0, 0]])
    flops = CostModel(tiny.CONFIG).flops(found.num_tokens, found.exit_layer)
    assert found.exit_layer.tolist() == [0, 2]
    assert found.gflops.tolist() == pytest.approx((flops / 1e9).tolist())


def test_exit_heads_cost_nothing_when_exits_are_off():
    assert answers([[0, 2, 1]]).gflops > answers([[0, 2, 1]], setting=Setting()).gflops


def test_rows_are_plain_json():
    found = answers([[0, 2, 1], [3, 0, 0]])
    rows = list(found)
    assert len(found) == len(rows) == 2
    assert json.loads(json.dumps(rows)) == rows
    assert rows[1]["label"] == "bad"
    assert rows[1]["num_tokens"] == [8, 6, 4, 2]
    assert rows[1].keys() == {"label", "probabilities", "exit_layer", "num_tokens", "gflops"}


def test_the_summary_is_means():
    found = answers([[0, 2, 1], [3, 0, 0]])
    assert found.summary() == {
        "num_examples": 2,
        "mean_layers": 2.0,
        "mean_input_tokens": 6.0,
        "mean_kept_tokens": found.kept_tokens.mean(),
        "gflops": pytest.approx(found.gflops.mean()),
        "exit_distribution": [1, 0, 1],
    }


def test_kept_tokens_are_those_alive_after_the_layer_that_answered():
    found = answers([[0, 2, 1], [3, 0, 0]])
    assert found.kept_tokens.tolist() == [found.num_tokens[0, 1], 2]


def test_no_answers_have_no_means():
    assert answers(np.zeros((0, 3))).summary() == {"num_examples": 0}

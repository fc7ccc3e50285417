"""Exact tests of a drop: sizes by enumeration, laws, and numbers from tables."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magic_pyramid.certify.risk import (
    check_promise,
    disagreement_p_value,
    drop_p_value,
    fewest_rows,
    likely_rows,
    upper_bound,
)
from magic_pyramid.errors import ConfigError


def trinomial(rows, lost_share, won_share):
    """Probability of each pair of counts."""
    lost, won = np.meshgrid(np.arange(rows + 1), np.arange(rows + 1), indexing="ij")
    rest = rows - lost - won
    fits = rest >= 0
    logs = np.array([math.lgamma(count + 1) for count in range(rows + 1)])
    ways = math.lgamma(rows + 1) - logs[lost] - logs[won] - logs[np.maximum(rest, 0)]
    log_p = lost * math.log(lost_share) + won * math.log(max(won_share, 1e-300))
    log_p = log_p + np.maximum(rest, 0) * math.log(1 - lost_share - won_share)
    return np.where(fits, np.exp(ways + log_p), 0.0)


@pytest.mark.parametrize("limit", [0.05, 0.1])
@pytest.mark.parametrize("level", [0.05, 0.1])
def test_the_test_of_a_drop_keeps_its_level_whatever_the_share_won(limit, level):
    """By summing over all results, at many points of the border and behind it: no simulation."""
    rows = 24
    passes = np.array(
        [
            [lost + won <= rows and drop_p_value(lost, won, rows, limit) <= level for won in range(rows + 1)]
            for lost in range(rows + 1)
        ]
    )
    sizes = [
        float(trinomial(rows, won_share + limit + extra, won_share)[passes].sum())
        for won_share in (1e-9, 0.004, 0.013, 0.03, 0.07, 0.15, 0.3, 0.44)
        for extra in (0.0, 0.01)
    ]
    assert max(sizes) <= level
    assert max(sizes) > level / 4, "so weak a test would keep any level"


def test_a_binomial_p_value_is_the_chance_of_so_few():
    assert disagreement_p_value(0, 0, 100, 0.03) == pytest.approx(0.97**100)
    by_hand = sum(math.comb(50, k) * 0.1**k * 0.9 ** (50 - k) for k in range(3))
    assert disagreement_p_value(2, 7, 50, 0.1) == pytest.approx(by_hand)


def test_texts_won_help_a_drop_and_not_an_agreement():
    assert drop_p_value(4, 4, 500, 0.02) < drop_p_value(4, 0, 500, 0.02)
    assert disagreement_p_value(4, 4, 500, 0.02) == disagreement_p_value(4, 0, 500, 0.02)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(60, 300))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_more_lost_is_never_better(lost, won, rows):
    assert drop_p_value(lost, won, rows, 0.05) <= drop_p_value(lost + 1, won, rows, 0.05) + 1e-12
    assert drop_p_value(lost, won + 1, rows, 0.05) <= drop_p_value(lost, won, rows, 0.05) + 1e-2


@pytest.mark.parametrize("risk", [drop_p_value, disagreement_p_value])
def test_a_result_at_the_limit_proves_nothing(risk):
    assert risk(5, 0, 100, 0.05) == 1.0
    assert risk(0, 0, 100, 0.0) == 1.0


def test_the_bound_is_where_the_test_begins_to_pass():
    bound = upper_bound(disagreement_p_value, 0, 0, 100, confidence=0.95)
    assert bound == pytest.approx(1 - 0.05**0.01, abs=2e-5)
    bound = upper_bound(drop_p_value, 6, 4, 500, confidence=0.95)
    assert drop_p_value(6, 4, 500, bound) <= 0.05 < drop_p_value(6, 4, 500, bound - 1e-3)


def test_the_rows_without_which_nothing_is_certified_are_those_of_the_binomial():
    assert fewest_rows(disagreement_p_value, 0.01, 0.9) == 230
    assert math.ceil(math.log(0.1) / math.log(0.99)) == 230
    assert 230 <= fewest_rows(drop_p_value, 0.01, 0.9) <= 233


@pytest.mark.parametrize("lost", [0.01, 1 / 650])
def test_with_the_rows_that_some_losses_need_the_test_passes_and_with_a_tenth_less_it_does_not(lost):
    def p_value(rows):
        return drop_p_value(math.ceil(lost * rows), math.floor(lost / 2 * rows), rows, limit)

    limit = 0.01 if lost == 0.01 else 0.005
    rows = likely_rows(drop_p_value, lost, lost / 2, limit, 0.95, least=1)
    assert p_value(rows) <= 0.05 < p_value(int(rows / 1.11))


def test_the_rows_that_losses_need_are_more_than_those_that_failed_or_none():
    assert likely_rows(disagreement_p_value, 0.0, 0.0, 0.01, 0.9, least=5000) == 5000
    assert likely_rows(drop_p_value, 0.02, 0.01, 0.01, 0.95, least=1) is None
    many = likely_rows(drop_p_value, 0.01, 0.01, 0.001, 0.95, least=1)
    assert many == pytest.approx((1.6449 / 0.001) ** 2 * 0.02, rel=1e-3)


@pytest.mark.parametrize(("lost", "won", "rows", "confidence"), [(5, 4, 200, 0.7), (6, 5, 300, 0.79)])
def test_behind_the_bound_no_limit_fails_again(lost, won, rows, confidence):
    bound = upper_bound(drop_p_value, lost, won, rows, confidence=confidence)
    behind = [bound + place / rows / 40 for place in range(120)]
    assert all(drop_p_value(lost, won, rows, limit) <= 1 - confidence for limit in behind)


@pytest.mark.parametrize(
    ("limit", "confidence", "message"),
    [
        (0.0, 0.95, "max_drop is 0 points; it must lie above 0, up to 100"),
        (1.2, 0.95, "max_drop is 120 points"),
        (0.01, 1.0, r"confidence is 1\.0; it must lie in \[0\.5, 0\.999\]"),
    ],
)
def test_impossible_promises_are_refused(limit, confidence, message):
    with pytest.raises(ConfigError, match=message):
        check_promise(limit, confidence)

"""The promise itself: over many calibration sets it is broken in no larger share than it says."""

import numpy as np
import pytest

from populations import MODES, coverage, treacherous, typical

SETS, ROWS = 1000, 400
SLACK = 3 * np.sqrt(0.05 * 0.95 / SETS)
"""Three standard errors of the share of sets."""


@pytest.mark.parametrize("mode", MODES)
def test_a_promise_is_broken_no_more_often_than_it_says_where_every_fast_setting_is_too_bad(mode):
    # What is won counts as lost where agreement is wanted.
    population = treacherous(0.02, won=0.02 if MODES[mode].is_labelled else 0.0)
    found = coverage(population, MODES[mode], sets=SETS, rows=ROWS, seed=0)
    assert found.broken <= 0.05 + SLACK
    assert found.naive > 0.2, "the same simulation must break a promise that is none"


def test_a_promise_that_can_be_kept_is_mostly_made_and_kept():
    found = coverage(typical(), MODES["labelled"], sets=100, rows=800, seed=1)
    assert found.broken <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)
    assert found.certified > 0.5
    assert found.speedup > 1.1

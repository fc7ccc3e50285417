"""The drift monitor: few false alarms, real shifts are found, impossible options are refused."""

import numpy as np
import pytest

import tiny
from magic_pyramid.certify import Speed
from magic_pyramid.certify.flow import KEPT_EDGES, kept_bins
from magic_pyramid.drift import DriftMonitor, two_sample_p_value
from magic_pyramid.errors import ConfigError
from magic_pyramid.predictions import Predictions

LAYERS = (0.4, 0.3, 0.3)
SIMULATIONS = 1000


def reference(layers, kept):
    return Speed(
        name="certified",
        prune_scale=1.0,
        exit_thresholds={"0": 0.3},
        flops_speedup=2.0,
        drop=0.1,
        exit_counts=tuple(np.bincount(layers, minlength=3).tolist()),
        kept_counts=tuple(kept_bins(kept).tolist()),
    )


def predictions(layers, kept):
    num_tokens = np.where(np.arange(4) <= layers[:, None] + 1, kept[:, None], 0)
    return Predictions(
        labels=["good"] * len(layers),
        probabilities=np.ones((len(layers), 1)),
        exit_layer=layers,
        num_tokens=num_tokens,
        gflops=np.zeros(len(layers)),
    )


def traffic(random, rows, *, layers=LAYERS, length=20.0):
    return random.choice(3, size=rows, p=layers), 1 + random.poisson(length, size=rows)


def alarms(random, *, windows, **shift):
    """Share of windows with an alarm, each with a calibration of its own."""
    found = 0
    for seed in range(windows):
        monitor = DriftMonitor(reference(*traffic(random, 400)), window=100, false_alarms=0.05, seed=seed)
        (report,) = monitor.add(predictions(*traffic(random, 100, **shift)))
        found += report.has_drifted
    return found / windows


def test_false_alarms_are_as_rare_as_promised():
    share = alarms(np.random.default_rng(0), windows=SIMULATIONS)
    # Three standard errors of a share of 0.05.
    assert share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / SIMULATIONS)
    assert share > 0.01, "a monitor that never alarms would pass as well"


@pytest.mark.parametrize(
    "shift",
    [{"layers": (0.1, 0.3, 0.6)}, {"length": 30.0}, {"layers": (0.7, 0.2, 0.1), "length": 12.0}],
    ids=["later exits", "longer texts", "both"],
)
def test_a_real_shift_is_found(shift):
    assert alarms(np.random.default_rng(1), windows=50, **shift) > 0.95


def test_windows_are_filled_across_calls_and_tested_once():
    random = np.random.default_rng(2)
    monitor = DriftMonitor(reference(*traffic(random, 400)), window=100)
    counts = [len(monitor.add(predictions(*traffic(random, rows)))) for rows in (60, 60, 200, 79, 1)]
    assert counts == [0, 1, 2, 0, 1]


def test_a_report_counts_its_window():
    random = np.random.default_rng(3)
    layers, kept = traffic(random, 50)
    (report,) = DriftMonitor(reference(*traffic(random, 400)), window=50).add(predictions(layers, kept))
    assert report.exit_counts == tuple(np.bincount(layers, minlength=3))
    assert sum(report.kept_counts) == report.num_texts == 50


def test_equal_samples_have_the_largest_p_value_and_disjoint_ones_the_least():
    random = np.random.default_rng(0)
    counts = np.array([40, 60])
    assert two_sample_p_value(counts, counts, draws=99, random=random) == 1.0
    assert two_sample_p_value(np.array([40, 0]), np.array([0, 40]), draws=99, random=random) == 0.01


def test_every_number_of_tokens_has_its_bin():
    assert [int(kept_bins(np.array([edge])).argmax()) for edge in KEPT_EDGES] == list(range(len(KEPT_EDGES)))
    assert kept_bins(np.array([5, 9999]))[[3, -1]].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is 0; it must be at least 1"),
        ({"false_alarms": 0.0}, r"false_alarms is 0\.0; it must lie above 0, up to 0\.5"),
    ],
)
def test_impossible_options_are_refused(options, message):
    random = np.random.default_rng(0)
    with pytest.raises(ConfigError, match=message):
        DriftMonitor(reference(*traffic(random, 10)), **options)


def test_a_model_without_a_certificate_has_no_reference():
    with pytest.raises(
        ConfigError, match="was not calibrated with a guarantee; run: magic-pyramid calibrate"
    ):
        DriftMonitor.of(tiny.classifier())

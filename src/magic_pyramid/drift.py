"""Are texts still like those of the calibration? A monitor of where they leave and what is kept of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Int, Int64

from magic_pyramid.certify.certificate import Speed, stored_speed
from magic_pyramid.certify.flow import kept_bins
from magic_pyramid.errors import ConfigError
from magic_pyramid.predictions import Predictions
from magic_pyramid.predictor import Predictor

_TESTS = 2
"""Tests of one window; each gets its share of the false-alarm rate (Bonferroni)."""
_DRAWS_PER_ALARM = 20
"""Random windows drawn until so many of them are expected to look as bad as an alarm."""
_DRAWS_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """One window of traffic against the calibration."""

    num_texts: int
    """Texts in the window."""
    exit_p_value: float
    """Of the layers that answered, if nothing has changed."""
    kept_p_value: float
    """Of the tokens alive at the end, if nothing has changed; longer inputs change them too."""
    has_drifted: bool
    """Whether either is too small for chance."""
    exit_counts: tuple[int, ...]
    """Texts of the window by the layer that answered."""
    kept_counts: tuple[int, ...]
    """Texts of the window by tokens, in bins with the lower edges ``certify.flow.KEPT_EDGES``."""


class DriftMonitor:
    """Compares windows of predictions with how the calibration texts went through the model.

    Each window is tested once, on its own, by two tests of the same distribution (permutation tests of the G
    statistic). If nothing changed, a window raises an alarm with a chance of at most ``false_alarms``, taken
    over the draw of the calibration texts and of the window. It is a rate for each window: of 100 windows one
    may be expected to alarm at 0.01.
    """

    def __init__(
        self,
        reference: Speed,
        *,
        window: int = 500,
        false_alarms: float = 0.01,
        seed: int = 0,
    ) -> None:
        """Watch the traffic of one speed.

        Args:
            reference: a named setting, with its counts at calibration.
            window: texts tested together; small windows find a shift sooner, large ones smaller shifts.
            false_alarms: chance of an alarm in a window where nothing changed.
            seed: of the permutations.

        Raises:
            ConfigError: an option is impossible.
        """
        if window < 1:
            raise ConfigError(f"window is {window}; it must be at least 1")
        if not 0.0 < false_alarms <= 0.5:
            raise ConfigError(f"false_alarms is {false_alarms!r}; it must lie above 0, up to 0.5")
        self.reference, self.window, self.false_alarms = reference, window, false_alarms
        self._random = np.random.default_rng(seed)
        self._layers: list[int] = []
        self._kept: list[int] = []

    @classmethod
    def of(
        cls,
        classifier: Predictor,
        *,
        speed: str = "certified",
        window: int = 500,
        false_alarms: float = 0.01,
    ) -> Self:
        """A monitor of predictions that are made with this speed.

        Raises:
            ConfigError: the folder has no calibration with a guarantee, or an option is impossible.
        """
        return cls(stored_speed(classifier.info, speed), window=window, false_alarms=false_alarms)

    def add(self, predictions: Predictions) -> list[DriftReport]:
        """Take note of answers; gives a report of each window that they complete, mostly none."""
        self._layers += predictions.exit_layer.tolist()
        self._kept += predictions.kept_tokens.tolist()
        reports = []
        while len(self._layers) >= self.window:
            reports.append(self._test(self._layers[: self.window], self._kept[: self.window]))
            del self._layers[: self.window], self._kept[: self.window]
        return reports

    def _test(self, layers: Sequence[int], kept: Sequence[int]) -> DriftReport:
        exits = np.bincount(layers, minlength=len(self.reference.exit_counts))
        bins = kept_bins(np.asarray(kept))
        level = self.false_alarms / _TESTS
        draws = math.ceil(_DRAWS_PER_ALARM / level)
        p_values = [
            two_sample_p_value(np.asarray(then), now, draws=draws, random=self._random)
            for then, now in ((self.reference.exit_counts, exits), (self.reference.kept_counts, bins))
        ]
        return DriftReport(
            num_texts=len(layers),
            exit_p_value=p_values[0],
            kept_p_value=p_values[1],
            has_drifted=min(p_values) <= level,
            exit_counts=tuple(exits.tolist()),
            kept_counts=tuple(bins.tolist()),
        )


def two_sample_p_value(
    one: Int[np.ndarray, " bins"], other: Int[np.ndarray, " bins"], *, draws: int, random: np.random.Generator
) -> float:
    """Of two samples from one distribution, by the share of random divisions of both that differ as much."""
    total = one + other
    seen = _difference(other[None, :], total)[0]
    as_bad = 0
    for begin in range(0, draws, _DRAWS_AT_ONCE):
        count = min(_DRAWS_AT_ONCE, draws - begin)
        divided = random.multivariate_hypergeometric(total, int(other.sum()), size=count)
        as_bad += int((_difference(divided, total) >= seen - 1e-9).sum())
    return (1 + as_bad) / (1 + draws)


def _difference(part: Int64[np.ndarray, "draws bins"], total: Int[np.ndarray, " bins"]) -> np.ndarray:
    """The G statistic of a division into two samples, up to a constant."""
    rest = total - part
    return np.asarray((part * np.log(np.maximum(part, 1)) + rest * np.log(np.maximum(rest, 1))).sum(axis=1))

"""Pareto testing: half of the texts suggest a path of settings, the other half says how far it holds.

The path is fixed before the second half is looked at, and is tested from its safest setting until the first
failure, so one test at the full level bounds the chance of any false promise (Laufer-Goldshtein et al. 2023).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from magic_pyramid.certify.certificate import Certificate, CurvePoint, Speed, asked_thresholds
from magic_pyramid.certify.flow import kept_bins
from magic_pyramid.certify.frontier import Candidate, Tally, candidates, safest_first, tally
from magic_pyramid.certify.outcomes import NOT_ASKED, Outcomes
from magic_pyramid.certify.risk import (
    Risk,
    check_promise,
    disagreement_p_value,
    drop_p_value,
    fewest_rows,
    likely_rows,
    upper_bound,
)
from magic_pyramid.config import ModelConfig
from magic_pyramid.errors import ConfigError, InputError

FASTEST_MULTIPLE = 4.0
"""The speed `fastest` may lose so many times what is promised of `certified`, by estimate."""
Latency = Callable[[Candidate], float]
"""Milliseconds of a single text under a candidate, measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a calibration is to find."""

    kind: Literal["max_drop", "target_speedup", "target_latency_ms"] = "max_drop"
    """A drop that is not exceeded, FLOPs saved, or the latency of a single text on this machine."""
    value: float = 0.5
    """Points, a factor, or milliseconds."""
    confidence: float = 0.95
    """How sure the promise is to be, below 1."""
    is_labelled: bool = True
    """Whether right answers count, or those of the dense model."""
    per_layer: bool = False
    """Whether each exit head may have a threshold of its own."""
    seed: int = 0
    """Of the split into halves."""

    def __post_init__(self) -> None:
        check_promise(self.value / 100 if self.kind == "max_drop" else 0.5, self.confidence)
        if self.kind == "target_speedup" and not self.value > 1.0:
            raise ConfigError(f"target_speedup is {self.value:g}; give a factor above 1")
        if self.kind == "target_latency_ms" and not self.value > 0.0:
            raise ConfigError(f"target_latency_ms is {self.value:g}; give milliseconds above 0")

    @property
    def risk(self) -> Risk:
        """The test."""
        return drop_p_value if self.is_labelled else disagreement_p_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was found, before it is written down."""

    chosen: Candidate | None
    """None: nothing is certified."""
    bound: float | None
    """The share that the chosen setting loses at most; None where nothing is certified."""
    path: tuple[Candidate, ...]
    """Safest first."""
    p_values: Mapping[Candidate, float]
    """Of the settings that were tested, in this order."""
    considered: tuple[Candidate, ...]
    """Every candidate."""
    latency_ms: float | None = None
    """Of the chosen setting, or of the dense model that needs none, where that was the goal."""


def choose(
    outcomes: Mapping[float, Outcomes],
    dense_right: Bool[np.ndarray, " texts"],
    goal: Goal,
    *,
    latency: Latency | None = None,
) -> Choice:
    """Find the fastest setting that keeps a promise, or the safest that is fast enough.

    Args:
        outcomes: of the calibration texts, by prune scale; 0 must be there.
        dense_right: whether the dense model gives the wanted answer.
        goal: what to find.
        latency: measures a candidate, where latency is the goal.

    Raises:
        InputError: there are too few texts for any promise.
        ConfigError: no candidate reaches the target.
    """
    check_rows(len(dense_right), goal)
    search, test = halves(len(dense_right), goal.seed)
    found = candidates(
        {scale: item.select(search) for scale, item in outcomes.items()},
        dense_right[search],
        per_layer=goal.per_layer,
    )
    dense_flops = float(outcomes[0.0].flops[search, -1].mean())
    path = safest_first(item for item in found if item.flops <= dense_flops)

    def held_out(candidate: Candidate) -> Tally:
        return tally(candidate, outcomes[candidate.prune_scale].select(test), dense_right[test])

    considered = tuple(item.candidate for item in found)
    if goal.kind == "max_drop":
        return _safe_enough(path, held_out, goal, considered)
    fits, millisecond = _fast_enough(path, outcomes, search, goal, latency)
    bound = None
    if not _is_dense(fits):
        kept = held_out(fits)
        bound = upper_bound(goal.risk, kept.lost, kept.won, kept.rows, confidence=goal.confidence)
    return Choice(
        chosen=None if bound is None else fits, bound=bound, path=tuple(item.candidate for item in path),
        p_values={}, considered=considered, latency_ms=millisecond,
    )  # fmt: skip


def check_rows(rows: int, goal: Goal) -> None:
    """Raise InputError where so few rows cannot keep any promise, even if no answer changes."""
    needed = 2
    if goal.kind == "max_drop":
        needed = 2 * fewest_rows(goal.risk, goal.value / 100, goal.confidence)
    if rows >= needed:
        return
    promise = f"a drop of at most {goal.value:g} points" if goal.kind == "max_drop" else "any drop"
    raise InputError(
        f"{rows:,} rows cannot certify {promise} with {100 * goal.confidence:g} % confidence, even if no "
        f"answer changes: give at least {needed:,} rows (half of them are tested), or allow a larger drop "
        "or less confidence"
    )


def halves(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows that suggest settings, and those that test them."""
    order = np.random.default_rng(seed).permutation(rows)
    return np.sort(order[: rows // 2]), np.sort(order[rows // 2 :])


def certify(
    config: ModelConfig,
    outcomes: Mapping[float, Outcomes],
    dense_right: Bool[np.ndarray, " texts"],
    goal: Goal,
    *,
    latency: Latency | None = None,
) -> Certificate:
    """``choose``, and everything that is kept of it."""
    choice = choose(outcomes, dense_right, goal, latency=latency)
    writer = _Writer(config, outcomes, dense_right)
    allowed = goal.value / 100 if goal.kind == "max_drop" else choice.bound or 0.0
    certified = choice.chosen or writer.dense
    curve = [writer.point(candidate, p_value=choice.p_values.get(candidate)) for candidate in choice.path]
    considered = [writer.tally(candidate) for candidate in (*choice.considered, certified)]
    speeds = (
        writer.speed("certified", certified, is_certified=True),
        writer.speed("balanced", _fastest(considered, allowed, certified)),
        writer.speed("fastest", _fastest(considered, FASTEST_MULTIPLE * allowed, certified)),
    )
    return Certificate(
        goal=goal.kind,
        wanted=goal.value,
        confidence=goal.confidence,
        drop_bound=None if choice.bound is None else _points_up(choice.bound),
        is_labelled=goal.is_labelled,
        num_rows=len(dense_right),
        num_test_rows=len(dense_right) - len(dense_right) // 2,
        rows_needed=None if choice.chosen else _rows_needed(choice, outcomes, dense_right, goal),
        seed=goal.seed,
        per_layer=goal.per_layer,
        curve=tuple(
            _marked(point, certified, config, is_certified=choice.chosen is not None) for point in curve
        ),
        speeds=speeds,
        latency_ms=choice.latency_ms,
    )


def _points_up(share: float) -> float:
    """In points, rounded up to three digits: a smaller number would promise more than was shown."""
    return ceil(1e5 * share - 1e-6) / 1e3


def _safe_enough(
    path: Sequence[Tally],
    held_out: Callable[[Candidate], Tally],
    goal: Goal,
    considered: tuple[Candidate, ...],
) -> Choice:
    """The last setting before the first that fails; what loses too much on the search half is passed over."""
    limit = goal.value / 100
    p_values: dict[Candidate, float] = {}
    chosen = None
    for candidate in (item.candidate for item in path if item.drop < limit):
        seen = held_out(candidate)
        p_values[candidate] = goal.risk(seen.lost, seen.won, seen.rows, limit)
        if p_values[candidate] > 1.0 - goal.confidence:
            break
        chosen = candidate
    if chosen is not None and _is_dense(chosen):
        chosen = None
    return Choice(
        chosen=chosen,
        bound=None if chosen is None else limit,
        path=tuple(item.candidate for item in path),
        p_values=p_values,
        considered=considered,
    )


def _is_dense(candidate: Candidate) -> bool:
    return candidate.prune_scale == 0.0 and all(value < 0.0 for value in candidate.thresholds)


def _fast_enough(
    path: Sequence[Tally],
    outcomes: Mapping[float, Outcomes],
    search: np.ndarray,
    goal: Goal,
    latency: Latency | None,
) -> tuple[Candidate, float | None]:
    """The safest setting of the path that reaches the target, and its latency where that is the target."""
    if goal.kind == "target_speedup":
        dense = float(outcomes[0.0].flops[search, -1].mean())
        fits = [item.candidate for item in path if dense >= goal.value * item.flops]
        if not fits:
            raise ConfigError(
                f"no setting saves {goal.value:g}x the FLOPs; the fastest saves {dense / path[-1].flops:.2f}x"
            )
        return fits[0], None
    assert latency is not None, "latency is measured where it is the goal"
    measured = {len(path) - 1: latency(path[-1].candidate)}
    if measured[len(path) - 1] > goal.value:
        raise ConfigError(
            f"no setting answers a text in {goal.value:g} ms here; the fastest takes "
            f"{measured[len(path) - 1]:.2f} ms"
        )
    low, high = -1, len(path) - 1
    while high - low > 1:
        middle = (low + high) // 2
        measured[middle] = latency(path[middle].candidate)
        low, high = (low, middle) if measured[middle] <= goal.value else (middle, high)
    return path[high].candidate, measured[high]


def _fastest(considered: Sequence[Tally], allowed: float, certified: Candidate) -> Candidate:
    """The cheapest setting whose estimated drop is allowed; the certified one is, whatever its estimate."""
    fits = [item for item in considered if item.drop <= allowed + 1e-12 or item.candidate == certified]
    return min(fits, key=lambda item: item.flops).candidate


def _rows_needed(
    choice: Choice, outcomes: Mapping[float, Outcomes], dense_right: np.ndarray, goal: Goal
) -> int | None:
    """Rows with which the setting that failed would pass about as often as not, if these are typical."""
    failed = next((item for item, p in choice.p_values.items() if p > 1.0 - goal.confidence), None)
    if failed is None:
        return None
    seen = tally(failed, outcomes[failed.prune_scale], dense_right)
    rows = likely_rows(
        goal.risk, seen.lost / seen.rows, seen.won / seen.rows, goal.value / 100, goal.confidence,
        least=seen.rows // 2 + 1,
    )  # fmt: skip
    return None if rows is None else 2 * rows


def _marked(
    point: CurvePoint, certified: Candidate, config: ModelConfig, *, is_certified: bool
) -> CurvePoint:
    asked = asked_thresholds(config, certified.thresholds)
    same = (point.prune_scale, point.exit_thresholds) == (certified.prune_scale, asked)
    return point.replace(is_certified=True) if same and is_certified else point


class _Writer:
    """Puts candidates down with what they do on all calibration texts."""

    def __init__(
        self, config: ModelConfig, outcomes: Mapping[float, Outcomes], dense_right: np.ndarray
    ) -> None:
        self.config, self.outcomes, self.dense_right = config, outcomes, dense_right
        self.dense = Candidate(0.0, (NOT_ASKED,) * len(config.exit_layers))
        self.dense_flops = float(outcomes[0.0].flops[:, -1].mean())

    def tally(self, candidate: Candidate) -> Tally:
        return tally(candidate, self.outcomes[candidate.prune_scale], self.dense_right)

    def point(self, candidate: Candidate, *, p_value: float | None = None) -> CurvePoint:
        return CurvePoint(**self._facts(candidate), p_value=p_value)

    def speed(self, name: str, candidate: Candidate, *, is_certified: bool = False) -> Speed:
        at_scale = self.outcomes[candidate.prune_scale]
        places = at_scale.places(candidate.thresholds)
        layers = np.array([*self.config.exit_layers, self.config.backbone.num_hidden_layers - 1])
        counts = np.bincount(layers[places], minlength=self.config.backbone.num_hidden_layers)
        kept = kept_bins(at_scale.kept_tokens[np.arange(len(places)), places])
        return Speed(
            **self._facts(candidate),
            name=name,
            is_certified=is_certified,
            exit_counts=tuple(counts.tolist()),
            kept_counts=tuple(kept.tolist()),
        )

    def _facts(self, candidate: Candidate) -> dict[str, Any]:
        seen = self.tally(candidate)
        return {
            "prune_scale": candidate.prune_scale,
            "exit_thresholds": asked_thresholds(self.config, candidate.thresholds),
            "flops_speedup": round(self.dense_flops / seen.flops, 4),
            "drop": round(100 * seen.drop, 4),
        }

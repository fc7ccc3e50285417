"""Candidate settings, and the path from the safest to the fastest that some texts suggest."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from magic_pyramid.certify.outcomes import NOT_ASKED, Outcomes

LEVELS = 40
"""Values tried of one threshold for all heads."""
LEVELS_PER_HEAD = 20
"""Values tried of each head's own threshold."""
_JUMPS = (1, 2, 4)
_MOST_STEPS = 120
_CAUTION = 1.645
"""Standard errors that are added to an estimated drop where settings are put in order."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A setting."""

    prune_scale: float
    thresholds: tuple[float, ...]
    """One for each exit head; ``NOT_ASKED`` where it is not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a candidate does with some texts, against the dense model."""

    candidate: Candidate
    lost: int
    """Texts that only the dense model gets right."""
    won: int
    """Texts that only the candidate gets right."""
    rows: int
    flops: float
    """Mean of a text."""

    @property
    def drop(self) -> float:
        """Estimated, as a share."""
        return (self.lost - self.won) / self.rows

    @property
    def caution(self) -> float:
        """The drop and what it may be worse by; a gain is taken for luck, and one text more may be lost."""
        return max(self.drop, 0.0) + _CAUTION * float(np.sqrt(self.lost + self.won + 1)) / self.rows


def tally(candidate: Candidate, outcomes: Outcomes, dense_right: Bool[np.ndarray, " texts"]) -> Tally:
    """Count what a candidate does with these texts; the outcomes are those of its prune scale."""
    places = outcomes.places(candidate.thresholds)
    right = outcomes.right_at(places)
    return Tally(
        candidate=candidate,
        lost=int((dense_right & ~right).sum()),
        won=int((right & ~dense_right).sum()),
        rows=len(right),
        flops=float(outcomes.flops_at(places, candidate.thresholds).mean()),
    )


def candidates(
    outcomes: Mapping[float, Outcomes], dense_right: Bool[np.ndarray, " texts"], *, per_layer: bool
) -> list[Tally]:
    """Settings to choose from, with what they do with these texts.

    Args:
        outcomes: by prune scale.
        dense_right: whether the dense model gives the wanted answer.
        per_layer: also give each exit head a threshold of its own.
    """
    found: dict[Candidate, Tally] = {}
    for scale, at_scale in outcomes.items():
        for thresholds in _one_threshold(at_scale):
            candidate = Candidate(scale, thresholds)
            found[candidate] = tally(candidate, at_scale, dense_right)
        if per_layer and at_scale.num_exits > 1:
            found |= {item.candidate: item for item in _greedily(scale, at_scale, dense_right)}
    return list(found.values())


def safest_first(tallies: Iterable[Tally]) -> list[Tally]:
    """The path: each setting is cheaper than the one before it, and no other is both cheaper and safer.

    Of settings that look equally safe all stay: what costs more is likely safer than these texts can tell.
    """
    path: list[Tally] = []
    # Of equals, the weaker setting is tested first: the path is turned round.
    order = sorted(enumerate(tallies), key=lambda pair: (pair[1].flops, pair[1].caution, -pair[0]))
    for _, item in order:
        if not path or item.caution <= path[-1].caution:
            path.append(item)
    return path[::-1]


def _one_threshold(outcomes: Outcomes) -> Iterator[tuple[float, ...]]:
    """Exits off, then quantiles of all uncertainties, from sure to unsure."""
    heads = outcomes.num_exits
    yield (NOT_ASKED,) * heads
    if heads:
        for value in _levels(outcomes.unsure.ravel(), LEVELS):
            yield (value,) * heads


def _levels(unsure: np.ndarray, count: int) -> list[float]:
    """At most so many quantiles, ascending, in few digits; 0 is the first.

    Rounded up: whoever stands at a quantile leaves, which matters where many texts share one value.
    """
    quantiles = np.quantile(unsure, np.linspace(0.0, 1.0, count)[:-1])
    return sorted({0.0, *(min(1.0, round(float(value) + 0.5e-4, 4)) for value in quantiles)})


def _greedily(scale: float, outcomes: Outcomes, dense_right: np.ndarray) -> Iterator[Tally]:
    """Raise one head's threshold after the other, always the one that saves most for what it loses."""
    levels = [_levels(column, LEVELS_PER_HEAD) for column in outcomes.unsure.T]
    places = [-1] * outcomes.num_exits
    current = tally(Candidate(scale, _values(levels, places)), outcomes, dense_right)
    for _ in range(_MOST_STEPS):
        moves = []
        for head, own in enumerate(levels):
            for jump in _JUMPS:
                if places[head] + jump < len(own):
                    moved = [*places[:head], places[head] + jump, *places[head + 1 :]]
                    moves.append(
                        (moved, tally(Candidate(scale, _values(levels, moved)), outcomes, dense_right))
                    )
        gains = [_gain(current, item) for _, item in moves]
        if not gains or max(gains) <= 0.0:
            return
        places, current = moves[int(np.argmax(gains))]
        yield current


def _gain(before: Tally, after: Tally) -> float:
    """FLOPs saved for each text more that is lost; one text costs little, as it may be chance."""
    more_lost = (after.lost - after.won) - (before.lost - before.won)
    return (before.flops - after.flops) / (max(more_lost, 0) + 0.5)


def _values(levels: Sequence[Sequence[float]], places: Sequence[int]) -> tuple[float, ...]:
    return tuple(own[place] if place >= 0 else NOT_ASKED for own, place in zip(levels, places, strict=True))

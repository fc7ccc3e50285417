"""Made-up populations of texts with exits, in which the true drop of any setting is known."""

from dataclasses import dataclass, replace

import numpy as np

from magic_pyramid.certify import Goal, Outcomes
from magic_pyramid.certify.frontier import Candidate, candidates, tally
from magic_pyramid.certify.search import choose

ROWS = 20_000
NAIVE_SETS = 300
"""The naive choice breaks its promise so often that fewer sets tell."""
LAYER_FLOPS, HEAD_FLOPS = 1.0, 0.05


@dataclass(frozen=True)
class Population:
    """Texts to draw from, with replacement: so a share of it is a probability."""

    outcomes: Outcomes
    dense_right: np.ndarray

    def draw(self, random: np.random.Generator, rows: int) -> "Population":
        chosen = random.integers(0, len(self.dense_right), rows)
        return Population(self.outcomes.select(chosen), self.dense_right[chosen])

    def unlabelled(self) -> "Population":
        """The same texts, where the dense model's answers are the wanted ones."""
        agrees = self.outcomes.is_right == self.dense_right[:, None]
        return Population(replace(self.outcomes, is_right=agrees), np.ones_like(self.dense_right))

    def drop(self, candidate: Candidate) -> float:
        """True share lost by a setting."""
        return tally(candidate, self.outcomes, self.dense_right).drop

    def speedup(self, candidate: Candidate) -> float:
        flops = tally(candidate, self.outcomes, self.dense_right).flops
        return float(self.outcomes.flops[:, -1].mean() / flops)


def _population(unsure: np.ndarray, is_right: np.ndarray) -> Population:
    rows, heads = is_right.shape
    return Population(
        Outcomes(
            unsure=unsure.astype(np.float32),
            is_right=is_right,
            flops=np.tile(LAYER_FLOPS * np.arange(1.0, heads + 1.0), (rows, 1)),
            head_flops=np.full((rows, heads - 1), HEAD_FLOPS),
            kept_tokens=np.full((rows, heads), 8),
        ),
        is_right[:, -1],
    )


def typical(*, seed: int = 0, heads: int = 3) -> Population:
    """Texts differ in difficulty; early heads err on the harder ones, and mostly know it."""
    random = np.random.default_rng(seed)
    hard = random.beta(0.6, 1.8, ROWS)
    dense_right = random.random(ROWS) > 0.24 * hard
    right = [np.where(random.random(ROWS) < hard * (0.9 - 0.2 * head),
                      random.random(ROWS) > hard * (0.55 - 0.15 * head), dense_right)
             for head in range(heads)]  # fmt: skip
    unsure = [
        np.clip(hard * (0.9 - 0.1 * head) + random.normal(0, 0.12, ROWS), 0, 1) for head in range(heads)
    ]
    return _population(np.stack(unsure, axis=1), np.stack([*right, dense_right], axis=1))


def treacherous(limit: float, *, won: float = 0.02, seed: int = 0) -> Population:
    """Whatever leaves early loses a tenth more than the limit: every fast setting breaks the promise."""
    random = np.random.default_rng(seed)
    kind = random.random(ROWS)
    is_easy = kind < 0.6
    lost = 1.1 * limit + won
    place = random.permutation(ROWS) / ROWS
    dense_right = np.where(place < lost, True, np.where(place < lost + won, False, kind % 0.05 < 0.045))
    early = np.where(place < lost, False, np.where(place < lost + won, True, dense_right))
    # All that is lost or won is easy, so the first threshold that lets anybody leave loses it.
    is_easy |= place < lost + won
    early = np.where(is_easy, early, dense_right & (place % 0.1 < 0.08))
    unsure = np.where(is_easy, 0.1, 0.9)[:, None].repeat(2, axis=1)
    return _population(unsure, np.stack([early, early, dense_right], axis=1))


MODES = {
    "labelled": Goal(value=2.0),
    "unlabelled": Goal(value=2.0, is_labelled=False),
    "per layer": Goal(value=2.0, per_layer=True),
}
"""Ways to calibrate whose promises are counted."""


@dataclass(frozen=True)
class Coverage:
    """What came of many calibrations."""

    sets: int
    broken: float
    """Share in which the certified setting truly loses more than was promised."""
    certified: float
    """Share in which anything faster than the dense model was certified."""
    speedup: float
    """Mean, where something was."""
    naive: float
    """Share in which the fastest setting that seemed good enough truly loses more."""


def coverage(population: Population, goal: Goal, *, sets: int, rows: int, seed: int) -> Coverage:
    """Draw calibration sets, calibrate on each, and count the broken promises."""
    if not goal.is_labelled:
        population = population.unlabelled()
    random = np.random.default_rng(seed)
    limit, broken, naive, speedups = goal.value / 100, 0, 0, []
    for number in range(sets):
        drawn = population.draw(random, rows)
        choice = choose({0.0: drawn.outcomes}, drawn.dense_right, replace(goal, seed=number))
        if choice.chosen is not None:
            broken += population.drop(choice.chosen) > limit
            speedups.append(population.speedup(choice.chosen))
        if number < NAIVE_SETS:
            naive += population.drop(naive_choice(drawn, limit, per_layer=goal.per_layer)) > limit
    return Coverage(
        sets=sets,
        broken=broken / sets,
        certified=len(speedups) / sets,
        speedup=float(np.mean(speedups)) if speedups else 1.0,
        naive=naive / min(sets, NAIVE_SETS),
    )


def naive_choice(drawn: Population, limit: float, *, per_layer: bool) -> Candidate:
    """The fastest setting that loses no more than the limit on the very texts that chose it."""
    found = candidates({0.0: drawn.outcomes}, drawn.dense_right, per_layer=per_layer)
    return min((item for item in found if item.drop <= limit), key=lambda item: item.flops).candidate

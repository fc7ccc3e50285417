"""Which exit heads are worth asking: the choice with the least expected seconds, as pure arithmetic.

Asking a head costs time for every text that arrives; a text that leaves saves the layers behind it. The
expectation is over batches of independent texts that let go as the calibration texts did.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from magic_pyramid.config import Config
from magic_pyramid.errors import ConfigError

MOST_HEADS = 23
"""All 2 ** heads choices are tried; those of a 24-layer encoder take seconds."""
Shares = Float64[np.ndarray, " choices"]
"""Share of all texts, in [0, 1], for each choice of heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatistics(Config):
    """What the exit heads would have done with held-out texts at one setting."""

    exit_threshold: float | tuple[float, ...]
    """The setting's."""
    prune_scale: float
    """The setting's."""
    exit_layers: tuple[int, ...]
    """0-based layers with an exit head, ascending."""
    patterns: dict[str, int]
    """Texts by what the heads say to them: a sign for each exit layer, 1 where it would let a text go."""
    mean_tokens: tuple[float, ...]
    """Alive on entry to each layer and, last, behind all of them; over all texts, as if nobody left."""

    @property
    def num_texts(self) -> int:
        """Texts that were looked at."""
        return sum(self.patterns.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(Config):
    """Measured seconds of one batch."""

    rows: int
    """Texts in the batch."""
    tokens: int
    """Their tokens together."""
    layer_s: float
    """Of one layer."""
    head_s: float
    """Of asking one exit head, when nobody leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTable(Config):
    """Seconds of batches of several sizes on one machine, fewest tokens first."""

    rows: tuple[Cost, ...]
    """The measured batches; at least one."""

    def layer_seconds(self, tokens: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Of one layer on so many tokens."""
        return self._between(tokens, [row.layer_s for row in self.rows])

    def head_seconds(self, tokens: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Of one exit head on so many tokens."""
        return self._between(tokens, [row.head_s for row in self.rows])

    def _between(self, tokens: Float64[np.ndarray, " n"], seconds: list[float]) -> Float64[np.ndarray, " n"]:
        """Linear between the measured sizes, constant below them, and above them as steep as on the whole."""
        sizes = np.array([row.tokens for row in self.rows], dtype=np.float64)
        rising = _rising([max(value, 0.0) for value in seconds])
        slope = (rising[-1] - rising[0]) / max(sizes[-1] - sizes[0], 1.0)
        return np.asarray(np.interp(tokens, sizes, rising) + slope * np.maximum(tokens - sizes[-1], 0.0))


def _rising(seconds: list[float]) -> Float64[np.ndarray, " n"]:
    """The nearest seconds that never fall: where more tokens took less time, it was noise."""
    pools: list[tuple[float, int]] = []
    for value in seconds:
        mean, size = value, 1
        while pools and pools[-1][0] > mean:
            before, count = pools.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    return np.array([mean for mean, size in pools for _ in range(size)])


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPlan:
    """One exit head under a plan; seconds are expected, for one text."""

    layer: int
    """0-based layer in front of the head."""
    is_tested: bool
    """Whether the plan asks it."""
    arriving: float
    """Share of all texts that run its layer, in [0, 1]."""
    leaving: float
    """Share of all texts that it lets leave, or would."""
    head_s: float
    """What asking it costs."""
    saved_s: float
    """What later layers and heads take less because of it, the other heads as planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitPlan:
    """The heads to ask, and the expected seconds of one text in the layers and exit heads."""

    tested_layers: tuple[int, ...]
    """0-based, ascending; empty where no head pays."""
    seconds: float
    """With these heads."""
    seconds_all: float
    """With every head."""
    seconds_none: float
    """With exits off."""
    heads: tuple[HeadPlan, ...]
    """Every exit head, tested or not."""


def plan_exits(
    statistics: ExitStatistics, costs: CostTable, *, batch_size: int, min_gain: float = 0.0
) -> ExitPlan:
    """Choose the heads with the least expected seconds, of all choices there are.

    Args:
        statistics: what the heads would do.
        costs: what layers and heads take.
        batch_size: texts that start together, at least 1.
        min_gain: share of the seconds with every head that a choice must save; otherwise every head is asked.

    Raises:
        ConfigError: there are too many heads to try every choice.
    """
    heads = statistics.exit_layers
    if len(heads) > MOST_HEADS:
        raise ConfigError(
            f"the model has {len(heads)} exit heads; a plan is searched for up to {MOST_HEADS}: "
            "name fewer in exit.layers, or choose exit.tested_layers yourself"
        )
    expectation = _Expectation(statistics, costs, batch_size)
    seconds = expectation.of_every_choice()
    every, best = len(seconds) - 1, int(seconds.argmin())
    if seconds[best] > (1.0 - min_gain) * seconds[every]:
        best = every
    return ExitPlan(
        tested_layers=tuple(layer for bit, layer in enumerate(heads) if best >> bit & 1),
        seconds=float(seconds[best]),
        seconds_all=float(seconds[every]),
        seconds_none=float(seconds[0]),
        heads=tuple(_heads(expectation, seconds, best)),
    )


def _heads(expectation: "_Expectation", seconds: np.ndarray, best: int) -> Iterator[HeadPlan]:
    for index, layer in enumerate(expectation.statistics.exit_layers):
        bit = 1 << index
        before = best & (bit - 1)
        head_s = float(expectation.head(layer, expectation.staying[[before]])[0])
        yield HeadPlan(
            layer=layer,
            is_tested=bool(best & bit),
            arriving=float(expectation.staying[before]),
            leaving=float(expectation.staying[before] - expectation.staying[before | bit]),
            head_s=head_s,
            saved_s=float(seconds[best & ~bit] - seconds[best | bit]) + head_s,
        )


class _Expectation:
    """Expected seconds of one text; bit i of a choice says whether the i-th exit head is asked."""

    def __init__(self, statistics: ExitStatistics, costs: CostTable, batch_size: int) -> None:
        self.statistics, self.costs, self.batch_size = statistics, costs, batch_size
        self.staying = _staying(statistics)

    def of_every_choice(self) -> Float64[np.ndarray, " choices"]:
        """By choice: behind each exit layer the choices so far double, into those without it and with it."""
        seconds = np.zeros(1)
        for layer in range(len(self.statistics.mean_tokens) - 1):
            share = self.staying[: len(seconds)]
            seconds = seconds + self._layer(layer, share)
            if layer in self.statistics.exit_layers:
                seconds = np.concatenate([seconds, seconds + self.head(layer, share)])
        return seconds

    def _layer(self, layer: int, share: Shares) -> Float64[np.ndarray, " choices"]:
        some, rows = self._batch(share)
        seconds = self.costs.layer_seconds(rows * self.statistics.mean_tokens[layer])
        return np.asarray(some * seconds / self.batch_size)

    def head(self, layer: int, share: Shares) -> Float64[np.ndarray, " choices"]:
        """Of the head after a layer that this share of the texts runs."""
        some, rows = self._batch(share)
        seconds = self.costs.head_seconds(rows * self.statistics.mean_tokens[layer + 1])
        return np.asarray(some * seconds / self.batch_size)

    def _batch(self, share: Shares) -> tuple[Shares, Float64[np.ndarray, " choices"]]:
        """How likely a batch still has a text, and how many it then has on average."""
        some = 1.0 - (1.0 - share) ** self.batch_size
        return some, self.batch_size * share / np.where(some > 0, some, 1.0)


def _staying(statistics: ExitStatistics) -> Shares:
    """Share of the texts that none of the asked heads lets leave, for every choice of heads."""
    count = len(statistics.exit_layers)
    texts = np.zeros(1 << count)
    for pattern, number in statistics.patterns.items():
        texts[sum(1 << bit for bit, sign in enumerate(pattern) if sign == "1")] += number
    for bit in range(count):
        halves = texts.reshape(-1, 2, 1 << bit)
        halves[:, 1] += halves[:, 0]
    # Each place now holds the texts whose willing heads all lie in it; they stay where none of them is asked.
    return texts[::-1] / max(statistics.num_texts, 1)

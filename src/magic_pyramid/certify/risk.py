"""How sure one may be that a setting loses little: exact one-sided tests, as pure arithmetic.

A text is lost where the dense model is right and the fast one is not, and won where it is the other way
round. The drop is the share lost less the share won, in the population that the texts were drawn from. A
p-value says how likely so good a result is at most, if the drop is really as large as the limit or larger.
"""

import math
from functools import cache, lru_cache
from statistics import NormalDist
from typing import Protocol

import numpy as np

from magic_pyramid.errors import ConfigError

_NUISANCE_MISS = 1e-4
"""Chance that the share of texts won lies outside its interval; it is added to the p-value."""
_CELL = 0.02
"""Width of a cell of that interval, in standard errors of the drop."""
_RECHECK, _RECHECKS = 2.0, 32
"""So many rows' worth of limits behind a bound are tested again, at so many places."""
_MOST_EXACT = 10_000
"""Rows up to which the number that would certify something is found by the test itself."""
_TAIL = 1e-7
"""Chance of more texts won than are summed over; it is added to the p-value."""
_AT_ONCE = 1_000_000
"""So many chances are held in memory, about."""


class Risk(Protocol):
    """A test of one kind of loss."""

    def __call__(self, lost: int, won: int, rows: int, limit: float) -> float:
        """The p-value, in [0, 1], of the hypothesis that the risk is ``limit`` or more, in [0, 1]."""
        ...


def drop_p_value(lost: int, won: int, rows: int, limit: float) -> float:
    """Exact unconditional test of a paired drop: the score statistic, at its least favourable share won.

    Lost and won texts are counts of a trinomial distribution. On the border of the hypothesis the share won
    is free; the p-value is the largest over an interval of it that misses with chance ``_NUISANCE_MISS``
    (Berger and Boos 1994; the statistic is Tango's, 1998). The interval is cut into cells, and each cell is
    answered for by its worse corner, so nothing lies between the points of a grid.
    """
    if lost - won >= rows * limit or limit <= 0.0:
        return 1.0
    return _drop_p_value(lost, won, rows, limit)


def disagreement_p_value(lost: int, won: int, rows: int, limit: float) -> float:
    """Exact binomial test of the share of texts lost; what was won does not count."""
    if lost >= rows * limit or limit <= 0.0:
        return 1.0
    if limit >= 1.0:
        return 0.0
    return min(1.0, float(_binomial_pmf(np.arange(lost + 1), rows, limit).sum()))


def upper_bound(risk: Risk, lost: int, won: int, rows: int, *, confidence: float) -> float:
    """The limit from which on all are certified at this confidence, to 1e-5; the risk of everything is 1."""

    def fails(limit: float) -> bool:
        return risk(lost, won, rows, limit) > 1.0 - confidence

    low, high = 0.0, min(1.0, max(2 * (lost - won), 1) / rows)
    # A limit far above what was lost is dear to test.
    while high < 1.0 and fails(high):
        low, high = high, min(1.0, 2 * high)
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if fails(middle) else (low, middle)
    # Counts are whole, so a p-value can rise a little behind the first limit that passes.
    step = _RECHECK / _RECHECKS / rows
    last = high
    for limit in (high + place * step for place in range(1, _RECHECKS + 1)):
        if limit < 1.0 and fails(limit):
            last = min(1.0, limit + step)
    return last


def fewest_rows(risk: Risk, limit: float, confidence: float) -> int:
    """Rows without which the limit cannot be certified, even if nothing is lost."""
    high = 1
    while risk(0, 0, high, limit) > 1.0 - confidence:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if risk(0, 0, middle, limit) > 1.0 - confidence else (low, middle)
    return high


def likely_rows(
    risk: Risk, lost_share: float, won_share: float, limit: float, confidence: float, *, least: int
) -> int | None:
    """Rows, to a tenth, that certify the limit about as often as not if these are the true shares.

    Args:
        risk: the test.
        lost_share: texts lost, as a share.
        won_share: texts won.
        limit: the risk that is to be certified, as a share.
        confidence: of the promise.
        least: the answer is not below this.

    Returns:
        The number of tested rows; None: no number does.
    """
    room = limit - (lost_share - won_share)
    if room <= 0.0:
        return None
    distance = NormalDist().inv_cdf(confidence) / room
    rows = max(least, math.ceil(distance**2 * (lost_share + won_share - (lost_share - won_share) ** 2)))
    # The normal distribution promises too much where few are lost.
    while rows <= _MOST_EXACT:
        lost, won = math.ceil(lost_share * rows), math.floor(won_share * rows)
        if risk(lost, won, rows, limit) <= 1.0 - confidence:
            break
        rows = math.ceil(1.1 * rows)
    return rows


def check_promise(limit: float, confidence: float) -> None:
    """Raise ConfigError unless a drop, as a share, can be promised with this confidence."""
    if not 0.0 < limit <= 1.0:
        raise ConfigError(f"max_drop is {100 * limit:g} points; it must lie above 0, up to 100")
    if not 0.5 <= confidence <= 0.999:
        raise ConfigError(f"confidence is {confidence!r}; it must lie in [0.5, 0.999]")


@lru_cache(maxsize=100_000)
def _drop_p_value(lost: int, won: int, rows: int, limit: float) -> float:
    low, high = _share_interval(won, rows, (1.0 - limit) / 2)
    cells = _cells(low, high, rows, limit)
    lost_share = cells[:-1] + limit
    won_share = np.minimum(cells[1:], 1.0 - lost_share)
    counts = _won_counts(float(won_share.max()), rows)
    most_lost = _border(_score(lost, won, rows, limit), counts, rows, limit)
    return min(1.0, _NUISANCE_MISS + _TAIL + _largest_chance(lost_share, won_share, most_lost, rows))


def _score(lost: np.ndarray | int, won: np.ndarray | int, rows: int, limit: float) -> np.ndarray:
    """The drop less its limit, in standard errors at the likeliest share won on the border."""
    linear = (lost + won) * (1.0 - limit) - 2.0 * limit * (rows - lost)
    share = (linear + np.sqrt(linear**2 + 8.0 * rows * won * limit * (1.0 - limit))) / (4.0 * rows)
    variance = rows * (2.0 * share + limit - limit**2)
    return np.asarray((lost - won - rows * limit) / np.sqrt(np.maximum(variance, 1e-300)))


def _border(score: np.ndarray, won: np.ndarray, rows: int, limit: float) -> np.ndarray:
    """For each number won, the most that may be lost for a result at least as good, or -1; it never falls.

    Below the limit the score grows with what is lost, so it is found by halving.
    """
    low, high = np.full(len(won), -1), (won + rows * limit).astype(np.int64) + 1
    while (apart := high - low > 1).any():
        middle = (low + high) // 2
        good = _score(middle, won, rows, limit) <= score + 1e-9
        low, high = np.where(apart & good, middle, low), np.where(apart & ~good, middle, high)
    return np.asarray(np.maximum.accumulate(low))


def _largest_chance(lost_share: np.ndarray, won_share: np.ndarray, most_lost: np.ndarray, rows: int) -> float:
    """Of a result below the border, over the pairs of shares; ``most_lost`` is given for 0, 1, ... texts won.

    For a number won, the chance of few enough lost among the others differs from that of one won fewer by two
    sums: one text less can be lost, and the border may allow more. So it is summed along the border.
    """
    won, lost = np.arange(len(most_lost)), np.arange(most_lost[-1] + 1)
    allowed_from = np.searchsorted(most_lost, lost)
    num_parts = 1 + len(lost_share) * (len(won) + len(lost)) // _AT_ONCE
    largest = 0.0
    for part in np.array_split(np.arange(len(lost_share)), min(len(lost_share), num_parts)):
        won_p = won_share[part, None]
        lost_p = np.minimum(lost_share[part, None] / np.maximum(1.0 - won_p, 1e-300), 1.0)
        allowed = _sums(_binomial_pmf(lost, rows - won[allowed_from], lost_p))
        fewer = _sums(lost_p * _binomial_pmf(most_lost[:-1], rows - won[1:], lost_p))
        below = np.minimum(allowed[:, most_lost + 1] + fewer, 1.0)
        largest = max(largest, float((_binomial_pmf(won, rows, won_p) * below).sum(axis=1).max()))
    return largest


def _sums(chances: np.ndarray) -> np.ndarray:
    """Of the first 0, 1, ... columns."""
    return np.pad(chances.cumsum(axis=1), ((0, 0), (1, 0)))


def _share_interval(count: int, rows: int, most: float) -> tuple[float, float]:
    """Shares that are likely to give such a count (Chernoff's bound, half of the miss on each side)."""
    found, slack = count / rows, math.log(2.0 / _NUISANCE_MISS) / rows

    def edge(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            if _divergence(found, middle) <= slack:
                inside = middle
            else:
                outside = middle
        return outside

    return min(edge(found, 0.0), most), min(edge(found, 1.0), most)


def _divergence(p: float, q: float) -> float:
    """Kullback and Leibler's, of two coins."""
    if not 0.0 < q < 1.0:
        return 0.0 if p == q else math.inf
    first = p * math.log(p / q) if p > 0 else 0.0
    return first + ((1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0)


def _cells(low: float, high: float, rows: int, limit: float) -> np.ndarray:
    """Edges, evenly spaced in standard errors."""
    first, last = math.sqrt(2 * low + limit), math.sqrt(2 * high + limit)
    count = max(1, math.ceil((last - first) * math.sqrt(rows) / _CELL))
    edges: np.ndarray = (np.linspace(first, last, count + 1) ** 2 - limit) / 2
    edges[0], edges[-1] = low, max(high, low)
    return edges


def _won_counts(share: float, rows: int) -> np.ndarray:
    """All numbers won but those whose chance is below ``_TAIL`` at this share (Bernstein's bound)."""
    slack = math.log(1.0 / _TAIL)
    most = rows * share + math.sqrt(2 * rows * share * (1 - share) * slack) + 2 * slack / 3
    return np.arange(min(rows, math.ceil(most)) + 1)


@cache
def _log_factorials(count: int) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1, dtype=np.float64)))])


def _log_factorial(values: np.ndarray) -> np.ndarray:
    size = 1 << int(values.max(initial=1)).bit_length()
    return np.asarray(_log_factorials(size)[values])


def _binomial_pmf(counts: np.ndarray, rows: np.ndarray | int, share: np.ndarray | float) -> np.ndarray:
    rows, share = np.asarray(rows), np.asarray(share, dtype=np.float64)
    ways = _log_factorial(rows) - _log_factorial(counts) - _log_factorial(np.maximum(rows - counts, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = np.where(counts > 0, counts * np.log(share), 0.0)
        misses = np.where(rows > counts, (rows - counts) * np.log1p(-share), 0.0)
    return np.where((counts >= 0) & (counts <= rows), np.exp(ways + hits + misses), 0.0)

"""One number chosen so that what is measured comes as near to what is wanted as it can."""

from collections.abc import Callable

_BISECTIONS = 24


def bisect(measure: Callable[[float], float], low: float, high: float, *, wanted: float) -> float:
    """What the last call of ``measure``, at the best number found, gave; it must not fall as numbers grow."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if measure(middle) < wanted else (low, middle)
    return measure(min((low, high), key=lambda number: abs(measure(number) - wanted)))

"""Colours that every picture shares: sand to rust for importance, teal for the exit, grey for what fell."""

import math

LEVELS = 8
"""Steps of the importance scale."""
LOWEST, HIGHEST = 0.25, 8.0
"""Masses at which the scale begins and ends; 1 is a token like every other."""

PAPER, SHADOW, HAIRLINE, GHOST = "#fffdf8", "#faf5ea", "#e6dfd3", "#c9c1b5"
FALLEN, MUTED, INK, EXIT = "#a89e91", "#7d746a", "#2a2622", "#0b7a75"

_LIGHT = ((0.0, "#f8efd9"), (0.4, "#f3cf7e"), (0.62, "#e2983a"), (0.82, "#bd591f"), (1.0, "#772813"))
_DARK = ((0.0, "#3a332b"), (0.4, "#7a5220"), (0.62, "#b8741f"), (0.82, "#eda336"), (1.0, "#ffe19a"))


def position(importance: float) -> float:
    """Where a mass stands on the logarithmic scale, in [0, 1]."""
    if importance <= LOWEST:
        return 0.0
    return min(1.0, math.log2(importance / LOWEST) / math.log2(HIGHEST / LOWEST))


def level(importance: float) -> int:
    """The same in whole steps, 0 to LEVELS - 1."""
    return min(LEVELS - 1, int(position(importance) * LEVELS))


def on_light(share: float) -> str:
    """Colour at a place of the scale for a light background: more is darker."""
    return _between(_LIGHT, share)


def on_dark(share: float) -> str:
    """Colour at a place of the scale for a dark background: more is brighter."""
    return _between(_DARK, share)


def ink_on(color: str) -> str:
    """Text colour that is legible on a colour."""
    red, green, blue = _channels(color)
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def _channels(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _between(stops: tuple[tuple[float, str], ...], share: float) -> str:
    for (low, start), (high, end) in zip(stops, stops[1:], strict=False):
        if share <= high:
            mix = (share - low) / (high - low)
            mixed = (round(a + (b - a) * mix) for a, b in zip(_channels(start), _channels(end), strict=True))
            return "#" + "".join(f"{channel:02x}" for channel in mixed)
    return stops[-1][1]

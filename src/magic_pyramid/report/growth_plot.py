"""How the time of one sequence grows with its length, for every contender."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from magic_pyramid.errors import InputError
from magic_pyramid.report.canvas import Canvas, text_width
from magic_pyramid.report.palette import EXIT, FALLEN, HAIRLINE, INK, MUTED, on_light

PANEL, HEIGHT = 520.0, 470.0
LEFT, TOP, BOTTOM, GAP = 62.0, 96.0, 58.0, 14.0
FONT, LINE = 8.5, 11.5
OURS, OURS_INT8, PEER = on_light(0.55), EXIT, FALLEN

Curve = list[tuple[int, float]]
"""Length in tokens and milliseconds, ascending."""


def draw_growth(result: Mapping[str, Any], path: str | Path) -> Path:
    """Draw milliseconds over length, both logarithmic, a panel for each number of threads.

    Raises:
        InputError: no lengths were measured.
    """
    panels: dict[int, dict[str, Curve]] = {}
    for row in result["growth"]:
        curve = sorted((int(length), 1000 / rate) for length, rate in row["throughput"].items())
        panels.setdefault(row["threads"], {})[row["name"]] = curve
    if not panels:
        raise InputError("no lengths were measured, so there is nothing to draw; give --lengths 16,64,256")
    canvas = Canvas(len(panels) * PANEL, HEIGHT)
    canvas.text(LEFT, 28, "Time of one sequence, by its length", size=15, bold=True)
    words = f"random sequences, the same weights everywhere; {result['provenance']['machine']}"
    canvas.text(LEFT, 50, words, size=9.5, color=MUTED)
    every = [point for curves in panels.values() for curve in curves.values() for point in curve]
    for place, (threads, curves) in enumerate(sorted(panels.items())):
        _Panel(canvas, place * PANEL, every, curves).draw(f"{threads} thread{'s' * (threads > 1)}")
    return canvas.save(path)


class _Panel:
    """One pair of axes; all panels of a picture have the same scales."""

    def __init__(
        self, canvas: Canvas, start: float, every: Sequence[tuple[int, float]], curves: dict[str, Curve]
    ) -> None:
        self.canvas, self.curves = canvas, curves
        self.left, self.top, self.bottom = start + LEFT, TOP, HEIGHT - BOTTOM
        names = max(text_width(name, FONT) for name in curves)
        self.right = start + PANEL - names - 2 * GAP
        self.lengths = sorted({length for length, _ in every})
        self.low, self.high = min(ms for _, ms in every) / 1.2, max(ms for _, ms in every) * 1.2

    def draw(self, title: str) -> None:
        self.canvas.text(self.left, self.top - 18, title, bold=True)
        for power in range(math.ceil(math.log2(self.low)), math.floor(math.log2(self.high)) + 1):
            y = self.down(2.0**power)
            self.canvas.line([self.left, self.right], [y, y], HAIRLINE, 0.8)
            self.canvas.text(self.left - 8, y, f"{2.0**power:g}", color=MUTED, ha="right")
        for length in self.lengths:
            self.canvas.text(self.across(length), self.bottom + 16, str(length), color=MUTED, ha="center")
        self.canvas.text(self.left - 8, self.top - 18, "ms", color=MUTED, ha="right")
        self.canvas.text(self.right, self.bottom + 34, "tokens", color=MUTED, ha="right")
        for name, curve in self.curves.items():
            xs, ys = [self.across(length) for length, _ in curve], [self.down(ms) for _, ms in curve]
            self.canvas.line(xs, ys, _color(name), 1.8 if _is_ours(name) else 1.0, marker="o", markersize=3)
        self._write_names()

    def across(self, length: int) -> float:
        first, last = math.log2(self.lengths[0]), math.log2(self.lengths[-1])
        share = (math.log2(length) - first) / max(last - first, 1e-9)
        return self.left + share * (self.right - self.left)

    def down(self, ms: float) -> float:
        share = math.log2(ms / self.low) / math.log2(self.high / self.low)
        return self.bottom - share * (self.bottom - self.top)

    def _write_names(self) -> None:
        """Beside the ends of the curves, each a line below the one before it."""
        lowest = -math.inf
        for name, curve in sorted(self.curves.items(), key=lambda item: self.down(item[1][-1][1])):
            end = self.down(curve[-1][1])
            lowest = max(end, lowest + LINE)
            x = self.across(curve[-1][0])
            self.canvas.line([x, x + GAP - 3], [end, lowest], _color(name), 0.7, alpha=0.6)
            self.canvas.text(x + GAP, lowest, name, size=FONT, color=INK if _is_ours(name) else MUTED)


def _is_ours(name: str) -> bool:
    return name.startswith("magic_pyramid")


def _color(name: str) -> str:
    if not _is_ours(name):
        return PEER
    return OURS_INT8 if "int8" in name else OURS

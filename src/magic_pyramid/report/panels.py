"""Many series in small panels of one picture, each with the same colour and marker everywhere."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from magic_pyramid.errors import InputError
from magic_pyramid.report.canvas import Canvas, text_width
from magic_pyramid.report.palette import EXIT, HAIRLINE, INK, MUTED

PANEL_WIDTH, PANEL_HEIGHT = 400.0, 290.0
"""Of a panel at least, and of each."""
MOST_COLUMNS = 3
LEFT, RIGHT, TOP, BOTTOM = 54.0, 18.0, 34.0, 52.0
"""Room of a panel around its axes."""
MARGIN, HEADER, LEGEND_LINE, FONT = 8.0, 66.0, 18.0, 9.0
COLORS = (
    *(INK, "#bd591f", EXIT, "#3b6fb6", "#8a4fa3", "#c99a1e"),
    *("#c2427a", "#5c8f2f", "#4fb0c6", "#8c6d52", "#6a6fd0", "#a3352f"),
    *("#e08a8a", "#1f4e79"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "*", "d", "8")
_STEPS = (1.0, 2.0, 5.0, 10.0)
_LOG_TICKS = (0.25, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What an axis shows, and how its numbers are written."""

    name: str
    is_log: bool = False
    categories: tuple[str, ...] | None = None
    """Names of the places 0, 1, ...; None: numbers."""
    begins: float | None = None
    """Where the axis begins; None: below the lowest point."""
    cut: float | None = None
    """Points below it are left out, so that the others stay apart; None: all are shown."""
    is_whole: bool = False
    """Ticks stand at whole numbers only."""
    unit: str = ""
    """Written behind each tick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes."""

    title: str
    series: Mapping[str, Points]
    """Points from left to right, by the name of the series."""
    across: Axis
    up: Axis


def draw_panels(
    panels: Sequence[Panel], names: Sequence[str], path: str | Path, *, title: str, subtitle: str
) -> Path:
    """Draw every panel, under one legend.

    Args:
        panels: in reading order.
        names: of all series; their order gives them their colours and markers.
        path: the file; its suffix decides the format.
        title: of the picture.
        subtitle: what is drawn, in one line.

    Raises:
        InputError: no series has a point.
    """
    shown = [name for name in names if any(panel.series.get(name) for panel in panels)]
    if not shown:
        raise InputError("there is nothing to draw; measure something first")
    columns = min(MOST_COLUMNS, len(panels))
    width = max(columns * PANEL_WIDTH, text_width(subtitle, 9.5) + 2 * LEFT) + 2 * MARGIN
    rows_of_names = _wrap(shown, width - 2 * LEFT)
    top = HEADER + LEGEND_LINE * len(rows_of_names)
    height = top + PANEL_HEIGHT * math.ceil(len(panels) / columns) + MARGIN
    canvas = Canvas(width, height)
    canvas.text(LEFT, 28, title, size=15, bold=True)
    canvas.text(LEFT, 50, subtitle, size=9.5, color=MUTED)
    for row, line in enumerate(rows_of_names):
        _draw_legend(canvas, line, names, HEADER + row * LEGEND_LINE + 4)
    each = (width - 2 * MARGIN) / columns
    for place, panel in enumerate(panels):
        left, down = MARGIN + place % columns * each, top + place // columns * PANEL_HEIGHT
        _Axes(canvas, panel, left, down, width=each).draw(names)
    return canvas.save(path)


def style(name: str, names: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a series."""
    place = list(names).index(name)
    return COLORS[place % len(COLORS)], MARKERS[(place + place // len(COLORS)) % len(MARKERS)]


def _wrap(names: Sequence[str], width: float) -> list[list[str]]:
    lines: list[list[str]] = [[]]
    used = 0.0
    for name in names:
        needed = text_width(name, FONT) + 34
        if used + needed > width and lines[-1]:
            lines.append([])
            used = 0.0
        lines[-1].append(name)
        used += needed
    return lines


def _draw_legend(canvas: Canvas, line: Sequence[str], names: Sequence[str], y: float) -> None:
    x = LEFT
    for name in line:
        color, marker = style(name, names)
        canvas.line([x, x + 16], [y, y], color, 1.4)
        canvas.line([x + 8], [y], color, marker=marker, markersize=5.5, markeredgewidth=0)
        canvas.text(x + 21, y, name, size=FONT)
        x += text_width(name, FONT) + 34


class _Axes:
    """The axes of a panel, and its series on them."""

    def __init__(self, canvas: Canvas, panel: Panel, left: float, top: float, *, width: float) -> None:
        self.canvas, self.panel = canvas, panel
        self.left, self.right = left + LEFT, left + width - RIGHT
        self.top, self.bottom = top + TOP, top + PANEL_HEIGHT - BOTTOM
        points = [point for series in panel.series.values() for point in series]
        self.x = _scale(panel.across, [x for x, _ in points])
        self.y = _scale(panel.up, [y for _, y in points])

    def draw(self, names: Sequence[str]) -> None:
        canvas, panel = self.canvas, self.panel
        canvas.text(self.left, self.top - 20, panel.title, bold=True, size=10)
        for value, words in self.y.ticks:
            canvas.line([self.left, self.right], [self._up(value)] * 2, HAIRLINE, 0.8)
            canvas.text(self.left - 7, self._up(value), words, size=8.5, color=MUTED, ha="right")
        for value, words in self.x.ticks:
            x = self._across(value)
            canvas.line([x, x], [self.bottom, self.bottom + 4], HAIRLINE, 1.0)
            canvas.text(x, self.bottom + 14, words, size=8.5, color=MUTED, ha="center")
        canvas.text(self.right, self.top - 20, panel.up.name, size=8.5, color=MUTED, ha="right")
        canvas.text(self.right, self.bottom + 31, panel.across.name, size=8.5, color=MUTED, ha="right")
        for name in reversed(names):
            self._draw_series(panel.series.get(name, ()), *style(name, names))

    def _draw_series(self, points: Points, color: str, marker: str) -> None:
        shown = [(x, y) for x, y in points if y >= self.y.low]
        xs, ys = [self._across(x) for x, _ in shown], [self._up(y) for _, y in shown]
        if shown:
            self.canvas.line(xs, ys, color, 1.4, alpha=0.85)
            self.canvas.line(xs, ys, color, 0, marker=marker, markersize=4.6, markeredgewidth=0)

    def _across(self, value: float) -> float:
        return self.left + self.x.share(value) * (self.right - self.left)

    def _up(self, value: float) -> float:
        return self.bottom - self.y.share(value) * (self.bottom - self.top)


@dataclass(frozen=True, slots=True)
class _Scale:
    """From numbers to shares of an axis."""

    low: float
    high: float
    change: Callable[[float], float]
    ticks: list[tuple[float, str]]

    def share(self, value: float) -> float:
        low, high = self.change(self.low), self.change(self.high)
        return (self.change(value) - low) / (high - low)


def _scale(axis: Axis, values: Sequence[float]) -> _Scale:
    if axis.categories is not None:
        named = [(float(place), name) for place, name in enumerate(axis.categories)]
        return _Scale(-0.35, len(named) - 0.65, float, named)
    low, high = min(values, default=1.0 if axis.is_log else 0.0), max(values, default=1.0)
    if axis.is_log:
        low, high = min(low, 1.0) / 1.06, max(high, 1.5) * 1.06
        shown = [tick for tick in _LOG_TICKS if low <= tick <= high]
        thinned = shown if len(shown) <= 8 else shown[len(shown) % 2 :: 2]
        return _Scale(low, high, math.log, [(tick, f"{tick:g}{axis.unit}") for tick in thinned])
    low = low if axis.cut is None else min(max(axis.cut, low), high)
    low = low if axis.begins is None else axis.begins
    room = 0.06 * (high - low) if high - low > 0.01 * abs(high) else 0.01 * max(abs(high), 1.0)
    low, high = (low - room if axis.begins is None else low), high + room
    step = max(_step(high - low), 1.0 if axis.is_whole else 0.0)
    first = math.ceil(low / step - 1e-9)
    ticks = [round(index * step, 9) for index in range(first, math.floor(high / step + 1e-9) + 1)]
    return _Scale(low, high, float, [(tick, f"{tick:g}{axis.unit}") for tick in ticks])


def _step(span: float) -> float:
    """A round step that gives at most seven ticks."""
    power = 10.0 ** math.floor(math.log10(span / 7))
    return next(step * power for step in _STEPS if span / (step * power) <= 7)

"""Accuracy and latency of every contender in one picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from magic_pyramid.errors import InputError
from magic_pyramid.report.bench_table import contender_rows
from magic_pyramid.report.canvas import Canvas, text_width
from magic_pyramid.report.palette import EXIT, FALLEN, HAIRLINE, INK, MUTED, on_light
from magic_pyramid.report.places import LINE, Box, dots, first_free

WIDTH, HEIGHT = 920.0, 540.0
LEFT, RIGHT, TOP, BOTTOM = 78.0, 34.0, 84.0, 66.0
FONT, RADIUS = 8.5, 4.5
_PAGE = Box(LEFT + 2, TOP, WIDTH - 6, HEIGHT - BOTTOM - 2)
OURS_DENSE, OURS_ADAPTIVE, PEER = on_light(0.55), EXIT, FALLEN


def draw_bench(result: Mapping[str, Any], path: str | Path) -> Path:
    """Draw accuracy over the p50 latency of single texts, at the smallest number of threads.

    Raises:
        InputError: nothing was measured.
    """
    rows = contender_rows(result)
    if not rows:
        raise InputError("no contender was measured, so there is nothing to draw")
    threads = min(row["threads"] for row in rows)
    rows = [row for row in rows if row["threads"] == threads]
    canvas = Canvas(WIDTH, HEIGHT)
    across = _Scale([math.log2(row["latency_ms"]["p50"]) for row in rows], LEFT, WIDTH - RIGHT, least=1.0)
    up = _Scale([100 * row["accuracy"] for row in rows], HEIGHT - BOTTOM, TOP, least=2.0)
    _draw_axes(canvas, across, up, result["provenance"], threads)
    points = [
        (across.place(math.log2(row["latency_ms"]["p50"])), up.place(100 * row["accuracy"]), row)
        for row in rows
    ]
    _draw_points(canvas, points)
    return canvas.save(path)


class _Scale:
    """A linear axis with some room at both ends."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, least: float) -> None:
        middle, half = (max(values) + min(values)) / 2, max(max(values) - min(values), least) / 2
        self.low, self.high = middle - 1.35 * half, middle + 1.35 * half
        self.start, self.end = start, end

    def place(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    def ticks(self, step: float) -> list[float]:
        first = math.ceil(self.low / step)
        return [index * step for index in range(first, math.floor(self.high / step) + 1)]


def _draw_axes(
    canvas: Canvas, across: _Scale, up: _Scale, provenance: Mapping[str, Any], threads: int
) -> None:
    metric = str(provenance["metric"])
    canvas.text(LEFT, 28, f"{metric.capitalize()} and latency of one text", size=15, bold=True)
    subtitle = (
        f"{provenance['num_texts']} texts of {provenance['mean_tokens']:.0f} tokens on average, "
        f"{threads} thread{'s' * (threads > 1)}, the same weights everywhere; {provenance['machine']}"
    )
    canvas.text(LEFT, 50, subtitle, size=9.5, color=MUTED)
    step = next((step for step in (0.5, 1.0, 2.0, 5.0, 10.0) if len(up.ticks(step)) <= 7), 20.0)
    for value in up.ticks(step):
        y = up.place(value)
        canvas.line([LEFT, WIDTH - RIGHT], [y, y], HAIRLINE, 0.8)
        canvas.text(LEFT - 10, y, f"{value:g}", color=MUTED, ha="right")
    for value in across.ticks(1.0 if across.high - across.low > 2 else 0.5):
        x = across.place(value)
        canvas.line([x, x], [HEIGHT - BOTTOM, HEIGHT - BOTTOM + 5], HAIRLINE, 1.0)
        canvas.text(x, HEIGHT - BOTTOM + 16, f"{2**value:.3g}", color=MUTED, ha="center")
    canvas.text(LEFT - 10, TOP - 12, f"{metric} %", color=MUTED, ha="right")
    canvas.text(
        WIDTH - RIGHT, HEIGHT - BOTTOM + 34, "p50 latency of one text, ms (faster to the left)",
        color=MUTED, ha="right",
    )  # fmt: skip
    x = LEFT
    for color, words in (
        (OURS_ADAPTIVE, "magic_pyramid, adaptive"),
        (OURS_DENSE, "magic_pyramid, dense"),
        (PEER, "dense peers"),
    ):
        canvas.line([x + 4], [HEIGHT - BOTTOM + 34], color, marker="o", markersize=7)
        canvas.text(x + 13, HEIGHT - BOTTOM + 34, words, color=MUTED)
        x += 34 + text_width(words, 9)


def _draw_points(canvas: Canvas, points: Sequence[tuple[float, float, Mapping[str, Any]]]) -> None:
    taken = dots([(x, y) for x, y, _ in points], RADIUS)
    for x, y, row in sorted(points, key=lambda point: point[0]):
        words = row["name"].removeprefix("magic_pyramid_") if row["adaptive"] else row["name"]
        words = f"{words} {row['latency_ms']['p50']:.3g} ms"
        box = _free_place(x, y, text_width(words, FONT), taken)
        taken.append(box)
        color = _color(row)
        anchor = min(max(x, box.left), box.right)
        canvas.line([x, anchor], [y, box.bottom if box.bottom < y else box.top], color, 0.7, alpha=0.6)
        canvas.line([x], [y], color, marker="o", markersize=2 * RADIUS, markeredgewidth=0)
        canvas.text(
            box.left, (box.top + box.bottom) / 2, words, size=FONT, color=INK if _is_ours(row) else MUTED
        )


def _free_place(x: float, y: float, width: float, taken: Sequence[Box]) -> Box:
    """The nearest place above or below a point where nothing else stands."""
    candidates = []
    for step in range(1, 34):
        for sign in (-1, 1):
            top = y + sign * (step * LINE * 0.75 + RADIUS) - LINE / 2
            for left in (x - 4, x - width + 4, x - width / 2):
                candidates.append(Box(left, top, left + width, top + LINE))
    return first_free(candidates, taken, page=_PAGE)


def _is_ours(row: Mapping[str, Any]) -> bool:
    return str(row["engine"]).startswith("magic_pyramid")


def _color(row: Mapping[str, Any]) -> str:
    if not _is_ours(row):
        return PEER
    return OURS_ADAPTIVE if row["adaptive"] else OURS_DENSE

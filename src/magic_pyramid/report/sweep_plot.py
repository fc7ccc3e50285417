"""The accuracy-cost curve of one model in one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from magic_pyramid.errors import InputError
from magic_pyramid.report.canvas import Canvas, text_width
from magic_pyramid.report.palette import EXIT, FALLEN, HAIRLINE, INK, MUTED, PAPER
from magic_pyramid.report.places import LINE, Box, dots, first_free

WIDTH, HEIGHT = 760.0, 460.0
LEFT, RIGHT, TOP, BOTTOM = 74.0, 40.0, 80.0, 64.0
_TICKS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0)
_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
_PAGE = Box(0.0, TOP - 12.0, WIDTH, HEIGHT)
_NAME_SIZE, _RADIUS = 8.5, 5.0
_NAME_OFFSETS = (15.0, -15.0, -28.0, 28.0, -41.0)
"""Places of a name below (positive) or above its point, the best first."""


def draw_sweep(
    points: Sequence[Mapping[str, Any]],
    named: Mapping[str, Mapping[str, Any]],
    path: str | Path,
    *,
    title: str,
    metric: str,
) -> Path:
    """Draw accuracy over FLOPs saved.

    Args:
        points: settings with ``accuracy`` and ``flops_speedup``.
        named: points that carry a name.
        path: the file; its suffix decides the format.
        title: of the picture.
        metric: what accuracy is called.

    Raises:
        InputError: there are no points.
    """
    if not points:
        raise InputError("there is no setting to draw")
    canvas = Canvas(WIDTH, HEIGHT)
    every = [*points, *named.values()]
    most = max(*(float(point["flops_speedup"]) for point in every), 1.5)
    values = [100 * float(point["accuracy"]) for point in every]
    best = max(values)
    # What loses more than the best by far would press the rest together; what has a name is shown.
    worst = min([max(min(values), best - 15.0), *values[len(points) :]])
    low, high = worst - 0.06 * (best - worst) - 0.1, best + 0.06 * (best - worst) + 0.1

    def across(speedup: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (speedup - 1.0) / (most - 1.0)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    canvas.text(LEFT, 30, title, size=14, bold=True)
    canvas.text(LEFT, 52, "every setting of one model; the line joins those that no other beats", color=MUTED)
    step = next((step for step in _STEPS if (high - low) / step <= 8), 50.0)
    tick = step * (int(low / step) + 1)
    while tick <= high:
        canvas.line([LEFT, WIDTH - RIGHT], [up(tick)] * 2, HAIRLINE, 0.8)
        canvas.text(LEFT - 10, up(tick), f"{tick:g}", color=MUTED, ha="right")
        tick = round(tick + step, 6)
    for tick in (tick for tick in _TICKS if tick <= most):
        canvas.text(across(tick), HEIGHT - BOTTOM + 16, f"{tick:g}x", color=MUTED, ha="center")
    canvas.text(LEFT - 10, TOP - 12, f"{metric} %", color=MUTED, ha="right")
    canvas.text(WIDTH - RIGHT, HEIGHT - BOTTOM + 38, "fewer FLOPs than dense", color=MUTED, ha="right")
    shown = [point for point in points if 100 * point["accuracy"] >= low]
    for point in shown:
        place = ([across(point["flops_speedup"])], [up(100 * point["accuracy"])])
        canvas.line(*place, FALLEN, marker="o", markersize=3, markeredgewidth=0)
    best_so_far = unbeaten(shown)
    canvas.line(
        [across(point["flops_speedup"]) for point in best_so_far],
        [up(100 * point["accuracy"]) for point in best_so_far],
        INK,
        1.4,
    )
    places = [(across(point["flops_speedup"]), up(100 * point["accuracy"])) for point in named.values()]
    names = [
        f"{name} {100 * point['accuracy']:.2f} %, {point['flops_speedup']:.2f}x"
        for name, point in named.items()
    ]
    for name, (x, y) in zip(named, places, strict=True):
        size = 2 * _RADIUS if name == "certified" else 6
        canvas.line([x], [y], EXIT, marker="o", markersize=size, markeredgewidth=0)
    for words, (x, y) in zip(names, places_of_names(names, places), strict=True):
        canvas.text(
            x, y, words, size=_NAME_SIZE, color=INK, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1}
        )
    return canvas.save(path)


def places_of_names(names: Sequence[str], points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Left end and middle height of each name: beside its point, on no other point and no other name."""
    taken = dots(points, _RADIUS)
    places = []
    for words, (x, y) in zip(names, points, strict=True):
        width = text_width(words, _NAME_SIZE)
        left = x - 8 if x <= WIDTH / 2 else x - 8 - width
        tops = [y + offset - LINE / 2 for offset in _NAME_OFFSETS]
        box = first_free([Box(left, top, left + width, top + LINE) for top in tops], taken, page=_PAGE)
        taken.append(box)
        places.append((left, box.top + LINE / 2))
    return places


def unbeaten(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Points that no other beats in both accuracy and FLOPs, the dearest first."""
    kept: list[Mapping[str, Any]] = []
    for point in sorted(points, key=lambda point: (-point["flops_speedup"], -point["accuracy"])):
        if not kept or point["accuracy"] > kept[-1]["accuracy"]:
            kept.append(point)
    return kept[::-1]

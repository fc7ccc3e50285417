"""Who attends to whom in one layer, and the column means that decide which token falls (Figure 3)."""

from pathlib import Path

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, PowerNorm

from magic_pyramid.errors import InputError
from magic_pyramid.report.canvas import Canvas, text_width
from magic_pyramid.report.palette import EXIT, FALLEN, GHOST, HAIRLINE, INK, MUTED, on_light, position
from magic_pyramid.report.trace import Trace, TraceLayer
from magic_pyramid.report.words import Piece, pieces, shortened

MARGIN, HEADER, STRIP, GAP, FOOTER = 26.0, 66.0, 96.0, 10.0, 58.0
SMALLEST_LABELLED = 7.5
"""Cells at least this large, in points, can carry their token as a label."""


def draw_attention(trace: Trace, layer: int, path: str | Path) -> Path:
    """Draw the head-averaged attention matrix of a layer, its column means above it.

    A token whose bar stays below the line is dropped in this layer; the first token is always kept.

    Raises:
        InputError: the layer did not run, or its attention was not recorded.
    """
    step = _recorded(trace, layer)
    parts = [pieces(trace.tokens)[token] for token in step.arrived]
    cell = min(26.0, max(560.0 / len(parts), 0.9))
    side, size = cell * len(parts), min(9.0, 0.78 * cell)
    has_labels = cell >= SMALLEST_LABELLED
    label_room = max(text_width(shortened(p.text, 16), size if has_labels else 7) for p in parts) + 12
    left = MARGIN + max(label_room if has_labels else 0.0, 56.0)
    width = max(left + side + 84, 470.0)
    top = HEADER + STRIP + GAP
    canvas = Canvas(width, top + side + label_room + FOOTER)
    _draw_header(canvas, step)
    _draw_strip(canvas, step, left, cell)
    _draw_matrix(canvas, np.asarray(step.attention), left, top, side)
    if has_labels:
        _draw_labels(canvas, step, parts, (left, top), cell, size)
    else:
        _draw_best(canvas, step, parts, (left, top), cell)
    _draw_key(canvas, left, np.asarray(step.attention))
    return canvas.save(path)


def _recorded(trace: Trace, layer: int) -> TraceLayer:
    if not 0 <= layer < trace.num_layers_run:
        raise InputError(f"layer {layer} did not run for this text; choose 0 to {trace.num_layers_run - 1}")
    step = trace.layers[layer]
    if step.attention is None:
        raise InputError(f"the trace has no attention of layer {layer}; record it when explaining the text")
    return step


def _draw_header(canvas: Canvas, step: TraceLayer) -> None:
    canvas.text(MARGIN, 30, f"Attention in layer {step.index}", size=15, bold=True)
    arrived, dropped = len(step.arrived), len(step.dropped)
    words = f"{arrived} token{'s' if arrived > 1 else ''} arrived, {dropped} dropped here"
    words += "; mean over heads, a row is who looks, a column who is looked at"
    canvas.text(MARGIN, 49, words, size=8.5, color=MUTED)


def _draw_strip(canvas: Canvas, step: TraceLayer, left: float, cell: float) -> None:
    """Bars of importance: the column means times the number of tokens, so that 1 is the average."""
    base, kept = HEADER + STRIP, set(step.kept)
    highest = max([*step.importance, step.token_threshold_mass or 0.0, 1.5])
    scale = (STRIP - 22) / highest
    inset = 0.08 * cell if cell > 4 else 0.0
    bars, colors = [], []
    for i, (token, importance) in enumerate(zip(step.arrived, step.importance, strict=True)):
        x, y = left + i * cell, base - max(0.6, importance * scale)
        bars.append([(x + inset, base), (x + inset, y), (x + cell - inset, y), (x + cell - inset, base)])
        colors.append(on_light(max(0.3, position(importance))) if token in kept else GHOST)
    canvas.axes.add_collection(PolyCollection(bars, facecolors=colors, linewidths=0))
    right = left + cell * len(step.arrived)
    canvas.line([left, right], [base, base], FALLEN, 0.8)
    canvas.text(left - 8, base - STRIP / 2 + 6, "importance", size=8, color=MUTED, ha="right")
    canvas.line([left, right], [base - scale] * 2, HAIRLINE, 0.8, zorder=0.5)
    bar = step.token_threshold_mass
    if bar is None or abs(bar - 1) * scale > 9:
        canvas.text(right + 6, base - scale, "1 = average", size=7.5, color=MUTED)
    if bar is not None:
        canvas.line([left, right], [base - bar * scale] * 2, EXIT, 1.2, linestyle=(0, (4, 2)))
        canvas.text(right + 6, base - bar * scale, f"{bar:.2f} threshold", size=7.5, color=EXIT, bold=True)


def _draw_matrix(canvas: Canvas, attention: np.ndarray, left: float, top: float, side: float) -> None:
    canvas.axes.imshow(
        attention, cmap=_colors(), norm=PowerNorm(0.5, 0.0, float(attention.max()) or 1.0), aspect="auto",
        extent=(left, left + side, top + side, top), interpolation="nearest",
    )  # fmt: skip
    canvas.axes.set_xlim(0, canvas.width)
    canvas.axes.set_ylim(canvas.height, 0)
    canvas.box(left, top, side, side, radius=0, fc="none", ec=HAIRLINE, linewidth=0.8)


def _colors() -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list("importance", [on_light(i / 32) for i in range(33)])


def _draw_labels(
    canvas: Canvas,
    step: TraceLayer,
    parts: list[Piece],
    corner: tuple[float, float],
    cell: float,
    size: float,
) -> None:
    (left, top), kept = corner, set(step.kept)
    below = top + cell * len(parts)
    for i, (token, part) in enumerate(zip(step.arrived, parts, strict=True)):
        middle, word = (i + 0.5) * cell, shortened(part.text, 16)
        color = INK if token in kept else FALLEN
        canvas.text(left - 7, top + middle, word, size=size, color=color, ha="right")
        canvas.text(
            left + middle, below + 7, word, size=size, color=color, rotation=90, ha="center", va="top"
        )


def _draw_best(
    canvas: Canvas, step: TraceLayer, parts: list[Piece], corner: tuple[float, float], cell: float
) -> None:
    """Too many tokens to name: name the columns of the most important words."""
    left, below = corner[0], corner[1] + cell * len(parts)
    best = sorted((i for i, part in enumerate(parts) if part.is_wordlike), key=lambda i: -step.importance[i])
    named: list[int] = []
    for i in best:
        if all(abs(i - other) * cell >= 10 for other in named) and len(named) < 32:
            named.append(i)
    for i in named:
        x = left + (i + 0.5) * cell
        canvas.line([x, x], [below + 1, below + 5], GHOST, 0.8)
        canvas.text(x, below + 7, shortened(parts[i].text, 16), size=7, rotation=90, ha="center", va="top")


def _draw_key(canvas: Canvas, left: float, attention: np.ndarray) -> None:
    y, width, steps, highest = canvas.height - 28, 140.0, 56, float(attention.max())
    canvas.text(left, y - 8, "attention", size=8, color=MUTED)
    for i in range(steps):
        share = i / (steps - 1)
        canvas.box(left + i * width / steps, y, width / steps + 0.4, 7, radius=0, fc=on_light(share))
    canvas.text(left, y + 15, "0", size=7, color=MUTED)
    canvas.text(left + width, y + 15, f"{highest:.2f}", size=7, color=MUTED, ha="right")
    canvas.box(left + width + 26, y - 2, 12, 11, radius=0, fc=GHOST)
    canvas.text(left + width + 44, y + 3.5, "dropped in this layer", size=8, color=MUTED)

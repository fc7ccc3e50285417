"""The pyramid of one text as a PNG: each row a layer, each cell a token that reached it."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.path import Path as MplPath

from magic_pyramid.report.canvas import Canvas, text_width
from magic_pyramid.report.palette import (
    EXIT,
    FALLEN,
    GHOST,
    HAIRLINE,
    INK,
    MUTED,
    PAPER,
    SHADOW,
    ink_on,
    on_light,
    position,
)
from magic_pyramid.report.trace import Trace, TraceLayer
from magic_pyramid.report.words import Piece, pieces, shortened, whole_word

WIDTH, LEFT, MARGIN = 920.0, 62.0, 24.0
TOP, EXIT_GAP, FOOTER = 92.0, 34.0, 76.0
TOKENS_WIDTH, UNCERTAINTY_WIDTH, ANSWER_WIDTH = 74.0, 116.0, 128.0
NOT_RUN_HEIGHT = 13.0


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where things stand on the page, in points."""

    parts: list[Piece]
    font_size: float
    """Of the words inside the cells; 0: the cells are too small for words."""
    cell_widths: list[float]
    row_height: float
    row_gap: float
    labels_height: float
    right: float
    """Right end of the pyramid's own area."""

    def row_width(self, tokens: list[int]) -> float:
        return sum(self.cell_widths[token] for token in tokens)

    def centers(self, tokens: list[int]) -> dict[int, float]:
        """Middle of each token's cell, the row centred."""
        x = (LEFT + self.right - self.row_width(tokens)) / 2
        middle = {}
        for token in tokens:
            middle[token] = x + self.cell_widths[token] / 2
            x += self.cell_widths[token]
        return middle


def draw_pyramid(trace: Trace, path: str | Path) -> Path:
    """Draw where each token fell, where the text left, and what that saved.

    A row shows the tokens that arrived at a layer; those it dropped are ghosts and missing from the next row.
    """
    plan = _plan(trace)
    top = TOP + plan.labels_height
    body = trace.num_layers_run * (plan.row_height + plan.row_gap)
    not_run = (trace.num_layers - trace.num_layers_run) * NOT_RUN_HEIGHT
    canvas = Canvas(WIDTH, top + body + EXIT_GAP + not_run + FOOTER)
    _draw_header(canvas, trace, plan)
    if not plan.font_size:
        _draw_labels(canvas, trace, plan, top)
    tops = [top + i * (plan.row_height + plan.row_gap) for i in range(trace.num_layers_run)]
    _draw_shadow(canvas, trace, plan, tops)
    _draw_threads(canvas, trace, plan, tops)
    for layer, y in zip(trace.layers, tops, strict=True):
        _draw_layer(canvas, layer, plan, y)
        _draw_head(canvas, trace, layer, plan, y + plan.row_height / 2)
    if trace.exit_threshold is not None and trace.has_exits:
        _draw_threshold(canvas, trace.exit_threshold, plan, top, top + body)
    _draw_exit(canvas, trace, top + body + EXIT_GAP / 2 - plan.row_gap / 2)
    _draw_not_run(canvas, trace, plan, top + body + EXIT_GAP)
    _draw_footer(canvas, trace)
    return canvas.save(path)


def _plan(trace: Trace) -> _Plan:
    parts = pieces(trace.tokens)
    side = TOKENS_WIDTH + (UNCERTAINTY_WIDTH + ANSWER_WIDTH if trace.has_exits else 0)
    right = WIDTH - MARGIN - side
    room = right - LEFT
    for size in (11.0, 10.0, 9.0, 8.0, 7.0):
        widths = _word_widths(parts, size)
        if sum(widths) <= room:
            return _Plan(parts, size, widths, 2.05 * size, 0.85 * size, 0.0, right)
    cell = min(18.0, room / len(parts))
    longest = max((text_width(word, 8) for _, word in _labelled(trace, parts, room)), default=0)
    return _Plan(parts, 0.0, [cell] * len(parts), 17.0, 8.0, 26 + 0.72 * longest, right)


def _word_widths(parts: list[Piece], size: float) -> list[float]:
    """Cell widths that leave room at the ends of a word, and hardly any between its pieces."""
    ends = [part.starts_word for part in parts[1:]] + [True]
    widths = []
    for part, is_end in zip(parts, ends, strict=True):
        padding = (0.5 if part.starts_word else 0.2) + (0.5 if is_end else 0.2)
        widths.append(text_width(part.text, size) + size * padding)
    return widths


def _draw_header(canvas: Canvas, trace: Trace, plan: _Plan) -> None:
    answer, confidence = shortened(trace.answer(), 40), trace.confidence()
    canvas.text(MARGIN, 34, answer, size=20, bold=True)
    canvas.text(MARGIN + text_width(answer, 20, bold=True) + 9, 34, confidence, size=20, color=EXIT)
    canvas.text(MARGIN, 56, trace.summary(), size=9.5, color=MUTED)
    factor, meaning = trace.saving()
    canvas.text(WIDTH - MARGIN, 34, factor, size=20, bold=True, color=EXIT, ha="right")
    canvas.text(WIDTH - MARGIN, 56, meaning, size=9.5, color=MUTED, ha="right")
    y = TOP + plan.labels_height - 13
    canvas.text(LEFT - 14, y, "layer", size=8, color=MUTED, ha="right")
    canvas.text(plan.right + TOKENS_WIDTH / 2, y, "tokens", size=8, color=MUTED, ha="center")
    if trace.has_exits:
        canvas.text(plan.right + TOKENS_WIDTH, y, "uncertainty", size=8, color=MUTED)
        canvas.text(WIDTH - MARGIN, y, "answer of this layer", size=8, color=MUTED, ha="right")


def _draw_layer(canvas: Canvas, layer: TraceLayer, plan: _Plan, y: float) -> None:
    canvas.text(LEFT - 14, y + plan.row_height / 2, str(layer.index), size=9, color=INK, ha="right")
    kept = set(layer.kept)
    if plan.font_size:
        row = plan.centers(layer.arrived)
        for (token, x), importance in zip(row.items(), layer.importance, strict=True):
            color = on_light(position(importance)) if token in kept else None
            _draw_word(canvas, plan, x, y, token, color=color, neighbours=row.keys())
    else:
        _draw_cells(canvas, layer, plan, y)
    middle, size = y + plan.row_height / 2, 8.5
    canvas.text(plan.right + TOKENS_WIDTH / 2, middle, _count(layer), size=size, color=INK, ha="center")


def _count(layer: TraceLayer) -> str:
    before, after = len(layer.arrived), len(layer.kept)
    return f"{before} → {after}" if after < before else f"{after}"


def _draw_word(
    canvas: Canvas,
    plan: _Plan,
    x: float,
    y: float,
    token: int,
    *,
    color: str | None,
    neighbours: Collection[int],
) -> None:
    part, half, middle = plan.parts[token], plan.cell_widths[token] / 2, y + plan.row_height / 2
    joins = token - 1 in neighbours and not part.starts_word
    follows = token + 1 in neighbours and not plan.parts[token + 1].starts_word
    left, right = x - half + (0.2 if joins else 1.5), x + half - (0.2 if follows else 1.5)
    if color is None:
        canvas.box(left, y, right - left, plan.row_height, fc=PAPER, ec=HAIRLINE, linewidth=0.8)
        canvas.text(x, middle, part.text, size=plan.font_size, color=FALLEN, ha="center")
        canvas.line([left + 2, right - 2], [middle, middle], GHOST, 0.8)
        return
    canvas.box(left, y, right - left, plan.row_height, fc=color)
    canvas.text(x, middle, part.text, size=plan.font_size, color=ink_on(color), ha="center")


def _draw_cells(canvas: Canvas, layer: TraceLayer, plan: _Plan, y: float) -> None:
    kept, height = set(layer.kept), plan.row_height
    corners, colors = [], []
    for (token, x), importance in zip(plan.centers(layer.arrived).items(), layer.importance, strict=True):
        half = plan.cell_widths[token] / 2
        inset = 0.6 if half > 2 else 0.0
        top = y if token in kept else y + height * 0.36
        bottom = y + height if token in kept else y + height * 0.64
        left, right = x - half + inset, x + half - inset
        corners.append([(left, top), (right, top), (right, bottom), (left, bottom)])
        colors.append(on_light(position(importance)) if token in kept else GHOST)
    canvas.axes.add_collection(PolyCollection(corners, facecolors=colors, linewidths=0, zorder=2))


def _draw_threads(canvas: Canvas, trace: Trace, plan: _Plan, tops: list[float]) -> None:
    """Join the cells of a token from row to row: all of them where there is room, else the labelled ones."""
    room = plan.right - LEFT
    curves = []
    named = None if plan.font_size else {token for token, _ in _labelled(trace, plan.parts, room)}
    for upper, lower, y in zip(trace.layers, trace.layers[1:], tops, strict=False):
        start, end = plan.centers(upper.arrived), plan.centers(lower.arrived)
        for token in lower.arrived:
            if named is None or token in named:
                curves.append(_curve(start[token], y + plan.row_height, end[token], plan.row_gap))
    canvas.axes.add_collection(
        PathCollection(curves, facecolors="none", edgecolors=GHOST, linewidths=0.8, zorder=1)
    )


def _curve(start: float, y: float, end: float, height: float) -> MplPath:
    points = [(start, y), (start, y + height * 0.6), (end, y + height * 0.4), (end, y + height)]
    return MplPath(points, [MplPath.MOVETO, MplPath.CURVE4, MplPath.CURVE4, MplPath.CURVE4])


def _draw_shadow(canvas: Canvas, trace: Trace, plan: _Plan, tops: list[float]) -> None:
    """The silhouette behind the rows."""
    middle, left, right = (LEFT + plan.right) / 2, [], []
    for layer, y in zip(trace.layers, tops, strict=True):
        half = plan.row_width(layer.arrived) / 2 + 5
        for edge in (y - 4, y + plan.row_height + 4):
            left.append((middle - half, edge))
            right.append((middle + half, edge))
    canvas.axes.add_collection(
        PolyCollection([left + right[::-1]], facecolors=SHADOW, linewidths=0, zorder=0.5)
    )


def _labelled(trace: Trace, parts: list[Piece], room: float) -> list[tuple[int, str]]:
    """The words that went deepest, at most as many as fit side by side, in reading order."""
    limit, chosen = min(14, int(room / 16)), {}
    for token in trace.ranked_tokens():
        first, word = whole_word(parts, token)
        if parts[token].is_wordlike and len(word) > 1 and first not in chosen:
            chosen[first] = (token, shortened(word, 18))
        if len(chosen) == limit:
            break
    return sorted(chosen.values())


def _draw_labels(canvas: Canvas, trace: Trace, plan: _Plan, top: float) -> None:
    words = _labelled(trace, plan.parts, plan.right - LEFT)
    at = plan.centers(trace.layers[0].arrived)
    feet = _spread([at[token] for token, _ in words], gap=16, low=LEFT + 6, high=plan.right - 30)
    for (token, word), foot in zip(words, feet, strict=True):
        canvas.line([at[token], at[token], foot], [top, top - 4, top - 15], GHOST, 0.8, zorder=1)
        canvas.text(foot - 2, top - 17, word, size=8, rotation=45, va="bottom", rotation_mode="anchor")


def _spread(wanted: list[float], *, gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, in the same order, at least `gap` apart, inside [low, high]."""
    places: list[float] = []
    for x in wanted:
        places.append(max(x, places[-1] + gap if places else low))
    limit = high
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - gap
    return places


def _draw_head(canvas: Canvas, trace: Trace, layer: TraceLayer, plan: _Plan, y: float) -> None:
    if layer.uncertainty is None:
        return
    left, span = plan.right + TOKENS_WIDTH, UNCERTAINTY_WIDTH - 42
    left_here = layer.index == trace.exit_layer
    color = EXIT if left_here else MUTED
    canvas.line([left, left + span], [y, y], HAIRLINE, 1)
    canvas.line([left, left + span * layer.uncertainty], [y, y], color, 2.2)
    canvas.axes.plot(
        [left + span * layer.uncertainty], [y], "o", color=color, markersize=5.5, mec=PAPER, mew=0.8
    )
    canvas.text(left + span + 9, y, f"{layer.uncertainty:.2f}", size=8, color=color, bold=left_here)
    if layer.probabilities is not None:
        answer = f"{shortened(trace.answer(layer.probabilities), 17)} {trace.confidence(layer.probabilities)}"
        canvas.text(WIDTH - MARGIN, y, answer.strip(), size=8, color=color, bold=left_here, ha="right")


def _draw_threshold(canvas: Canvas, exit_threshold: float, plan: _Plan, top: float, bottom: float) -> None:
    x = plan.right + TOKENS_WIDTH + (UNCERTAINTY_WIDTH - 42) * exit_threshold
    canvas.line([x, x], [top - 2, bottom - plan.row_gap + 2], EXIT, 1, linestyle=(0, (3, 2)), zorder=1)
    canvas.text(x, bottom - plan.row_gap + 8, f"τ {exit_threshold:g}", size=7.5, color=EXIT, ha="center")


def _draw_exit(canvas: Canvas, trace: Trace, y: float) -> None:
    words = f"left here: {shortened(trace.answer(), 40)} {trace.confidence()}".strip()
    if not trace.left_early:
        words = f"the end: {shortened(trace.answer(), 40)} {trace.confidence()}".strip()
    width = text_width(words, 9.5, bold=True) + 20
    canvas.line([MARGIN, WIDTH - MARGIN], [y, y], EXIT, 1.6)
    canvas.box(LEFT - 6, y - 9, width, 18, radius=9, fc=EXIT, zorder=3)
    canvas.text(LEFT + 4, y, words, size=9.5, bold=True, color="#ffffff", zorder=4)


def _draw_not_run(canvas: Canvas, trace: Trace, plan: _Plan, y: float) -> None:
    first, count = trace.num_layers_run, trace.num_layers - trace.num_layers_run
    width = max(plan.row_width(trace.layers[-1].kept), 26.0)
    x = (LEFT + plan.right - width) / 2
    for i in range(count):
        middle = y + i * NOT_RUN_HEIGHT + NOT_RUN_HEIGHT / 2
        canvas.text(LEFT - 14, middle, str(first + i), size=7.5, color=GHOST, ha="right")
        canvas.box(x, middle - 4, width, 8, radius=2, fc="none", ec=HAIRLINE, linewidth=0.8, hatch="//////")
    if count:
        words = f"{count} layer{'s' if count > 1 else ''} not run"
        canvas.text(plan.right + 14, y + count * NOT_RUN_HEIGHT / 2, words, size=8, color=MUTED)


def _draw_footer(canvas: Canvas, trace: Trace) -> None:
    y = canvas.height - 34
    canvas.line([MARGIN, WIDTH - MARGIN], [y - 24, y - 24], HAIRLINE, 0.8)
    _draw_scale(canvas, y)
    if trace.problem_type == "regression":
        return
    bars = [(shortened(label, 22), value) for label, value in trace.ranked_labels()[:3]]
    widths = [max(text_width(name, 8.5) + 46, 90) + 18 for name, _ in bars]
    while sum(widths) > WIDTH - 2 * MARGIN - 350:
        widths.pop()
    x = WIDTH - MARGIN - sum(widths) + 18
    for (name, value), width in zip(bars, widths, strict=False):
        canvas.text(x, y - 5, name, size=8.5)
        canvas.text(x + width - 18, y - 5, f"{100 * value:.1f} %", size=8.5, color=MUTED, ha="right")
        canvas.box(x, y + 4, width - 18, 4, radius=2, fc=HAIRLINE)
        canvas.box(x, y + 4, max(0.5, (width - 18) * value), 4, radius=2, fc=EXIT)
        x += width


def _draw_scale(canvas: Canvas, y: float) -> None:
    canvas.text(MARGIN, y - 5, "importance (1 = the average token)", size=8, color=MUTED)
    steps, width = 60, 150.0
    for i in range(steps):
        canvas.box(
            MARGIN + i * width / steps, y + 3, width / steps + 0.4, 7, radius=0, fc=on_light(i / (steps - 1))
        )
    for value, name, side in ((0.25, "≤ ¼", "left"), (1, "1", "center"), (8, "≥ 8", "right")):
        canvas.text(MARGIN + width * position(value), y + 18, name, size=7, color=MUTED, ha=side)
    canvas.box(MARGIN + 190, y + 1, 34, 11, fc="none", ec=HAIRLINE, linewidth=0.8)
    canvas.line([MARGIN + 196, MARGIN + 218], [y + 6.5, y + 6.5], GHOST, 0.8)
    canvas.text(MARGIN + 232, y + 6.5, "dropped in this layer", size=8, color=MUTED)

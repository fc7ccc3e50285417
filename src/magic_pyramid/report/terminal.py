"""The pyramid of one text in the terminal, fitted to the console's width, with or without colour."""

import math
from collections.abc import Iterator

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from magic_pyramid.report.palette import ink_on, on_dark, position
from magic_pyramid.report.trace import Trace, TraceLayer
from magic_pyramid.report.words import Piece, joined, pieces, shortened

MOST_LINES = 3
"""Lines the words of a layer may take before single tokens become single cells."""
SHADES = "░▒▓█"
GHOST_CELL = "·"
ACCENT, QUIET = "bold cyan", "bright_black"

_LAYER_WIDTH, _TOKENS_WIDTH, _BAR_WIDTH, _ANSWER_WIDTH = 4, 12, 17, 28


def pyramid_renderable(trace: Trace) -> RenderableType:
    """What ``rich`` prints for a text: a row per layer, dropped tokens struck through, the exit as a line.

    Long texts become one cell per token, and very long ones one cell per few tokens; the words that were
    left at the end are then written out below.
    """
    return _Pyramid(trace)


class _Pyramid:
    """Lays itself out when the width is known."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.parts = trace, pieces(trace.tokens)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(options.max_width, 40)
        has_color = console.color_system is not None
        side = _TOKENS_WIDTH + (_BAR_WIDTH if self.trace.has_exits and width >= 70 else 0)
        side += _ANSWER_WIDTH if self.trace.has_exits and width >= 130 else 0
        room = width - _LAYER_WIDTH - side - 1
        as_words = len(list(self._wrapped(self.trace.layers[0], room, has_color))) <= MOST_LINES
        yield from self._header(as_words, has_color)
        for layer in self.trace.layers:
            lines = list(self._wrapped(layer, room, has_color)) if as_words else [self._cells(layer, room)]
            for i, line in enumerate(lines):
                row = Text(f"{layer.index:>2}  " if i == 0 else " " * _LAYER_WIDTH, no_wrap=True)
                row.append_text(_centered(line, room))
                if i == 0:
                    row.append_text(self._side(layer, side))
                yield row
        yield self._exit_line(width)
        last = self._cells(self.trace.layers[-1], room).cell_len if not as_words else 9
        yield from self._not_run(last, room)
        if not as_words:
            yield from self._left_over(width)
        yield from self._answer(width)

    def _header(self, as_words: bool, has_color: bool) -> Iterator[Text]:
        factor, meaning = self.trace.saving()
        yield Text(self.trace.summary(), style="bold")
        yield Text(f"{factor} {meaning}", style=ACCENT)
        dropped = ("struck" if has_color else "~word~") if as_words else GHOST_CELL
        scale = "brighter: more important" if has_color else "" if as_words else f"{SHADES}: importance"
        notes = [scale, f"{dropped}: dropped in this layer"]
        if self.trace.has_exits and self.trace.exit_threshold is not None:
            notes.append(f"┃: exit threshold {self.trace.exit_threshold:g}")
        yield Text("   ".join(note for note in notes if note), style=QUIET)
        yield Text()

    def _wrapped(self, layer: TraceLayer, room: int, has_color: bool) -> Iterator[Text]:
        """The tokens of a layer as words, broken into lines between words."""
        line = Text()
        for word in self._words(layer, has_color):
            word.truncate(room, overflow="ellipsis")
            if line and line.cell_len + word.cell_len + 1 > room:
                yield line
                line = Text()
            line.append(" " if line else "").append_text(word)
        yield line

    def _words(self, layer: TraceLayer, has_color: bool) -> list[Text]:
        """The tokens of a layer, those of one word joined where no token between them is missing."""
        kept, last = set(layer.kept), None
        words: list[Text] = []
        for token, importance in zip(layer.arrived, layer.importance, strict=True):
            part = self.parts[token]
            piece = _word(part, importance if token in kept else None, has_color)
            if last == token - 1 and not part.starts_word:
                words[-1].append_text(piece)
            else:
                words.append(Text().append_text(piece))
            last = token
        return words

    def _cells(self, layer: TraceLayer, room: int) -> Text:
        """One cell for every few tokens; how many is the same for all layers, so that rows compare."""
        per_cell = math.ceil(len(self.trace.tokens) / room)
        kept, line = set(layer.kept), Text()
        for start in range(0, len(layer.arrived), per_cell):
            chunk = slice(start, start + per_cell)
            alive = [
                importance
                for token, importance in zip(layer.arrived[chunk], layer.importance[chunk], strict=True)
                if token in kept
            ]
            if alive:
                share = position(max(alive))
                line.append(SHADES[min(3, int(share * 4))], style=on_dark(max(0.25, share)))
            else:
                line.append(GHOST_CELL, style=QUIET)
        return line

    def _side(self, layer: TraceLayer, width: int) -> Text:
        before, after = len(layer.arrived), len(layer.kept)
        count = f"{before} → {after}" if after < before else f"{after}"
        side = Text(f" {count:>{_TOKENS_WIDTH - 1}}")
        if layer.uncertainty is None or width < _TOKENS_WIDTH + _BAR_WIDTH:
            return side
        leaves = layer.index == self.trace.exit_layer
        style = ACCENT if leaves else ""
        side.append(f"  {layer.uncertainty:.2f} ", style=style)
        side.append_text(self._bar(layer.uncertainty, _BAR_WIDTH - 7, style))
        if width >= _TOKENS_WIDTH + _BAR_WIDTH + _ANSWER_WIDTH and layer.probabilities is not None:
            answer = shortened(self.trace.answer(layer.probabilities), _ANSWER_WIDTH - 11)
            side.append(f"  {answer} {self.trace.confidence(layer.probabilities)}", style=style or QUIET)
        return side

    def _bar(self, uncertainty: float, width: int, style: str) -> Text:
        """Uncertainty as a bar, with a tick where the threshold stands."""
        filled, bar = round(uncertainty * width), Text()
        threshold = self.trace.exit_threshold
        tick = None if threshold is None else min(width - 1, int(threshold * width))
        for i in range(width):
            mark = "┃" if i == tick else ("━" if i < filled else "╌")
            bar.append(mark, style="cyan" if i == tick else style or ("" if i < filled else QUIET))
        return bar

    def _exit_line(self, width: int) -> Text:
        where = "left here" if self.trace.left_early else "the end"
        room = max(8, width - 30)
        words = f" {where}: {shortened(self.trace.answer(), room)} {self.trace.confidence()} "
        line = Text("━" * 4, style=ACCENT, no_wrap=True)
        line.append(words, style="bold reverse cyan")
        return line.append("━" * max(0, width - 4 - cell_len(words)), style=ACCENT)

    def _not_run(self, length: int, room: int) -> Iterator[Text]:
        for index in range(self.trace.num_layers_run, self.trace.num_layers):
            row = Text(f"{index:>2}  ", style=QUIET, no_wrap=True)
            row.append_text(_centered(Text("╱" * max(3, length), style=QUIET), room))
            yield row.append(f" {'not run':>{_TOKENS_WIDTH - 1}}", style=QUIET)

    def _left_over(self, width: int) -> Iterator[Text]:
        """The words that went deepest, in reading order, as many as two lines take."""
        chosen: list[int] = []
        for token in self.trace.ranked_tokens():
            if self.parts[token].is_wordlike:
                attempt = sorted([*chosen, token])
                if cell_len(joined(self.parts, attempt)) > 2 * width - 30:
                    break
                chosen = attempt
        yield Text()
        yield Text("went deepest  ").append(joined(self.parts, chosen), style="bold")

    def _answer(self, width: int) -> Iterator[Text]:
        if self.trace.problem_type == "regression":
            return
        yield Text()
        ranked = self.trace.ranked_labels()[:5]
        column = min(max(cell_len(label) for label, _ in ranked), width - 32)
        for label, value in ranked:
            filled = round(20 * value)
            line = Text(
                f"{set_cell_size(shortened(label, column), column)} {100 * value:5.1f} %  ", no_wrap=True
            )
            line.append("━" * filled, style=ACCENT)
            yield line.append("╌" * (20 - filled), style=QUIET)
        if (rest := len(self.trace.labels) - len(ranked)) > 0:
            yield Text(f"and {rest} more labels", style=QUIET)


def _word(part: Piece, importance: float | None, has_color: bool) -> Text:
    if importance is None:
        return Text(part.text, style=f"{QUIET} strike") if has_color else Text(f"~{part.text}~")
    color = on_dark(position(importance))
    return Text(part.text, style=f"{_ink(color)} on {color}") if has_color else Text(part.text)


def _ink(color: str) -> str:
    ink = ink_on(color)
    return "#1c1915" if ink != "#ffffff" else ink


def _centered(line: Text, room: int) -> Text:
    left = max(0, (room - line.cell_len) // 2)
    result = Text(" " * left)
    result.append_text(line)
    return result.append(" " * max(0, room - left - line.cell_len))

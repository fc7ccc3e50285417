"""The pyramid of one text as one HTML file that needs nothing else: no network, no library."""

import json
from html import escape

from magic_pyramid.report.page_assets import SCRIPT, STYLE
from magic_pyramid.report.palette import LEVELS, level
from magic_pyramid.report.trace import Trace, TraceLayer
from magic_pyramid.report.words import Piece, joined, pieces, shortened

MOST_WORD_CELLS = 40
"""Texts with more tokens are drawn as thin cells without words."""
MOST_LABELS = 10
"""Labels shown with a bar; the others are counted."""


def pyramid_page(trace: Trace) -> str:
    """A whole HTML document; every word of the text and every label in it is escaped."""
    parts = pieces(trace.tokens)
    title = f"{shortened(trace.answer(), 60)} {trace.confidence()}".strip()
    sections = [
        _header(trace),
        _pyramid(trace, parts),
        _reader(trace, parts),
        _answer(trace),
        _layer_table(trace, parts),
        _token_table(trace, parts),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} - magic_pyramid</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + f'\n</main>\n<script type="application/json" id="trace">{_data(trace, parts)}</script>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _data(trace: Trace, parts: list[Piece]) -> str:
    """What the script needs; ``<`` is written so that no text can end the element."""
    data = {
        "words": [part.text for part in parts],
        "fell": trace.dropped_at(),
        "importance": [[round(value, 3) for value in row] for row in trace.importance_by_token()],
        "exitLayer": trace.exit_layer,
    }
    return (
        json.dumps(data, ensure_ascii=False)
        .replace("<", "\\u003c")
        .replace("\u2028", "")
        .replace("\u2029", "")
    )


def _header(trace: Trace) -> str:
    factor, meaning = trace.saving()
    confidence = f" <span class=accent>{trace.confidence()}</span>" if trace.confidence() else ""
    return (
        f"<header><div><h1>{escape(trace.answer())}{confidence}</h1><p>{escape(trace.summary())}</p></div>"
        f"<div class=saving><strong>{factor}</strong><p>{meaning}</p></div></header>"
    )


def _pyramid(trace: Trace, parts: list[Piece]) -> str:
    """The picture; hidden from screen readers, which get the tables instead."""
    kind = "words" if len(parts) <= MOST_WORD_CELLS else "thin"
    rows = "".join(_row(layer, parts, kind, len(trace.tokens)) for layer in trace.layers)
    where = "left here" if trace.left_early else "the end"
    answer = escape(f"{where}: {trace.answer()} {trace.confidence()}".strip())
    share = 100 * len(trace.layers[-1].kept) / len(trace.tokens)
    rest = "".join(
        f'<div class="row idle"><b>{index}</b><div class=cells><i style="width:{share:.2f}%"></i></div>'
        "<span>not run</span></div>"
        for index in range(trace.num_layers_run, trace.num_layers)
    )
    scale = "".join(f"<i class=l{step}></i>" for step in range(LEVELS))
    return (
        f'<section class="pyramid {kind}" aria-hidden=true>'
        '<div class="row head"><b>layer</b><div></div><span>tokens</span></div>'
        f"{rows}<div class=exit><span>{answer}</span></div>{rest}"
        f"<p class=legend>importance <span class=scale>¼{scale}8</span> (1 = the average token) "
        "<s>dropped</s> in this layer</p></section>"
    )


def _row(layer: TraceLayer, parts: list[Piece], kind: str, num_tokens: int) -> str:
    kept, arrived, cells = set(layer.kept), set(layer.arrived), []
    for token, importance in zip(layer.arrived, layer.importance, strict=True):
        style = f"l{level(importance)}" if token in kept else "fell"
        style += " on" if not parts[token].starts_word and token - 1 in arrived else ""
        word = escape(parts[token].text) if kind == "words" else ""
        cells.append(f'<i class="{style}" data-t={token}>{word}</i>')
    width = 100 * len(layer.arrived) / num_tokens
    size = f' style="width:{width:.2f}%"' if kind == "thin" else ""
    before, after = len(layer.arrived), len(layer.kept)
    count = f"{before} → {after}" if after < before else f"{after}"
    return (
        f"<div class=row><b>{layer.index}</b><div class=cells>"
        f"<div class=strip{size}>{''.join(cells)}</div></div><span>{count}</span></div>"
    )


def _reader(trace: Trace, parts: list[Piece]) -> str:
    """The text itself: each token can be hovered, tapped, or reached with the arrow keys."""
    fell, importance = trace.dropped_at(), trace.importance_by_token()
    words = []
    for token, part in enumerate(parts):
        depth = len(importance[token]) / trace.num_layers_run
        fate = f"dropped in layer {fell[token]}" if fell[token] is not None else "kept to the end"
        style = f"d{max(1, round(4 * depth))}" if fell[token] is not None else "d5"
        space = " " if part.starts_word and token else ""
        first = ' tabindex="0"' if token == 0 else ' tabindex="-1"'
        words.append(
            f'{space}<span role="option" aria-selected="false" class="{style}"{first} data-t={token} '
            f'aria-label="{escape(part.text)}, {fate}">{escape(part.text)}</span>'
        )
    return (
        "<section><h2>The text</h2>"
        "<p class=hint>Fainter words fell earlier. Hover, tap, or use the arrow keys.</p>"
        f'<div class=reader role=listbox aria-label="tokens">{"".join(words)}</div>'
        "<div id=detail role=status aria-live=polite class=detail>"
        "Choose a token to see its importance layer by layer.</div>"
        "</section>"
    )


def _answer(trace: Trace) -> str:
    if trace.problem_type == "regression":
        return ""
    ranked = trace.ranked_labels()
    rows = "".join(
        f"<tr><th scope=row>{escape(label)}</th><td class=number>{100 * value:.1f} %</td>"
        f'<td class=bar><i style="width:{100 * value:.1f}%"></i></td></tr>'
        for label, value in ranked[:MOST_LABELS]
    )
    more = len(ranked) - MOST_LABELS
    note = f"<p class=hint>and {more} more labels</p>" if more > 0 else ""
    return f"<section><h2>The answer</h2><table class=bars>{rows}</table>{note}</section>"


def _layer_table(trace: Trace, parts: list[Piece]) -> str:
    exits = trace.has_exits
    head = "<th scope=col>layer<th scope=col>tokens kept<th scope=col class=wide>"
    head += "<th scope=col>uncertainty<th scope=col class=wide><th scope=col>answer" if exits else ""
    rows = "".join(_layer_row(trace, layer, parts) for layer in trace.layers)
    threshold = ""
    if exits and trace.exit_threshold is not None:
        threshold = (
            f"<p class=hint>The text leaves at the first layer whose uncertainty is at most "
            f"{trace.exit_threshold:g} (the mark in the bars).</p>"
        )
    return (
        f"<section><h2>Layer by layer</h2>{threshold}<div class=scroll><table class=layers><thead><tr>{head}"
        f"<th scope=col class=dropped>dropped</thead><tbody>{rows}</tbody></table></div></section>"
    )


def _layer_row(trace: Trace, layer: TraceLayer, parts: list[Piece]) -> str:
    share = 100 * len(layer.kept) / len(trace.tokens)
    cells = (
        f"<th scope=row>{layer.index}<td class=number>{len(layer.kept)} of {len(layer.arrived)}"
        f'<td class=bar><i class=alive style="width:{share:.1f}%"></i>'
    )
    if trace.has_exits and layer.uncertainty is None:
        cells += "<td class=number>-<td><td>"
    elif layer.uncertainty is not None:
        tick = ""
        if trace.exit_threshold is not None:
            tick = f'<u style="left:{100 * trace.exit_threshold:.1f}%"></u>'
        answer = trace.answer(layer.probabilities) if layer.probabilities is not None else ""
        confidence = trace.confidence(layer.probabilities) if layer.probabilities is not None else ""
        cells += (
            f"<td class=number>{layer.uncertainty:.3f}<td class=bar>"
            f'<i style="width:{100 * layer.uncertainty:.1f}%"></i>{tick}'
            f"<td class=head>{escape(shortened(answer, 32))} {confidence}"
        )
    dropped = escape(shortened(joined(parts, layer.dropped), 90)) or "-"
    mark = " class=here" if layer.index == trace.exit_layer else ""
    return f"<tr{mark}>{cells}<td class=dropped>{dropped}</tr>"


def _token_table(trace: Trace, parts: list[Piece]) -> str:
    head = "".join(f"<th scope=col>{layer.index}" for layer in trace.layers)
    fell = trace.dropped_at()
    rows = []
    for token, values in enumerate(trace.importance_by_token()):
        fate = f"layer {fell[token]}" if fell[token] is not None else "kept"
        numbers = "".join(f"<td class=l{level(value)}>{value:.2f}" for value in values)
        numbers += "<td>" * (trace.num_layers_run - len(values))
        rows.append(f"<tr><th scope=row>{escape(parts[token].text)}<td>{fate}{numbers}</tr>")
    return (
        "<section><details><summary>Importance of every token in every layer</summary><div class=scroll>"
        f"<table class=tokens><thead><tr><th scope=col>token<th scope=col>dropped in{head}</thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></details></section>"
    )

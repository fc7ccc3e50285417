"""Evaluation rows as tables, for the terminal and as Markdown; the baseline is always named."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from magic_pyramid.errors import InputError

Row = Mapping[str, Any]
"""One evaluation, with the keys of ``evaluate --json``; a missing key is an empty cell."""

BASELINE = (
    "Dense: the same weights in the same engine with pruning and exits off. "
    "FLOPs per text; padding is not counted unless a column says so."
)
"""What every speed-up is measured against."""
FULL_DEPTH = " Full depth: a dense encoder with all the layers of the one that the student was cut from."
"""What a student is measured against beside that."""
LENGTHS = ("1-35", "36-70", ">70")
"""Length buckets of the paper, in tokens."""
EMPTY = "-"


def _percent(value: Any) -> str:
    return f"{100 * value:.1f}"


def _times(value: Any) -> str:
    return f"{value:.2f}x"


def _gflops(value: Any) -> str:
    return f"{value:.3g}"


def _one_decimal(value: Any) -> str:
    return f"{value:.1f}"


COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("setting", "setting", str),
    ("accuracy", "accuracy %", _percent),
    ("dense_accuracy", "dense %", _percent),
    ("exact_match", "exact match %", _percent),
    ("micro_f1", "micro F1 %", _percent),
    ("spearman", "Spearman %", _percent),
    ("gflops", "GFLOPs", _gflops),
    ("dense_gflops", "dense", _gflops),
    ("flops_speedup", "fewer FLOPs", _times),
    ("flops_speedup_padded", "fewer, padded", _times),
    ("flops_speedup_base", "fewer, full depth", _times),
    ("wall_clock_speedup", "faster", _times),
    ("mean_layers", "layers", _one_decimal),
    ("mean_kept_tokens", "kept tokens", _one_decimal),
    ("num_examples", "texts", str),
)
"""Key, heading and format of each column; a column that no row fills is left out."""

LENGTH_COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("setting", "setting", str),
    ("length", "tokens", str),
    ("num_examples", "texts", str),
    ("accuracy", "accuracy %", _percent),
    ("dense_accuracy", "dense %", _percent),
    ("gflops", "GFLOPs", _gflops),
    ("dense_gflops", "dense", _gflops),
    ("flops_speedup", "fewer FLOPs", _times),
    ("wall_clock_speedup", "faster", _times),
    ("mean_layers", "layers", _one_decimal),
    ("mean_kept_tokens", "kept tokens", _one_decimal),
)
"""The same for the buckets by length."""


def evaluation_renderable(rows: Sequence[Row], *, title: str | None = None) -> RenderableType:
    """What ``rich`` prints: the main table, the table by length where there is one, and the baseline."""
    parts: list[RenderableType] = [_rich_table(rows, COLUMNS, title)]
    if buckets := rows_by_length(rows):
        parts += [Text(), _rich_table(buckets, LENGTH_COLUMNS, "by length of the text")]
    return Group(*parts, Text(), Text(_baselines(rows), style="bright_black"))


def markdown_table(rows: Sequence[Row], *, caption: str | None = None) -> str:
    """The main table in Markdown, followed by its caption (the baseline unless another is given)."""
    return f"{_markdown(rows, COLUMNS)}\n\n{_baselines(rows) if caption is None else caption}\n"


def _baselines(rows: Sequence[Row]) -> str:
    return BASELINE + (FULL_DEPTH if any("base_layers" in row for row in rows) else "")


def markdown_length_table(rows: Sequence[Row]) -> str:
    """The table by length in Markdown; empty when no row has buckets."""
    buckets = rows_by_length(rows)
    return f"{_markdown(buckets, LENGTH_COLUMNS)}\n" if buckets else ""


def rows_by_length(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row per setting and bucket, shortest texts first; empty buckets are left out."""
    result = []
    for row in rows:
        buckets = row.get("by_length") or {}
        for length in LENGTHS:
            bucket = buckets.get(length)
            if bucket and bucket.get("num_examples"):
                kept = {key: row[key] for key in ("setting", "metric") if key in row}
                result.append({**kept, "length": length, **bucket})
    return result


def _cells(
    rows: Sequence[Row], columns: Sequence[tuple[str, str, Callable[[Any], str]]]
) -> tuple[list[str], list[list[str]]]:
    if not rows:
        raise InputError("a table needs at least one row; evaluate something first")
    used = [column for column in columns if any(row.get(column[0]) is not None for row in rows)]
    body = [
        [write(row[key]) if row.get(key) is not None else EMPTY for key, _, write in used] for row in rows
    ]
    # Rows of one table are of one task, and what it calls quality is written where "accuracy" stands.
    metric = next((row["metric"] for row in rows if "metric" in row), "accuracy")
    headings = [f"{metric} %" if key == "accuracy" else heading for key, heading, _ in used]
    return headings, body


def _rich_table(
    rows: Sequence[Row], columns: Sequence[tuple[str, str, Callable[[Any], str]]], title: str | None
) -> Table:
    headings, body = _cells(rows, columns)
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for heading in headings:
        is_name = heading in ("setting", "tokens")
        side: Literal["left", "right"] = "left" if is_name else "right"
        style = "bold cyan" if heading in ("fewer FLOPs", "faster") else ""
        short = heading.replace("accuracy", "acc.").replace(" ", "\n")  # so that the table fits 80 columns
        table.add_column(short, justify=side, header_style="bright_black", style=style, no_wrap=is_name)
    for cells in body:
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _markdown(rows: Sequence[Row], columns: Sequence[tuple[str, str, Callable[[Any], str]]]) -> str:
    headings, body = _cells(rows, columns)
    rule = [":---" if heading in ("setting", "tokens") else "---:" for heading in headings]
    lines = [headings, rule, *([cell.replace("|", "\\|") for cell in cells] for cells in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

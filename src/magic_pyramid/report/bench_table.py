"""What the bench measured as tables, for the terminal and as Markdown; every speed-up names its baseline."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

MAIN_BATCH = 32
"""Batch size of the speed-ups in the table, where it was measured."""
EMPTY = "-"

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], str]]
"""Heading, and the cell of a row."""


def bench_renderable(result: Mapping[str, Any]) -> RenderableType:
    """What ``rich`` prints: speed, cost, growth by length, and what did not run."""
    parts: list[RenderableType] = []
    for title, columns, rows in _tables(result):
        parts += [_rich_table(title, columns, rows), Text()]
    notes = [*_notes(result), *_absent(result)]
    return Group(*parts, *(Text(note, style="bright_black") for note in notes))


def bench_markdown(result: Mapping[str, Any]) -> str:
    """The same as Markdown, under a head that says how it was measured."""
    parts = [_head(result["provenance"])]
    for title, columns, rows in _tables(result):
        headings = [heading for heading, _ in columns]
        rule = [":---", *["---:"] * (len(columns) - 1)]
        lines = [headings, rule, *([cell(row) for _, cell in columns] for row in rows)]
        parts.append(f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    parts += _notes(result)
    if absent := _absent(result):
        parts.append("\n".join(f"- {line}" for line in absent))
    return "\n\n".join(parts) + "\n"


def contender_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each contender and number of threads: that of the main batch size, with all throughputs."""
    grouped: dict[tuple[str, int], dict[int, Row]] = {}
    for row in result["rows"]:
        grouped.setdefault((row["name"], row["threads"]), {})[row["batch_size"]] = row
    return [
        {
            **by_size[main_batch(by_size)],
            "by_batch": {size: row["throughput"] for size, row in by_size.items()},
        }
        for by_size in grouped.values()
    ]


def main_batch(sizes: Sequence[int] | Mapping[int, Any]) -> int:
    """32 where it was measured, else the largest."""
    return MAIN_BATCH if MAIN_BATCH in sizes else max(sizes)


def _tables(result: Mapping[str, Any]) -> list[tuple[str, list[Column], Sequence[Row]]]:
    provenance, rows = result["provenance"], contender_rows(result)
    if not rows:
        return []
    main = main_batch(provenance["batch_sizes"])
    tables: list[tuple[str, list[Column], Sequence[Row]]] = [
        ("Speed", _speed_columns(provenance, main), rows),
        (f"Cost, at batch size {main}", _cost_columns(), rows),
    ]
    if result["growth"]:
        lengths = [str(length) for length in provenance["lengths"]]
        columns = [*_names(), *((f"{length} tokens", _rate(length)) for length in lengths)]
        tables.append(("Random sequences/s at batch size 1, by length", columns, result["growth"]))
    return tables


def _names() -> list[Column]:
    return [("engine", lambda row: row["name"]), ("threads", lambda row: str(row["threads"]))]


def _speed_columns(provenance: Mapping[str, Any], main: int) -> list[Column]:
    def batch(size: int) -> Column:
        return f"texts/s, batch {size}", lambda row: _short(row["by_batch"].get(size))

    def latency(name: str) -> Column:
        return f"{name} ms", lambda row: _short(row["latency_ms"][name])

    return [
        *_names(),
        (f"{provenance['metric']} %", lambda row: f"{100 * row['accuracy']:.1f}"),
        *(batch(size) for size in provenance["batch_sizes"]),
        *(latency(name) for name in ("p50", "p95", "p99")),
        (f"x own dense, batch {main}", lambda row: _times(row["speedup_own_dense"])),
        (f"x best dense peer, batch {main}", lambda row: _times(row["speedup_best_dense_peer"])),
        ("x best dense peer, p50", lambda row: _times(row["latency_speedup_best_dense_peer"])),
    ]


def _cost_columns() -> list[Column]:
    return [
        *_names(),
        ("peak memory MB", lambda row: f"{row['peak_memory_mb']:.0f}"),
        ("cold start s", lambda row: f"{row['cold_start_s']:.1f}"),
        ("GFLOPs a text", lambda row: _short(row["gflops"])),
        ("% of fp32 peak", lambda row: f"{100 * row['share_of_peak']:.0f}"),
        ("padding %", lambda row: f"{100 * row['padding_share']:.0f}"),
        ("same answers %", lambda row: f"{100 * row['agreement']:.1f}"),
        ("logits differ by", lambda row: f"{row['logit_difference']:.1g}"),
    ]


def _rate(length: str) -> Callable[[Row], str]:
    return lambda row: _short(row["throughput"].get(length))


def _short(value: float | None) -> str:
    if value is None:
        return EMPTY
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _times(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.2f}"


def _rich_table(title: str, columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for place, (heading, _) in enumerate(columns):
        style = "bold cyan" if heading.startswith("x ") else ""
        table.add_column(
            heading, justify="right" if place else "left", header_style="bright_black", style=style,
            no_wrap=place == 0,
        )  # fmt: skip
    for row in rows:
        table.add_row(*(Text(cell(row)) for _, cell in columns))
    return table


def _head(provenance: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    lines = [f"- {key}: {value}" for key, value in _described(provenance)]
    command = [f"- command: `{provenance['command']}`"] if provenance.get("command") else []
    return "\n".join([*command, *lines, f"- versions: {versions}"])


def _described(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    peaks = [
        f"{found['gflops_per_s']:.0f} GFLOP/s at {threads} threads "
        f"({found['library']}, {found['size']} square)"
        for threads, found in provenance["peak"].items()
    ]
    texts = (
        f"{provenance['num_texts']}, {provenance['mean_tokens']:.1f} tokens on average, "
        f"the longest {provenance['longest_tokens']}"
    )
    return [
        ("commit", str(provenance["commit"])),
        ("machine", f"{provenance['machine']}, {provenance['cores']} cores usable"),
        ("measured fp32 peak", "; ".join(peaks)),
        ("texts", texts),
        ("adaptive setting", f"exit threshold {provenance['exit_threshold']}, "
         f"prune scale {provenance['prune_scale']}"),
        ("repeats", f"{provenance['repeats']}, alternating; seed {provenance['seed']}"),
        ("warm-up", provenance["warm_up"]),
    ]  # fmt: skip


def _notes(result: Mapping[str, Any]) -> list[str]:
    """The baselines by name, and what the columns leave out."""
    rows = contender_rows(result)
    if not rows:
        return []
    main = main_batch(result["provenance"]["batch_sizes"])
    peers = {(row["threads"], row["best_dense_peer"], row["best_dense_peer_latency"]) for row in rows}
    named = [
        f"at {threads} threads {fastest} (batch {main}) and {quickest} (p50 of single texts)"
        for threads, fastest, quickest in sorted(peers, key=str)
        if fastest
    ]
    notes = [
        "Own dense: the same engine and precision with pruning and exits off, without padding. "
        + (f"Best dense peer, of any precision: {'; '.join(named)}." if named else "No peer ran."),
        "Medians. Latency is of single texts. GFLOPs and the share of the peak leave padding out. "
        "Memory is the highest of the contender's whole process; the cold start runs from starting it to its "
        "first answer.",
    ]
    if tokenising := sorted({row["name"] for row in rows if row["includes_tokenising"]}):
        notes.append(f"Tokenising is part of the time of {', '.join(tokenising)} only.")
    return notes


def _absent(result: Mapping[str, Any]) -> list[str]:
    return [
        *(f"skipped {item['name']}: {item['reason']}" for item in result["skipped"]),
        *(f"refused {item['name']}: {item['reason']}" for item in result["refused"]),
    ]

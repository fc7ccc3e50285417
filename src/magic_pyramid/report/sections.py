"""A report of words, tables and pictures: as Markdown, or as one HTML file that needs nothing else."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from magic_pyramid.report.page_assets import STYLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table of texts, and where its numbers come from."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    printed: frozenset[int] = frozenset()
    """Columns that stand in a paper and were not measured here."""
    source: str = ""
    """Command, commit, machine and whatever else one must know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what stands under it, in this order."""

    title: str
    words: Sequence[str] = ()
    """Paragraphs."""
    grids: Sequence[tuple[str, Grid]] = ()
    """Tables and the line above each of them."""
    picture: Path | None = None
    """A PNG file."""
    caption: str = ""
    """Under the picture, and read out in place of it."""


def report_markdown(title: str, sections: Sequence[Section], *, folder: Path) -> str:
    """The report as Markdown; pictures are named as they lie under ``folder``."""
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.title}", *section.words]
        for name, grid in section.grids:
            parts += [f"**{name}**", _markdown_grid(grid)]
            parts += [f"<sub>{grid.source}</sub>"] if grid.source else []
        if section.picture is not None:
            parts += [
                f"![{section.caption}]({section.picture.relative_to(folder).as_posix()})",
                section.caption,
            ]
    return "\n\n".join(parts) + "\n"


def report_html(title: str, sections: Sequence[Section]) -> str:
    """The report as a whole HTML document, its pictures inside."""
    links = "".join(f"<a href=#s{place}>{escape(s.title)}</a>" for place, s in enumerate(sections))
    body = "".join(_html_section(place, section) for place, section in enumerate(sections))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} - magic_pyramid</title>\n<style>{STYLE}{_STYLE}</style>\n</head>\n<body>\n"
        f"<main><h1>{escape(title)}</h1><nav>{links}</nav>\n{body}</main>\n</body>\n</html>\n"
    )


def _markdown_grid(grid: Grid) -> str:
    headings = [f"*{name}*" if place in grid.printed else name for place, name in enumerate(grid.headings)]
    rule = [":---", *["---:"] * (len(headings) - 1)]
    lines = [headings, rule, *([cell.replace("|", "\\|") for cell in row] for row in grid.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _html_section(place: int, section: Section) -> str:
    words = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in section.words)
    grids = "".join(_html_grid(name, grid) for name, grid in section.grids)
    picture = ""
    if section.picture is not None:
        data = base64.b64encode(section.picture.read_bytes()).decode()
        caption = escape(section.caption)
        picture = (
            f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}'
            "</figcaption></figure>"
        )
    return f"<section id=s{place}><h2>{escape(section.title)}</h2>{words}{grids}{picture}</section>\n"


def _html_grid(name: str, grid: Grid) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        marks = [" class=printed" if place in grid.printed else "" for place in range(len(row))]
        return "".join(f"<{tag}{mark}>{escape(cell)}</{tag}>" for cell, mark in zip(row, marks, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in grid.rows)
    source = f"<p class=source>{escape(grid.source)}</p>" if grid.source else ""
    return (
        f"<h3>{escape(name)}</h3><div class=scroll><table>"
        f"<thead><tr>{cells(grid.headings, 'th')}</tr></thead><tbody>{body}</tbody></table></div>{source}"
    )


_STYLE = """
main{max-width:84rem}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:.75rem 0 1rem;font-size:.9rem}
nav a{color:var(--exit)}
h3{font-size:.95rem;margin:1.6rem 0 .3rem}
section p{max-width:60rem}
table{width:auto}
th,td{padding:.28rem 1rem .28rem 0;white-space:nowrap;font-variant-numeric:tabular-nums;text-align:right}
th:first-child,td:first-child{text-align:left}
.printed{color:var(--muted);font-style:italic}
.source,figcaption{color:var(--muted);font-size:.82rem}
figure{margin:1rem 0}
img{max-width:100%;height:auto;border:1px solid var(--line);border-radius:.4rem}
"""

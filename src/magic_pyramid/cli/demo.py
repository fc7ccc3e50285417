"""`magic-pyramid demo`: measure the packaged model on real texts, and draw one pyramid."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.text import Text

from magic_pyramid.cli.explain import check_target, draw_files
from magic_pyramid.cli.options import DEMO, JsonOption, ThreadsOption
from magic_pyramid.cli.output import print_json, say, show
from magic_pyramid.data import Example

_DRAWN_WORDS = range(14, 26)
"""A text of so many words fills a terminal's width, and no more."""

EXAMPLES = (
    "magic-pyramid demo",
    "magic-pyramid demo --picture pyramid.png",
    "magic-pyramid demo --json",
)
"""Shown by ``--help``."""


def demo(
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw the pyramid of one text into this picture too.")
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=0, help="Timed runs of each side, alternating; 0 times nothing.")
    ] = 3,
    max_rows: Annotated[
        int | None, typer.Option("--max-rows", min=2, help="Use at most so many texts of each set.")
    ] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the packaged demo model against its own dense twin, and draw the pyramid of one text.

    Rows: bert (all tokens, all layers), ltp (tokens dropped), exits (left early), magic_pyramid (both);
    the same weights in each.
    """
    check_target(picture)
    from magic_pyramid.classifier import Classifier, use_threads
    from magic_pyramid.data.sampling import subset
    from magic_pyramid.demo import demo_data, demo_rows
    from magic_pyramid.report.table import evaluation_renderable
    from magic_pyramid.report.terminal import pyramid_renderable

    if threads is not None:
        use_threads(threads)
    classifier = Classifier.from_pretrained(DEMO)
    sets = demo_data()
    if max_rows is not None:
        sets = {name: subset(rows, rows=max_rows, seed=0) for name, rows in sets.items()}
    examples = [example for rows in sets.values() for example in rows]
    counts = ", ".join(f"{len(rows):,} of {name}" for name, rows in sets.items())
    say(f"Measuring four settings of the same weights on {len(examples):,} test texts: {counts}")
    table = demo_rows(cast("Any", classifier), examples, repeats=repeats)
    trace = None
    if picture is not None or not as_json:
        trace = classifier.explain(drawn_example(examples).inputs)
        draw_files(trace, png=picture, html=None)
    if as_json:
        print_json(table)
    else:
        assert trace is not None
        show(evaluation_renderable(table["rows"]), Text(), pyramid_renderable(trace))


def drawn_example(examples: Sequence[Example]) -> Example:
    """The first text that is neither too short nor too long for a picture; else the first."""
    fitting = (example for example in examples if len(example.text.split()) in _DRAWN_WORDS)
    return next(fitting, examples[0])

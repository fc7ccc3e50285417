"""`magic-pyramid explain`: the pyramid of one text, in the terminal and as pictures."""

from pathlib import Path
from typing import Annotated, Any

import typer

from magic_pyramid.cli.options import (
    JsonOption,
    ModelArgument,
    ScaleOption,
    SpeedOption,
    ThresholdOption,
    knobs,
)
from magic_pyramid.cli.output import PICTURE_SUFFIXES, check_target, print_json, say, show
from magic_pyramid.errors import InputError

EXAMPLES = (
    'magic-pyramid explain demo "A quiet, lovely film."',
    'magic-pyramid explain demo "A quiet, lovely film." --png pyramid.png --html pyramid.html',
    'magic-pyramid explain demo "A quiet, lovely film." --attention attention.png --layer 2',
)
"""Shown by ``--help``."""


def explain(
    model: ModelArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", show_default=False, help="The text to follow.")],
    text_pair: Annotated[
        str | None, typer.Option("--text-pair", metavar="TEXT", help="The second text of a pair.")
    ] = None,
    exit_threshold: ThresholdOption = None,
    prune_scale: ScaleOption = None,
    speed: SpeedOption = None,
    png: Annotated[Path | None, typer.Option("--png", help="Draw the pyramid into this picture.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the pyramid as one self-contained page.")
    ] = None,
    attention: Annotated[
        Path | None, typer.Option("--attention", help="Draw the attention of one layer into this picture.")
    ] = None,
    layer: Annotated[
        int, typer.Option("--layer", min=0, help="Layer of the attention picture, counted from 0.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show where each token of a text was dropped, where the text left, and what that cost."""
    given = knobs(exit_threshold, prune_scale, speed)
    for path in (png, attention):
        check_target(path, suffixes=PICTURE_SUFFIXES)
    check_target(html)
    from magic_pyramid.classifier import Classifier

    inputs = text if text_pair is None else (text, text_pair)
    if not all(part.strip() for part in (text, text_pair or text)):
        raise InputError("the text is empty; give at least one word")
    classifier = Classifier.from_pretrained(model)
    trace = classifier.explain(inputs, with_attention=attention is not None, **given)
    if attention is not None:
        from magic_pyramid.report.attention import draw_attention

        draw_attention(trace, layer, attention)
        say(f"attention of layer {layer}: {attention}")
    draw_files(trace, png=png, html=html)
    if as_json:
        print_json(trace.to_dict())
        return
    from magic_pyramid.report.terminal import pyramid_renderable

    show(pyramid_renderable(trace))


def draw_files(trace: Any, *, png: Path | None, html: Path | None) -> None:
    """Draw a trace into the files that were asked for, and say where they are."""
    if png is not None:
        from magic_pyramid.report.picture import draw_pyramid

        draw_pyramid(trace, png)
        say(f"picture: {png}")
    if html is not None:
        from magic_pyramid.report.page import pyramid_page

        html.write_text(pyramid_page(trace), encoding="utf-8")
        say(f"page: {html}")

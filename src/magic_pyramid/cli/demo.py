"""`magic-pyramid demo`: measure the packaged model on real texts, and draw one pyramid."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.text import Text

from magic_pyramid.cli.explain import draw_files
from magic_pyramid.cli.options import DEMO, JsonOption, ThreadsOption
from magic_pyramid.cli.output import PICTURE_SUFFIXES, check_target, print_json, say, show
from magic_pyramid.data import Example

if TYPE_CHECKING:
    from magic_pyramid.classifier import Classifier

_DRAWN_SPEED = "fastest"
"""Of the named speeds the one at which short texts lose tokens too."""
_DRAWN_WORDS = range(16, 32)
"""A text of so many words fills a terminal's width, and little more."""
_TRIED_TEXTS = 300
_MOST_KEPT = 0.75
"""Share of its tokens that a drawn text has at most left when it leaves."""

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

    Rows: dense (all tokens, all layers), tokens only and exits only (each half of the certified setting), and
    the speeds certified, balanced and fastest; the same weights in each.
    """
    check_target(picture, suffixes=PICTURE_SUFFIXES)
    from magic_pyramid.certify.certificate import stored_certificate
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
    say(f"Measuring six settings of the same weights on {len(examples):,} test texts: {counts}")
    certificate = stored_certificate(classifier.info)
    assert certificate is not None, "the packaged model is certified"
    table = demo_rows(cast("Any", classifier), examples, repeats=repeats, say=say)
    trace = None
    if picture is not None or not as_json:
        trace = classifier.explain(drawn_example(examples, classifier).inputs, speed=_DRAWN_SPEED)
        draw_files(trace, png=picture, html=None)
    if as_json:
        print_json(table)
    else:
        assert trace is not None
        promise = Text(f"\n{certificate.sentence()}\n", style="bright_black")
        show(evaluation_renderable(table["rows"]), promise, pyramid_renderable(trace))


def drawn_example(examples: Sequence[Example], classifier: "Classifier") -> Example:
    """A text that shows both halves: the first that fits a picture, lost tokens and left early."""
    fitting = [example for example in examples if len(example.text.split()) in _DRAWN_WORDS][:_TRIED_TEXTS]
    if not fitting:
        return examples[0]
    answers = classifier.predict([example.inputs for example in fitting], speed=_DRAWN_SPEED)
    left_early = answers.exit_layer < answers.num_tokens.shape[1] - 2
    kept = answers.num_tokens[range(len(fitting)), answers.exit_layer + 1] / answers.num_tokens[:, 0]
    both = left_early & (kept <= _MOST_KEPT)
    return fitting[int(both.argmax())]

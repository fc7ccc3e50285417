import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from magic_pyramid.report.terminal import pyramid_renderable
from magic_pyramid.report.trace import Trace
from report_traces import SHORT, make_trace, many_traces


def _printed(trace: Trace, *, width: int, color: bool = False) -> str:
    stream = io.StringIO()
    system = "truecolor" if color else None
    console = Console(file=stream, width=width, force_terminal=color, color_system=system, no_color=False)
    console.print(pyramid_renderable(trace))
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("name", list(many_traces()))
def test_the_pyramid_fits_the_width_and_has_a_row_per_layer(name: str, width: int) -> None:
    trace = many_traces()[name]
    lines = _printed(trace, width=width).splitlines()
    assert max(cell_len(line) for line in lines) <= width
    numbers = [int(line[:2]) for line in lines if line[:2].strip().isdigit() and line[2:4] == "  "]
    assert numbers == list(range(trace.num_layers))
    assert sum("not run" in line for line in lines) == trace.num_layers - trace.num_layers_run


def test_dropped_words_are_marked_without_colour_and_struck_with_it() -> None:
    trace = make_trace(SHORT)
    assert "~</s>~" in _printed(trace, width=160)
    coloured = _printed(trace, width=160, color=True)
    assert "~</s>~" not in coloured
    assert "\x1b[9;90m</s>" in coloured


def test_pieces_of_one_word_stand_together() -> None:
    assert " outstay~s~ its " in _printed(make_trace(SHORT), width=160)


def test_a_long_text_becomes_cells_that_shrink_and_ends_in_words() -> None:
    printed = _printed(many_traces()["long"], width=80)
    widths = [
        sum(line.count(c) for c in "░▒▓█·") for line in printed.splitlines() if line[:2].strip().isdigit()
    ]
    run = widths[:9]
    assert run == sorted(run, reverse=True)
    assert run[0] > 4 * run[-1]
    assert "went deepest  film" in printed


def test_the_exit_line_names_answer_and_probability() -> None:
    assert "left here: positive 92.0 %" in _printed(make_trace(SHORT), width=80)
    assert "the end: positive 99.5 %" in _printed(many_traces()["never_left"], width=80)


def test_no_uncertainty_is_shown_without_exits() -> None:
    assert "┃" not in _printed(many_traces()["no_exits"], width=160)
    assert "exit threshold 0.2" in _printed(many_traces()["short"], width=160)


def test_many_labels_are_counted() -> None:
    assert "and 72 more labels" in _printed(many_traces()["many_labels"], width=80)

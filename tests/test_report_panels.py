"""Panels: every series keeps its sign, ticks are round, and what would press the rest together is cut."""

import pytest
from matplotlib.image import imread

from magic_pyramid.errors import InputError
from magic_pyramid.report.panels import COLORS, MARKERS, Axis, Panel, _scale, draw_panels, style

NAMES = [f"method {place}" for place in range(12)]


def panel(series, **axes):
    return Panel(
        title="one",
        series=series,
        across=axes.get("across", Axis(name="x", is_log=True, unit="x")),
        up=axes.get("up", Axis(name="y")),
    )


def test_a_picture_grows_by_rows_of_three_panels(tmp_path):
    series = {name: [(1.0, 80.0), (2.0 + place, 79.0 - place)] for place, name in enumerate(NAMES)}
    sizes = {}
    for count in (1, 3, 4):
        path = draw_panels([panel(series)] * count, NAMES, tmp_path / f"{count}.png", title="t", subtitle="s")
        sizes[count] = imread(path).shape[:2]
    assert sizes[3][1] > sizes[1][1]
    assert sizes[4][1] == sizes[3][1]
    assert sizes[4][0] > sizes[3][0]


def test_no_two_methods_look_alike():
    many = [str(place) for place in range(40)]
    assert len({style(name, many) for name in many}) == 40
    assert len(set(COLORS)) == len(set(MARKERS)) == 14


def test_nothing_measured_is_nothing_to_draw(tmp_path):
    with pytest.raises(InputError, match="there is nothing to draw; measure something first"):
        draw_panels([panel({"method 0": []})], NAMES, tmp_path / "p.png", title="t", subtitle="s")


@pytest.mark.parametrize(
    ("axis", "values", "ticks"),
    [
        (Axis(name="x", is_log=True, unit="x"), [1.0, 4.2], ["1x", "1.5x", "2x", "3x", "4x"]),
        (Axis(name="x", begins=0.0), [3.0, 10.0], ["0", "2", "4", "6", "8", "10"]),
        (Axis(name="x", is_whole=True), [0.0, 2.0], ["0", "1", "2"]),
        (Axis(name="x", is_whole=True), [1.0, 12.0], ["2", "4", "6", "8", "10", "12"]),
        (Axis(name="x", cut=80.0), [20.0, 90.0], ["80", "82", "84", "86", "88", "90"]),
        (Axis(name="x", cut=80.0), [20.0, 50.0], ["49.6", "49.8", "50", "50.2", "50.4"]),
        (Axis(name="x", categories=("short", "long")), [0.0, 1.0], ["short", "long"]),
        (Axis(name="x"), [5.0], ["4.96", "4.98", "5", "5.02", "5.04"]),
        (Axis(name="x"), [], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Axis(name="x", is_log=True), [], ["1", "1.5"]),
    ],
    ids=[
        "log",
        "begins",
        "whole",
        "whole and long",
        "cut",
        "all cut",
        "categories",
        "one value",
        "none",
        "none, log",
    ],
)
def test_ticks_are_round(axis, values, ticks):
    assert [words for _, words in _scale(axis, values).ticks] == ticks


def test_a_long_log_axis_has_few_ticks():
    assert len(_scale(Axis(name="x", is_log=True), [0.25, 40.0]).ticks) <= 8

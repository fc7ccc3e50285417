"""The accuracy-cost curve as a picture."""

import pytest

from magic_pyramid.errors import InputError
from magic_pyramid.report.sweep_plot import draw_sweep, unbeaten

POINTS = [
    {"accuracy": accuracy, "flops_speedup": speedup}
    for accuracy, speedup in ((0.9, 1.0), (0.91, 1.5), (0.88, 2.0), (0.87, 1.8), (0.3, 9.0))
]


def test_the_line_joins_what_nothing_beats():
    assert [point["flops_speedup"] for point in unbeaten(POINTS)] == [1.5, 2.0, 9.0]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_written(suffix, tmp_path):
    named = {"dense": POINTS[0], "certified": POINTS[1], "fastest": POINTS[4]}
    path = draw_sweep(POINTS, named, tmp_path / f"curve.{suffix}", title="a_model", metric="accuracy")
    assert path.stat().st_size > 5000


def test_no_points_make_no_picture(tmp_path):
    with pytest.raises(InputError, match="there is no setting to draw"):
        draw_sweep([], {}, tmp_path / "curve.png", title="", metric="accuracy")

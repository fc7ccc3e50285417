"""The accuracy-cost curve as a picture."""

import pytest

from magic_pyramid.errors import InputError
from magic_pyramid.report.sweep_plot import draw_sweep, places_of_names, unbeaten

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


def test_names_of_settings_that_lie_together_do_not_cover_one_another():
    names = ["certified 83.90 %, 1.38x", "balanced 83.90 %, 1.38x", "fastest 83.80 %, 1.40x"]
    heights = sorted(y for _, y in places_of_names(names, [(600.0, 200.0), (600.0, 200.0), (610.0, 201.0)]))
    assert heights[1] - heights[0] >= 12
    assert heights[2] - heights[1] >= 12
    assert all(abs(height - 200) >= 12 for height in heights)


def test_a_name_stands_below_its_point_where_nothing_is():
    assert [y for _, y in places_of_names(["dense", "fastest"], [(80.0, 100.0), (600.0, 300.0)])] == [
        115.0,
        315.0,
    ]


def test_no_points_make_no_picture(tmp_path):
    with pytest.raises(InputError, match="there is no setting to draw"):
        draw_sweep([], {}, tmp_path / "curve.png", title="", metric="accuracy")

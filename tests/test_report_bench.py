import io

import pytest
from matplotlib.image import imread
from rich.console import Console

from magic_pyramid.errors import InputError
from magic_pyramid.report.bench_plot import draw_bench
from magic_pyramid.report.bench_table import bench_markdown, bench_renderable, contender_rows
from magic_pyramid.report.growth_plot import draw_growth
from test_bench import result_of


def test_the_terminal_table_names_contenders_baselines_and_absentees():
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(bench_renderable(result_of()))
    text = " ".join(console.export_text().split())
    for words in (
        "magic_pyramid_x_adaptive",
        "at 1 threads fast_int8 (batch 32) and slow (p50 of single texts)",
        "skipped absent: not installed",
        "refused liar: its logits differ",
        "Random sequences/s at batch size 1",
    ):
        assert words in text


def test_markdown_has_the_provenance_and_the_numbers():
    text = bench_markdown(result_of())
    assert "- command: `magic-pyramid bench demo`" in text
    assert "- measured fp32 peak: 100 GFLOP/s at 1 threads (numpy, 1024 square)" in text
    assert "| magic_pyramid_x_adaptive | 1 | 75.0 | 4 | 4 | 250 | 250 | 250 | 2.00 | 4.00 | 1.60 |" in text
    assert "| slow | 1 | 75.0 | 2.5 | 0.5 | 400 | 400 | 400 | - | 0.50 | 1.00 |" in text


def test_the_main_batch_is_32_or_the_largest():
    rows = contender_rows(result_of())
    assert [row["batch_size"] for row in rows] == [32] * 4
    assert rows[0]["by_batch"] == {1: 2.0, 32: 2.0}


def test_the_plot_is_written(tmp_path):
    path = draw_bench(result_of(), tmp_path / "bench.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_run_without_contenders_has_no_plot_but_its_reasons(tmp_path):
    empty = {**result_of(), "rows": [], "growth": []}
    with pytest.raises(InputError, match="no contender was measured"):
        draw_bench(empty, tmp_path / "bench.png")
    assert "skipped absent: not installed" in bench_markdown(empty)


def test_growth_is_drawn_for_every_number_of_threads(tmp_path):
    throughput = {"16": 100.0, "64": 20.0, "256": 4.0}
    rows = [
        {"name": name, "threads": threads, "throughput": throughput}
        for name in ("magic_pyramid_x", "slow")
        for threads in (1, 2)
    ]
    one = draw_growth({**result_of(), "growth": rows[:1]}, tmp_path / "one.png")
    two = draw_growth({**result_of(), "growth": rows}, tmp_path / "two.png")
    assert one.read_bytes().startswith(b"\x89PNG")
    assert imread(two).shape[1] / imread(one).shape[1] == pytest.approx(2, abs=0.01)


def test_without_lengths_there_is_no_growth_to_draw(tmp_path):
    with pytest.raises(InputError, match="no lengths were measured"):
        draw_growth({**result_of(), "growth": []}, tmp_path / "growth.png")

"""The report has every table and picture, says what is whose number, and names no folder of this machine."""

import math
import re
from statistics import mean

import pytest

from magic_pyramid.data import Example
from magic_pyramid.report.sections import Grid, Section, report_html, report_markdown
from magic_pyramid.reproduce import pictures, report, tables
from magic_pyramid.reproduce.published import PRINTED, PRINTED_LENGTHS, is_same_dataset, printed_for
from magic_pyramid.reproduce.rows import commonest_share
from magic_pyramid.reproduce.summary import Results, Spread, points_of
from suite_results import DATASETS, METHODS, made_up, made_up_suite


@pytest.fixture(scope="module")
def found():
    return made_up()


def cells(grid: Grid, method: str) -> dict[str, str]:
    return next(dict(zip(grid.headings, row, strict=True)) for row in grid.rows if row[0] == method)


def without(results, *, method, setting, seed):
    gone = (method, setting, seed)
    rows = [row for row in results.rows if (row["method"], row["setting"], row["seed"]) != gone]
    return Results(results.suite, rows)


def test_the_rows_say_what_knowing_nothing_scores(found):
    assert cells(tables.rows_table(found[0]), "MRPC")["commonest label"] == "52.5 %"
    assert commonest_share([Example(text="a", label=label) for label in (0, 1, 1, 2)]) == 0.5
    assert commonest_share([Example(text="a", label=0.5)]) is None


def test_the_fair_comparison_has_a_row_a_method_and_a_column_a_dataset(found):
    (free, padded, clock) = tables.comparison(found[0], 0.5)
    assert free[1].headings == ["method", *DATASETS, "all"]
    assert padded[1].headings == ["method", *DATASETS]
    assert [row[0] for row in free[1].rows] == list(METHODS)
    assert "padding not counted" in free[0]
    assert "padded" in padded[0]
    assert "in turns with the dense teacher" in clock[0]
    assert re.fullmatch(r"1\.68x ± 0\.00 \([-+]\d\.\d\)", cells(free[1], "ltp")["MRPC"])
    assert cells(padded[1], "ltp")["MRPC"].startswith("3.35x")
    assert cells(clock[1], "ltp")["MRPC"].startswith("1.34x")


def test_a_seed_that_never_came_so_near_is_counted(found):
    one = without(found[0], method="ltp", setting="within 0.5", seed=1)
    assert "1 of 2 seeds" in cells(tables.comparison(one, 0.5)[0][1], "ltp")["MRPC"]
    none = without(one, method="ltp", setting="within 0.5", seed=0)
    assert cells(tables.comparison(none, 0.5)[0][1], "ltp")["MRPC"] == "never"
    rows = [row for row in none.rows if (row["dataset"], row["method"]) != ("MRPC", "ltp")]
    assert cells(tables.comparison(Results(none.suite, rows), 0.5)[0][1], "ltp")["MRPC"] == "-"


def test_over_all_datasets_the_teacher_stands_in_where_a_method_never_came_so_near(found):
    def together(results):
        return cells(tables.comparison(results, 0.5)[0][1], "ltp")["all"]

    def ratio(results, dataset):
        return mean(math.log(row["flops_speedup"]) for row in results.of(dataset, "ltp", "within 0.5"))

    results = found[0]
    expected = math.exp(mean(ratio(results, dataset) for dataset in DATASETS))
    assert together(results).startswith(f"{expected:.2f}x (")
    gone = [
        row
        for row in results.rows
        if (row["method"], row["dataset"], row["setting"]) != ("ltp", "MRPC", "within 0.5")
    ]
    expected = math.exp(
        sum(ratio(results, dataset) for dataset in DATASETS if dataset != "MRPC") / len(DATASETS)
    )
    assert together(Results(results.suite, gone)).startswith(f"{expected:.2f}x (")


def test_where_not_everything_is_timed_nothing_is_said_of_all_datasets(found):
    results = found[0]
    untimed = [
        {key: value for key, value in row.items() if "wall" not in key or row["dataset"] != "MRPC"}
        for row in results.rows
    ]
    clock = tables.comparison(Results(results.suite, untimed), 0.5)[2][1]
    assert cells(clock, "ltp")["MRPC"] == cells(clock, "ltp")["all"] == "-"
    assert cells(clock, "ltp")["AG News"] != "-"


def test_without_times_there_is_no_table_of_times(found):
    results = found[0]
    rows = [{key: value for key, value in row.items() if "wall" not in key} for row in results.rows]
    assert len(tables.comparison(Results(results.suite, rows), 0.5)) == 2


def test_a_table_says_how_long_each_method_trained_and_what_it_was_told(found):
    row = cells(tables.training_table(found[0]), "ltp")
    assert row == {
        "method": "ltp", "finetune": "3", "hard_prune": "0.5", "teacher in the later loss": "50.0 %",
        "speed-up asked for": "2x",
    }  # fmt: skip


def test_a_table_says_which_speedup_was_asked_for_and_which_was_reached(found):
    results = found[0]
    assert tables.target_table(results) is None
    rows = [
        {**row, "setting": "as trained", "quality": 0.8} if row["setting"] == "tau=0.5" else row
        for row in results.rows
        if row["method"] != "fastbert"
    ]
    grid = tables.target_table(Results(results.suite, rows))
    assert cells(grid, "top")["asked for"] == "2x"
    assert cells(grid, "top")["MRPC: accuracy % (x reached)"] == "80.0 ± 0.0 (2.20x ± 0.00)"


def test_table_3_has_the_papers_numbers_beside_ours(found):
    ours = cells(tables.main_table(found[0]), "magic_pyramid")
    assert re.fullmatch(r"\d+\.\d ± \d\.\d / 0\.656 \(3\.05x\)", ours["MRPC: accuracy % / GFLOPs (x)"])
    grid = tables.printed_table(found[0], "MRPC")
    row = cells(grid, "magic_pyramid")
    assert row["MRPC: accuracy % / GFLOPs (x)"] == ours["MRPC: accuracy % / GFLOPs (x)"]
    theirs = {grid.headings[place] for place in grid.printed}
    assert theirs == {heading for heading in grid.headings if "printed" in heading}
    assert row["printed: Magic Pyramid (2021), BERT-base-uncased"] == "83.8, dense 85.3 / 3.3 (2.77x)"
    assert (
        cells(grid, "ltp")["printed: LTP (KDD 2022), RoBERTa-base"] == "91.59 F1, dense 92.14 / 4.44 (2.10x)"
    )
    assert row["printed: ToP (KDD 2023, repository), BERT-base"] == "-"
    similarity = tables.printed_table(found[0], "STS-B")
    assert cells(similarity, "top")["printed: LTP (KDD 2022), RoBERTa-base"] == "-"
    assert "magic_pyramid" not in [row[0] for row in similarity.rows]
    assert tables.printed_table(found[0], "nobody's texts") is None


def test_table_4_has_a_column_a_threshold_and_the_papers_speedups(found):
    grid = tables.threshold_table(found[0], "AG News")
    row = cells(grid, "fastbert")
    assert (
        row["printed: Magic Pyramid (2021), BERT-base-uncased"]
        == "tau 0.1: 3.97x, tau 0.5: 10.30x, tau 0.8: 11.95x"
    )
    assert "(1.17x ± 0.00)" in row["tau 0.1: accuracy % (x)"]
    assert "bert" not in [row[0] for row in grid.rows]
    dense = made_up_suite(methods=("bert",))
    assert tables.threshold_table(made_up(dense)[0], "AG News") is None


def test_figure_1_is_a_table_too(found):
    row = cells(tables.length_table(found[0], "AG News"), "ltp")
    assert row["printed: Magic Pyramid (2021), BERT-base-uncased"] == "1.20x / 1.58x / 2.45x"
    assert row["36-70 tokens (20 texts)"].startswith("2.82x ± 0.00 (")
    assert len(tables.length_table(found[0], "MRPC").headings) == 4


def test_quality_at_a_speedup_is_chosen_on_validation(found):
    results, curves = found
    row = cells(tables.speedup_table(results, curves, "MRPC"), "bert")
    assert row["10x"] == "-"
    points = [curves["MRPC", "bert", seed] for seed in (0, 1)]
    fast = [[p for p in curve if p["validation"]["flops_speedup"] >= 2.0] for curve in points]
    best = [max(curve, key=lambda p: p["validation"]["quality"])["test"]["quality"] for curve in fast]
    assert row["2x"].startswith(f"{100 * sum(best) / 2:.1f} ± ")


def test_every_table_of_results_says_where_it_is_from(found):
    results, curves = found
    grids = [
        *(grid for _, grid in tables.comparison(results, 1.0)),
        tables.main_table(results),
        tables.printed_table(results, "MRPC"),
        tables.threshold_table(results, "AG News"),
        tables.length_table(results, "AG News"),
        tables.speedup_table(results, curves, "AG News"),
        tables.dense_table(results),
    ]
    for grid in grids:
        for words in (
            "command 1 below",
            "commit abc123",
            "Test CPU",
            "seeds 0, 1",
            "1 thread",
        ):
            assert words in grid.source


def test_every_picture_is_drawn(found, tmp_path):
    results, curves = found
    for name, picture in {
        "flops": pictures.draw_pareto(results, curves, tmp_path / "flops.png"),
        "time": pictures.draw_latency(results, tmp_path / "time.png"),
        "lengths": pictures.draw_lengths(results, tmp_path / "lengths.png"),
        "alive": pictures.draw_alive(results, tmp_path / "alive.png"),
        "exits": pictures.draw_exits(results, tmp_path / "exits.png"),
    }.items():
        assert picture == tmp_path / f"{name}.png"
        assert picture.stat().st_size > 10_000


def test_a_suite_without_times_and_exits_has_no_such_pictures(tmp_path):
    results, _ = made_up(made_up_suite(methods=("bert", "ltp")))
    rows = [{key: value for key, value in row.items() if "latency" not in key} for row in results.rows]
    bare = Results(results.suite, rows)
    assert pictures.draw_latency(bare, tmp_path / "time.png") is None
    assert pictures.draw_exits(bare, tmp_path / "exits.png") is None


def test_curves_keep_what_no_other_setting_beats_on_validation(found):
    _, curves = found
    front = pictures._front(pictures._mean_curve(curves, "MRPC", "ltp"))
    assert [x for x, _ in front] == sorted(x for x, _ in front)
    assert 2 <= len(front) <= 12


def test_curves_of_seeds_that_tried_other_settings_are_joined_by_setting(found):
    _, curves = found
    whole = pictures._mean_curve(curves, "MRPC", "ltp")
    fewer = {**curves, ("MRPC", "ltp", 1): curves["MRPC", "ltp", 1][1:]}
    assert pictures._mean_curve(fewer, "MRPC", "ltp") == whole[1:]


@pytest.fixture(scope="module")
def written(found, tmp_path_factory):
    output = tmp_path_factory.mktemp("report")
    (output / "pictures").mkdir()
    sections = report._sections(*found, output, {})
    return sections, output


def test_the_report_has_every_part(written):
    sections, output = written
    text = report_markdown("Suite made up", sections, folder=output)
    for words in (
        "Numbers from a random generator.", "Speed-up at most 0.5 points below the teacher",
        "Speed-up at most 1 point below the teacher", "table 3", "table 4", "figure 1", "Tokens alive per",
        "Where texts leave", "pictures/flops.png", "pictures/time.png", "*printed: Magic Pyramid (2021)",
        "Time: medians of 5 runs of 128 texts", "Provenance", "Command 1: magic-pyramid reproduce s.yaml",
    ):  # fmt: skip
        assert words in text, words
    assert str(output) not in text


def test_the_page_needs_nothing_else(written):
    sections, output = written
    page = report_html("Suite made up", sections)
    assert page.count("data:image/png;base64,") == 5
    assert "<th class=printed>printed: Magic Pyramid (2021), BERT-base-uncased</th>" in page
    assert str(output) not in page
    assert not re.search(r"<(?:link|script)|https?://", page)


def test_words_of_a_suite_cannot_become_markup():
    section = Section(title="<b>", words=["a & b"], grids=[("t", Grid(headings=["<i>"], rows=[["x|<u>"]]))])
    page = report_html("<s>", [section])
    assert "<b>" not in page
    assert "<u>" not in page
    assert "x\\|<u>" in report_markdown("t", [section], folder=None)


def test_printed_numbers_are_found_by_dataset_and_method():
    assert {row.dataset for row in printed_for(["ag_news", "mrpc"], ["ltp"])} == {"AG News", "MRPC"}
    assert is_same_dataset("sst2", "SST-2")
    assert not is_same_dataset("sst2", "STS-B")
    assert printed_for(["MRPC"], ["unknown"]) == []


def test_printed_numbers_say_whose_they_are():
    assert all("BERT" in row.source for row in (*PRINTED, *PRINTED_LENGTHS))
    main = {row.preset: row for row in PRINTED if row.dataset == "RTE" and row.source.startswith("Magic")}
    assert {name: row.speedup for name, row in main.items()} == {
        "bert": 1.0, "distilbert": 2.0, "ltp": 1.5, "fastbert": 1.33, "magic_pyramid": 1.72
    }  # fmt: skip


def test_printed_speedups_fit_the_printed_gflops():
    dense = {row.dataset: row.gflops for row in PRINTED if row.preset == "bert"}
    for row in PRINTED:
        if row.source.startswith("Magic") and row.gflops is not None:
            assert dense[row.dataset] / row.gflops == pytest.approx(row.speedup, abs=0.2)


def test_seeds_become_a_mean_and_a_deviation():
    assert Spread.of([]) is None
    assert Spread.of([2.0]).write(".1f", unit="x") == "2.0x"
    assert Spread.of([1.0, 3.0]).write(".2f", unit="x") == "2.00x ± 1.41"
    assert (points_of(1), points_of(0.5)) == ("1 point", "0.5 points")

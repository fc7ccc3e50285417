import io
from typing import Any

import pytest
from rich.console import Console

from magic_pyramid.config import BackboneConfig, ExitConfig, ModelConfig, PruneConfig
from magic_pyramid.errors import InputError
from magic_pyramid.report.card import CardContent, model_card
from magic_pyramid.report.table import (
    BASELINE,
    evaluation_renderable,
    markdown_length_table,
    markdown_table,
    rows_by_length,
)

BUCKET = {"num_examples": 10, "accuracy": 0.8, "gflops": 0.2, "flops_speedup": 2.5}
ROW: dict[str, Any] = {
    "setting": "magic_pyramid", "accuracy": 0.8312, "dense_accuracy": 0.8401, "gflops": 0.4567,
    "dense_gflops": 1.876, "flops_speedup": 4.108, "flops_speedup_padded": 6.2, "wall_clock_speedup": 3.456,
    "mean_layers": 5.43, "mean_kept_tokens": 17.26, "num_examples": 30,
    "by_length": {">70": {**BUCKET, "num_examples": 0}, "36-70": BUCKET, "1-35": BUCKET},
}  # fmt: skip


def test_markdown_rows_are_formatted_and_the_baseline_is_named() -> None:
    lines = markdown_table([ROW]).splitlines()
    assert (
        lines[2] == "| magic_pyramid | 83.1 | 84.0 | 0.457 | 1.88 | 4.11x | 6.20x | 3.46x | 5.4 | 17.3 | 30 |"
    )
    assert lines[-1] == BASELINE
    assert {line.count("|") for line in lines[:3]} == {12}


def test_columns_that_no_row_fills_are_left_out_and_gaps_are_dashes() -> None:
    table = markdown_table(
        [{"setting": "a|b", "accuracy": 0.5}, {"setting": "c", "gflops": 1.0}], caption="why"
    )
    assert table.splitlines() == [
        "| setting | accuracy % | GFLOPs |",
        "| :--- | ---: | ---: |",
        "| a\\|b | 50.0 | - |",
        "| c | - | 1 |",
        "",
        "why",
    ]


def test_buckets_come_shortest_first_without_the_empty_ones() -> None:
    assert [(row["setting"], row["length"]) for row in rows_by_length([ROW])] == [
        ("magic_pyramid", "1-35"),
        ("magic_pyramid", "36-70"),
    ]
    assert markdown_length_table([ROW]).count("\n") == 4
    assert markdown_length_table([{"accuracy": 1.0}]) == ""


def test_the_terminal_table_fits_80_columns_and_names_the_baseline() -> None:
    stream = io.StringIO()
    Console(file=stream, width=80).print(
        evaluation_renderable([ROW, {**ROW, "setting": "bert"}], title="reviews")
    )
    printed = stream.getvalue()
    assert "magic_pyramid " in printed
    assert "3.46x" in printed
    assert "by length of the text" in printed
    assert "same weights in the same engine" in printed
    assert "…" not in printed


def test_quality_has_the_name_of_its_metric() -> None:
    row = {
        "accuracy": 0.5,
        "metric": "Pearson correlation",
        "by_length": {"1-35": {"num_examples": 2, "accuracy": 0.4}},
    }
    assert markdown_table([row]).startswith("| Pearson correlation % |")
    assert markdown_length_table([row]).startswith("| tokens | texts | Pearson correlation % |")


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(InputError, match="a table needs at least one row"):
        markdown_table([])


def _config(**changes: Any) -> ModelConfig:
    backbone = BackboneConfig(
        model_type="bert", vocab_size=30, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "backbone": backbone, "labels": ("negative", "positive"), "max_length": 32,
        "prune": PruneConfig(), "exit": ExitConfig(),
    }  # fmt: skip
    return ModelConfig(**{**settings, **changes})


def test_the_card_holds_everything_that_was_given() -> None:
    card = model_card(
        _config(),
        CardContent(
            name="runs/reviews", base_model="org/encoder", license="mit", datasets=("reviews: long",),
            languages=("en",),
            rows=[ROW], provenance={"threads": 2, "command": "evaluate runs/reviews", "note": "quiet"},
            calibration={
                "exit_threshold": 0.3, "split": "validation", "num_examples": 500,
                "quality": 0.896, "dense_quality": 0.9,
                "at_target": {
                    "target_speedup": 4.0, "flops_speedup": 4.13, "quality": 0.885, "exit_threshold": 0.6,
                    "prune_scale": 1.5,
                },
            },
            stages=({"stage": "finetune", "epochs": 3.0}, {"stage": "distill_exits", "loss": 0.123456}),
            limitations=("English only.",), attribution=("Reviews, CC BY 4.0.",),
        ),
    )  # fmt: skip
    for line in (
        'license: "mit"', 'language: ["en"]', 'library_name: "magic_pyramid"',
        'pipeline_tag: "text-classification"',
        'datasets: ["reviews: long"]', "# runs/reviews",
        'classifier = Classifier.from_pretrained("runs/reviews")',
        "- command: `evaluate runs/reviews`", "- threads: `2`", "- note: `quiet`",
        "| stage | epochs | loss |",
        "| distill_exits | - | 0.1235 |", "- English only.", "- Reviews, CC BY 4.0.",
    ):  # fmt: skip
        assert line in card.splitlines()
    assert (
        "exit threshold 0.3 was chosen on `validation` (500 rows); there quality changes by -0.40 points"
        in card
    )
    assert (
        "There the 4x asked for changed quality by -1.50 points: exit threshold 0.6, prune scale 1.5." in card
    )
    assert card.index("command:") < card.index("threads:") < card.index("note:")
    assert "may leave after any of 2 of its layers" in card


def test_the_front_matter_is_valid_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    card = model_card(_config(), CardContent(name='a "name": x', license="cc-by-4.0"))
    data = yaml.safe_load(card.split("---\n")[1])
    assert data["license"] == "cc-by-4.0"
    assert "datasets" not in data


def test_a_dense_card_without_measurements_leaves_those_sections_out() -> None:
    labels = tuple(f"intent_{i}" for i in range(77))
    card = model_card(
        _config(labels=labels, prune=None, exit=None),
        CardContent(name="dense", is_pair=True, calibration={"exit_threshold": None}),
    )
    assert "It drops" not in card
    assert "## Measured" not in card
    assert "and 57 more" in card
    assert "gives two texts one label" in card
    assert "Exits are off by default" in card
    unreached = {
        "exit_threshold": None, "quality": 0.9, "dense_quality": 0.9,
        "at_target": {
            "target_speedup": 9.0, "flops_speedup": 8.0, "quality": 0.8, "exit_threshold": 0.95,
            "prune_scale": 3.0,
        },
    }  # fmt: skip
    card = model_card(_config(), CardContent(name="x", calibration=unreached))
    assert "the 9x asked for are out of reach, and the fastest setting, 8.00x, changed quality by" in card
    assert "## Calibration" not in model_card(_config(), CardContent(name="x"))


def test_the_usage_of_the_card_is_valid_python() -> None:
    card = model_card(_config(), CardContent(name='odd"name', example='He said "no".\\', is_pair=True))
    compile(card.split("```python\n")[1].split("```")[0], "card", "exec")

"""The bench in real processes, on a tiny model."""

import json

import pytest

from cli_models import REVIEWS, command_line, save_tiny, write_rows
from magic_pyramid.bench.child import Child


def test_engines_are_measured_and_everything_is_written(capsys, tmp_path):
    model = save_tiny(tmp_path / "tiny")
    data = write_rows(tmp_path / "texts.jsonl", REVIEWS * 2)
    markdown, plot = tmp_path / "bench.md", tmp_path / "bench.png"
    code, out, err = command_line(capsys)(
        "bench", model, "--data", data, "--split", "train", "--repeats", "2", "--batch", "4",
        "--lengths", "5",
        "--only", "magic_pyramid_onnx_int8,magic_pyramid_onnx_int8_adaptive,sentence_transformers",
        "--max-rows", "6",
        "--json", "--markdown", markdown, "--plot", plot,
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(out)
    rows = result["rows"]
    assert {(row["name"], row["batch_size"]) for row in rows} == {
        (name, size)
        for name in ("magic_pyramid_onnx_int8", "magic_pyramid_onnx_int8_adaptive")
        for size in (1, 4)
    }
    assert all(row["throughput"] > 0 and row["peak_memory_mb"] > 0 for row in rows)
    assert result["provenance"]["command"].startswith("magic-pyramid bench ")
    assert result["provenance"]["num_texts"] == 6
    assert [item["name"] for item in result["skipped"]] == ["sentence_transformers"]
    assert result["growth"][0]["throughput"]["5"] > 0
    assert "magic_pyramid_onnx_int8_adaptive" in markdown.read_text(encoding="utf-8")
    assert plot.exists()


def test_a_process_that_fails_gives_its_reason(tmp_path):
    task = ("serve", "magic_pyramid_onnx", str(tmp_path / "nowhere"), "1")
    with Child(*task, threads=1, needs_torch=False) as child:
        with pytest.raises(ChildProcessError, match="FileNotFoundError"):
            child.ready()
        with pytest.raises(ChildProcessError, match="ended with code 1"):
            child.receive()

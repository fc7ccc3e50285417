import io

import pytest

from cli_models import CONFIG, read_rows, write_rows
from magic_pyramid.cli.output import typed
from magic_pyramid.cli.resuming import NOTHING, complete_bytes, finished_rows
from magic_pyramid.cli.row_files import TableRows, check_output_format, row_writer, table_cell
from magic_pyramid.data import iter_rows
from magic_pyramid.errors import ConfigError, InputError

ANSWER = {
    "label": "positive",
    "score": 0.75,
    "probabilities": {"negative": 0.25, "positive": 0.75},
    "exit_layer": 0,
    "num_layers_run": 1,
    "tokens": 6,
    "num_tokens": [6, 2, 0],
    "gflops": 0.5,
}
TEXTS = ['a "quoted" text', "two\nlines, and a comma", "tab\there", '"all quoted"', "ünïcode", "plain"]


def written(rows, format, *, path):
    with path.open("wb") as stream:
        writer = row_writer(stream, format)
        writer.write(rows)
        writer.close()
    return path


def outputs(texts=TEXTS):
    return [{"id": str(place), "text": text, **ANSWER} for place, text in enumerate(texts)]


def inputs(path, texts=TEXTS):
    return write_rows(path, [{"id": str(place), "text": text} for place, text in enumerate(texts)])


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_what_is_written_is_read_back(tmp_path, format):
    path = written(outputs(), format, path=tmp_path / f"out.{format}")
    rows = list(iter_rows(path))
    assert [row.raw["text"] for row in rows] == TEXTS
    assert rows[0].raw["label"] == "positive"


def test_a_tsv_cell_holds_no_tab_and_no_line_break(tmp_path):
    path = written(outputs(), "tsv", path=tmp_path / "out.tsv")
    texts = [row.raw["text"] for row in iter_rows(path)]
    assert texts[1:4] == ["two lines, and a comma", "tab here", '"all quoted"']


def test_json_lines_stay_valid_whatever_the_input_holds():
    stream = io.BytesIO()
    row_writer(stream, "jsonl").write([{"text": "\ud800", "number": float("nan"), "when": object}])
    assert b'"text": "\\ud800", "number": null' in stream.getvalue()


def test_a_table_waits_for_the_row_that_tells_its_columns():
    stream = io.BytesIO()
    writer = row_writer(stream, "csv")
    writer.write([{"error": "line 1: malformed"}])
    assert stream.getvalue() == b""
    writer.write([{"text": "a", **ANSWER}])
    header, bad, good = stream.getvalue().decode().splitlines()
    assert header.startswith("text,label,score,probabilities,")
    assert header.endswith("gflops,error")
    assert bad.endswith("line 1: malformed")
    assert good.startswith("a,positive,0.75,")


def test_a_table_of_bad_rows_only_is_written_too():
    stream = io.BytesIO()
    writer = row_writer(stream, "csv")
    writer.write([{"error": "line 1: malformed"}])
    writer.close()
    assert stream.getvalue().decode().splitlines()[1].endswith("line 1: malformed")


def test_columns_that_the_first_row_lacks_are_named():
    writer = TableRows(io.BytesIO(), "csv")
    writer.write([{"text": "a", **ANSWER}, {"text": "b", "late": 1, **ANSWER}])
    assert writer.left_out == {"late"}


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (True, "true"), (1.5, "1.5"), ([1, "é"], '[1, "é"]'), ("x\ud800", "x?")]
)
def test_a_cell_is_text(value, text):
    assert table_cell(value, "csv") == text


def test_a_command_is_kept_without_folders_of_this_machine(tmp_path):
    data, output = tmp_path / "reviews", tmp_path / "out dir"
    argv = ["train", "--data", str(data), f"--output={output}", "--set", "train.seed=1", "runs/a"]
    assert typed(argv) == "magic-pyramid train --data reviews '--output=out dir' --set train.seed=1 runs/a"


def test_an_output_format_is_checked():
    assert check_output_format("CSV") == "csv"
    with pytest.raises(ConfigError, match="predictions are not written as 'parquet'; known: jsonl, csv, tsv"):
        check_output_format("parquet")


@pytest.mark.parametrize(
    ("content", "is_csv", "length"),
    [
        (b"", False, 0),
        (b'{"a": 1}\n{"a"', False, 9),
        (b'a,b\n"x\ny', True, 4),
        (b'a,b\n"x\ny",1\n2', True, 12),
        (b'a\n"x\r\ny"\n', True, 9),
        (b"a\nx\n", True, 4),
        (b"half", True, 0),
    ],
)
def test_half_a_row_at_the_end_is_not_counted(tmp_path, content, is_csv, length):
    (tmp_path / "out").write_bytes(content)
    assert complete_bytes(tmp_path / "out", is_csv=is_csv) == length


def finished(output, source, *, format="jsonl", labels=CONFIG.labels):
    rows = iter_rows(source)
    return finished_rows(output, rows, format=format, labels=labels), rows


def test_nothing_is_finished_where_there_is_no_output(tmp_path):
    source = inputs(tmp_path / "in.jsonl")
    assert finished(tmp_path / "out.jsonl", source)[0] == NOTHING


@pytest.mark.parametrize("format", ["jsonl", "csv", "tsv"])
def test_finished_rows_are_taken_from_the_input(tmp_path, format):
    source = inputs(tmp_path / "in.jsonl")
    output = written(outputs()[:4], format, path=tmp_path / f"out.{format}")
    whole = output.stat().st_size
    with output.open("ab") as stream:
        stream.write(b'{"id": "4", "te' if format == "jsonl" else b'4,"half')
    done, rows = finished(output, source, format=format)
    assert (done.num_rows, done.num_bad, done.num_bytes) == (4, 0, whole)
    assert [row.raw["id"] for row in rows] == ["4", "5"]
    assert (done.header is None) == (format == "jsonl")


def test_bad_rows_of_the_earlier_run_still_count(tmp_path):
    source = inputs(tmp_path / "in.jsonl")
    rows = [{"id": "0", "text": TEXTS[0], "error": "line 1: no"}, *outputs()[1:3]]
    done, _ = finished(write_rows(tmp_path / "out.jsonl", rows), source)
    assert (done.num_rows, done.num_bad) == (3, 1)


@pytest.mark.parametrize("header_line", ["id,text,label", "id\ttext\tlabel"], ids=["csv", "tsv"])
def test_a_table_with_nothing_but_its_header_goes_on(tmp_path, header_line):
    output = tmp_path / "out"
    output.write_text(header_line + "\n", encoding="utf-8")
    format = "csv" if "," in header_line else "tsv"
    done, _ = finished(output, inputs(tmp_path / "in.jsonl"), format=format)
    assert (done.num_rows, done.header) == (0, ["id", "text", "label"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "other"}, "line 2 of .* its columns differ from line 2"),
        ({"more": 1}, "its columns differ"),
        ({"label": None, "error": "line 9: no"}, "its error is not about line 2"),
        ({"probabilities": {"spam": 1.0}}, "probabilities are of other labels"),
        ({"probabilities": "{broken"}, "probabilities are of other labels"),
    ],
)
def test_an_output_of_another_input_or_model_is_refused(tmp_path, change, message):
    source = inputs(tmp_path / "in.jsonl")
    first, second = outputs()[:2]
    output = write_rows(tmp_path / "out.jsonl", [first, {**second, **change}])
    before = output.read_bytes()
    with pytest.raises(InputError, match=message):
        finished(output, source)
    assert output.read_bytes() == before


def test_an_output_that_is_no_answer_at_all_is_refused(tmp_path):
    source = inputs(tmp_path / "in.jsonl")
    with pytest.raises(InputError, match="it has no label and no error"):
        finished(source, source)
    (tmp_path / "notes.jsonl").write_text("my notes\n", encoding="utf-8")
    with pytest.raises(InputError, match="it cannot be read"):
        finished(tmp_path / "notes.jsonl", source)


def test_an_output_longer_than_the_input_is_refused(tmp_path):
    source = inputs(tmp_path / "in.jsonl", TEXTS[:1])
    output = write_rows(tmp_path / "out.jsonl", outputs())
    with pytest.raises(InputError, match="the input has fewer rows"):
        finished(output, source)
    assert len(read_rows(output)) == len(TEXTS)

import gzip
import io
import sys
import tracemalloc

import pytest

from data_files import ROWS, WRITERS, jsonl, parquet, read, zipped
from magic_pyramid.data import Columns, Example, iter_rows
from magic_pyramid.errors import InputError


@pytest.mark.parametrize("ending", WRITERS)
def test_rows_are_streamed_from_every_format(tmp_path, ending):
    path = WRITERS[ending](tmp_path / f"a.{ending}", ROWS)
    first_line = 2 if ending in ("csv", "tsv") else 1
    for source in (path, zipped(path)):
        rows = list(iter_rows(source))
        assert [row.line for row in rows] == list(range(first_line, first_line + 30))
        assert [row.example for row in rows] == [Example(text=row["text"]) for row in ROWS]
        assert [row.raw for row in rows] == ROWS
        assert not any(row.error for row in rows)


def test_a_quoted_line_break_keeps_the_line_numbers_right():
    rows = read(b'text,label\n"one\ntwo",a\n\n"three",b\n"fo""ur",c\r\n', "csv")
    assert [(row.line, row.example.text) for row in rows] == [(2, "one\ntwo"), (5, "three"), (6, 'fo"ur')]


def test_bad_rows_of_a_csv_are_given_with_their_error_and_the_stream_goes_on():
    content = b'text,label\nok,a\n"x"y,b\ncaf\xe9,c\none,two,three\n,d\n"line\nbad \xff",e\nlast,f\n"open,g\n'
    found = [(row.line, row.error or row.example.text) for row in read(content, "csv")]
    assert [line for line, _ in found] == [2, 3, 4, 5, 6, 8, 9, 10]
    for (_, got), words in zip(
        found,
        ["ok", "malformed CSV", "broken UTF-8: byte 0xe9", "3 cells where the first line names 2 columns",
         "'text' is empty", "broken UTF-8: byte 0xff", "last", "malformed CSV: unexpected end of data"],
        strict=True,
    ):  # fmt: skip
        assert got.startswith(words), got


def test_semicolons_and_a_byte_order_mark_are_understood():
    rows = read("\ufefftext;label\ncafé;1\n".encode(), "csv")
    assert rows[0].raw == {"text": "café", "label": "1"}


def test_a_lone_quote_in_a_tsv_is_text():
    rows = read(b'text\tlabel\n"He said\ta\n"all ""of"" it"\tb\n5" long\tc\n\nshort\n\xff\td\n', "tsv")
    assert [row.example and row.example.text for row in rows] == [
        '"He said',
        'all "of" it',
        '5" long',
        None,
        None,
    ]
    assert rows[3].error.startswith("1 cells where the first line names 2 columns; a TSV cell holds no tab")
    assert rows[4].error.startswith("broken UTF-8")


@pytest.mark.parametrize("format", ["csv", "tsv"])
def test_unreadable_column_names_are_refused(format):
    with pytest.raises(InputError, match="column names in line 1 cannot be read: broken UTF-8"):
        read(b"t\xff\na\n", format)


def test_a_column_named_twice_is_refused():
    with pytest.raises(InputError, match=r"standard input: .* names the column 'text' twice"):
        read(b"text,text\na,b\n", "csv")


def test_plain_text_is_one_text_a_line():
    rows = read(b"one\n\ntwo\r\n\xff\n", "txt")
    assert [(row.line, row.example and row.example.text) for row in rows] == [(1, "one"), (2, None), (3, "two"), (4, None)]  # fmt: skip  # noqa: E501
    assert [row.error and row.error.split(";")[0] for row in rows][1] == "'text' is empty"


def test_bad_json_lines_do_not_end_the_stream():
    rows = read(b'{"x": 1}\n{"text": "a", "id": 7}\n{\n[]\n\n{"text": ""}\n{"text": "b"}', "jsonl")
    assert [row.line for row in rows] == [1, 2, 3, 4, 6, 7]
    assert rows[0].error.startswith("no column is known to hold the text; the columns are 'x'")
    assert rows[1].raw == {"text": "a", "id": 7}
    assert [bool(row.error) for row in rows] == [True, False, True, True, True, False]


def test_a_table_without_a_text_is_refused_once():
    with pytest.raises(InputError, match="no column is known to hold the text; the columns are 'x', 'y'"):
        read(b"x,y\n1,2\n3,4\n", "csv")


def test_given_columns_are_used_for_rows():
    rows = read(b"x,y\n1,2\n", "csv", columns=Columns(text="x", text_pair="y"))
    assert rows[0].example.inputs == ("1", "2")


def test_a_cut_gzip_file_ends_with_a_bad_row(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    rows = list(iter_rows(path))
    assert "damaged or cut short" in rows[-1].error


def test_a_cut_parquet_file_is_refused(tmp_path):
    path = parquet(tmp_path / "a.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="not a whole Parquet file after row 0"):
        list(iter_rows(path))
    cut = zipped(path)
    cut.write_bytes(cut.read_bytes()[:-30])
    with pytest.raises(InputError, match="compressed file is damaged"):
        list(iter_rows(cut))


def test_broken_utf8_in_parquet_is_one_bad_row(tmp_path):
    import pyarrow
    from pyarrow.parquet import write_table

    texts_ = pyarrow.array([b"a", b"caf\xe9", b"c"]).view(pyarrow.string())
    write_table(pyarrow.table({"text": texts_}), tmp_path / "a.parquet")
    rows = list(iter_rows(tmp_path / "a.parquet"))
    assert [row.example and row.example.text for row in rows] == ["a", None, "c"]
    assert rows[1].error.startswith("broken UTF-8")


def test_standard_input_is_json_lines_unless_said(monkeypatch):
    class Standard:
        buffer = io.BytesIO(gzip.compress(b'{"text": "a"}\n'))

    monkeypatch.setattr(sys, "stdin", Standard)
    assert [row.example.text for row in iter_rows("-")] == ["a"]


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("none.csv", {}, "none.csv is not a file"),
        ("none.doc", {}, "does not end like a known format"),
        ("-", {"format": "jsnl"}, "format 'jsnl' is unknown; did you mean 'jsonl'"),
    ],
)
def test_sources_that_cannot_be_streamed_are_refused_at_once(source, options, words):
    with pytest.raises(InputError, match=words):
        iter_rows(source, **options)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path, monkeypatch):
    path = jsonl(tmp_path / "a.jsonl", ROWS)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(InputError, match="cannot be opened: Permission denied"):
        list(iter_rows(path))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "txt"])
def test_memory_does_not_grow_with_the_rows(tmp_path, ending):
    line = {"csv": "a film,b\n", "jsonl": '{"text": "a film"}\n', "txt": "a film\n"}[ending]
    peaks = []
    for count in (200, 3000):
        path = tmp_path / f"a.{ending}"
        path.write_text(("text,label\n" if ending == "csv" else "") + line * count)
        tracemalloc.start()
        assert sum(1 for _ in iter_rows(path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000

import pytest

from data_files import ROWS, jsonl, refusal, table, texts
from magic_pyramid.data import Columns, Example, load_data
from magic_pyramid.errors import InputError


@pytest.fixture
def folder(tmp_path):
    jsonl(tmp_path / "train.jsonl", ROWS)
    jsonl(tmp_path / "val.jsonl", ROWS[:6])
    jsonl(tmp_path / "test.jsonl", ROWS[6:12])
    return tmp_path


def test_pairs_are_found_by_their_names(tmp_path):
    path = jsonl(
        tmp_path / "a.jsonl", [{"premise": "p", "hypothesis": "h", "label": i % 2} for i in range(8)]
    )
    example = load_data(path).splits["train"][0]
    assert example.inputs == ("p", "h")
    assert Example(text="t").inputs == "t"


@pytest.mark.parametrize(
    ("names", "text", "pair", "label"),
    [
        (["Review", "Stars"], "Review", None, "Stars"),
        (["text", "title", "label", "stars"], "text", None, "label"),
        (["question", "sentence", "label"], "question", "sentence", "label"),
        (["question", "category"], "question", None, "category"),
        (["sentence1", "sentence2", "score"], "sentence1", "sentence2", "score"),
        (["text", "text_pair", "class"], "text", "text_pair", "class"),
    ],
)
def test_columns_are_found_by_common_names(tmp_path, names, text, pair, label):
    rows = [{name: f"{name} {i % 2}" for name in names} for i in range(8)]
    data = load_data(jsonl(tmp_path / "a.jsonl", rows), split="test")
    first = data.splits["test"][0]
    assert (first.text, first.text_pair) == (f"{text} 0", pair and f"{pair} 0")
    assert data.labels == (f"{label} 0", f"{label} 1")


def test_columns_can_be_given(tmp_path):
    path = table(
        tmp_path / "a.csv", [{"text": "no", "x": f"x{i}", "y": "y", "z": str(i % 2)} for i in range(6)]
    )
    data = load_data(path, columns=Columns(text="x", text_pair="y", label="z"), split="test")
    assert data.splits["test"][0] == Example(text="x0", text_pair="y", label=0)
    data = load_data(path, columns=Columns(text_pair="y", label="z"), split="test")
    assert data.splits["test"][0].inputs == ("no", "y")


@pytest.mark.parametrize(
    ("names", "columns", "words"),
    [
        (["x", "label"], Columns(), r"hold the text; the columns are 'x', 'label'; .*--text-column"),
        (["text", "x"], Columns(), r"hold the label; the columns are 'text', 'x'; .* --label-column"),
        (["review", "comment", "label"], Columns(), "could hold the text: 'review', 'comment'"),
        (["text", "intent", "topic"], Columns(), "several columns could hold the label: 'intent', 'topic'"),
        (["text_a", "text_b", "text", "label"], Columns(), r"hold the text: 'text_a \+ text_b', 'text'"),
        (["text", "label"], Columns(text="txt"), "there is no column 'txt' .*did you mean 'text'"),
        (["text", "label"], Columns(label="lable"), "there is no column 'lable' .*did you mean 'label'"),
    ],
)  # fmt: skip
def test_missing_and_ambiguous_columns_are_refused(tmp_path, names, columns, words):
    path = table(tmp_path / "a.csv", [dict.fromkeys(names, "a")])
    with pytest.raises(InputError, match=words):
        load_data(path, columns=columns)


def test_all_bad_rows_are_named_at_once_in_the_order_of_the_files(folder):
    lines = [
        b'{"text": "good", "label": "pos"}',
        b'{"text": "", "label": "pos"}',
        b'{"text": "a", "label": "pso"}',
        b'{"text": "caf\xe9", "label": "pos"}',
        b'{"text": NaN, "label": NaN}',
        b'{"text": "a"',
        b"[1]",
        b'{"label": "pos"}',
        b'{"text": "a"}',
        b'{"text": 5, "label": "pos"}',
        b'{"text": null, "label": null}',
        b'{"text": "\\ud800", "label": ""}',
        b"",
        b'{"text": "a", "label": {}}',
    ]
    (folder / "test.jsonl").write_bytes(b"\n".join(lines))
    jsonl(folder / "train.jsonl", [*ROWS, {"text": " ", "label": "odd"}])
    message = refusal(folder).splitlines()
    assert message[0].startswith(f"{folder.name}: 13 bad rows; ")
    expected = [
        "train.jsonl, line 31: 'text' is empty",
        "test.jsonl, line 2: 'text' is empty; write a text or delete the row",
        "test.jsonl, line 3: label 'pso' is unknown; did you mean 'pos'?",
        "test.jsonl, line 4: broken UTF-8: byte 0xe9 at byte 14; save the file as UTF-8",
        "test.jsonl, line 5: 'text' is NaN; write a text or delete the row; the label is NaN",
        "test.jsonl, line 6: malformed JSON: ",
        "test.jsonl, line 7: a JSON list, not an object",
        "test.jsonl, line 8: column 'text' is missing; add it or delete the row",
        "test.jsonl, line 9: column 'label' is missing; add it or delete the row",
        "test.jsonl, line 10: 'text' is int, not a text",
        "test.jsonl, line 11: 'text' is null; write a text or delete the row; the label is missing",
        "test.jsonl, line 12: 'text' holds half of a surrogate pair",
        "test.jsonl, line 14: the label is a dict",
    ]
    assert len(message) == 1 + len(expected)
    for line, words in zip(message[1:], expected, strict=True):
        assert line.strip().startswith(words), line


def test_only_twenty_bad_rows_are_spelled_out(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", ROWS + [{"text": "", "label": "pos"}] * 25)
    message = refusal(path).splitlines()
    assert message[0].startswith("a.jsonl: 25 bad rows")
    assert len(message) == 22
    assert message[-1].strip() == "and 5 more"


def test_a_file_of_bad_rows_only_is_refused_with_them(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("{\n{\n")
    assert "2 bad rows" in refusal(path)


def test_a_filter_keeps_matching_rows_and_leaves_a_split_without_the_column(folder):
    jsonl(folder / "train.jsonl", [row | ({"form": i % 2} if i > 3 else {}) for i, row in enumerate(ROWS)])
    data = load_data(folder, where={"form": "1"})
    assert texts(data.splits["train"]) == [f"text {i}" for i in range(5, 30, 2)]
    assert len(data.splits["test"]) == 6


def test_a_filter_by_an_unknown_column_is_refused(folder):
    assert "where names the column 'lable', not there; did you mean 'label'?" in refusal(
        folder, where={"lable": "a"}
    )

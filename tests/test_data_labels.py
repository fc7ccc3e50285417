import pytest

from data_files import ROWS, jsonl, refusal, table
from magic_pyramid.data import load_data
from magic_pyramid.errors import ConfigError, InputError


@pytest.fixture
def folder(tmp_path):
    jsonl(tmp_path / "train.jsonl", ROWS)
    jsonl(tmp_path / "val.jsonl", ROWS[:6])
    jsonl(tmp_path / "test.jsonl", ROWS[6:12])
    return tmp_path


def test_labels_json_names_the_integers(tmp_path):
    (tmp_path / "labels.json").write_text('["zebra", "ant", "unused"]')
    jsonl(tmp_path / "train.jsonl", [{"text": "a", "label": i % 2} for i in range(8)])
    data = load_data(tmp_path)
    assert data.labels == ("zebra", "ant", "unused")
    assert {example.label for example in data.splits["train"]} == {0, 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [("[", "not valid JSON"), ("[1]", "not a list of label names"), ('["a", "a"]', "names 'a' twice")],
)
def test_a_labels_json_that_cannot_be_used_is_refused(folder, content, words):
    (folder / "labels.json").write_text(content)
    with pytest.raises((InputError, ConfigError), match=words):
        load_data(folder)


def test_numeric_strings_are_sorted_as_numbers(tmp_path):
    path = table(tmp_path / "a.csv", [{"text": "a", "label": str(i % 11)} for i in range(33)])
    assert load_data(path).labels == tuple(map(str, range(11)))


def test_label_order_comes_from_train_alone(folder):
    jsonl(folder / "test.jsonl", [{"text": "a", "label": "aaa"}])
    assert "test.jsonl, line 1: label 'aaa' is unknown; known: neg, odd, pos" in refusal(folder)


def test_given_labels_fix_the_order(folder):
    data = load_data(folder, labels=["pos", "neg", "odd"], split="test")
    assert [example.label for example in data.splits["test"]] == [0, 1, 2, 0, 1, 2]


def test_integers_are_places_among_given_names(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": 0}])
    data = load_data(path, labels=["neg", "pos"], split="test")
    assert [example.label for example in data.splits["test"]] == [1, 0]


def test_integers_that_are_names_are_not_places(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": 0}])
    assert "label 0 is unknown" in refusal(path, labels=["1", "2"], split="test")


def test_labels_json_and_given_names_meet_by_name(tmp_path):
    (tmp_path / "labels.json").write_text('["neg", "pos"]')
    jsonl(tmp_path / "test.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": "neg"}])
    data = load_data(tmp_path, labels=["pos", "neg"], split="test")
    assert [example.label for example in data.splits["test"]] == [0, 1]


def test_true_and_false_are_labels(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": i % 2 == 0} for i in range(8)])
    assert load_data(path).labels == ("false", "true")


def test_whole_numbers_stored_with_a_point_are_labels(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": float(i % 2)} for i in range(8)])
    assert load_data(path).labels == ("0", "1")


@pytest.mark.parametrize(
    ("column", "values"), [("label", [0.5, 1.0, 2.0]), ("score", [1, 2, 3]), ("label", ["0.5", "1", "2"])]
)
def test_numbers_with_a_fraction_and_scores_are_a_regression(tmp_path, column, values):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", column: values[i % 3]} for i in range(9)])
    data = load_data(path)
    assert (data.problem_type, data.labels) == ("regression", (column,))
    assert {example.label for example in data.splits["train"]} <= {float(value) for value in values}


def test_labels_json_can_state_a_regression(tmp_path):
    (tmp_path / "labels.json").write_text('{"type": "regression"}')
    jsonl(tmp_path / "train.jsonl", [{"text": "a", "label": i} for i in range(5)])
    assert load_data(tmp_path).problem_type == "regression"


def test_integers_outside_labels_json_are_unknown_and_true_is_one(tmp_path):
    (tmp_path / "labels.json").write_text('["low", "high"]')
    rows = [{"text": "a", "label": label} for label in (0, True, "1", 2, "middle")]
    message = refusal(jsonl(tmp_path / "train.jsonl", rows))
    assert "2 bad rows" in message
    assert "line 4: label 2 is unknown" in message
    assert "line 5: label 'middle' is unknown" in message


def test_a_score_with_named_labels_is_no_regression(tmp_path):
    (tmp_path / "labels.json").write_text('["low", "high"]')
    jsonl(tmp_path / "train.jsonl", [{"text": "a", "score": i % 2} for i in range(8)])
    assert load_data(tmp_path).problem_type == "single_label"


def test_a_regression_takes_one_name(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", "score": 0.5}])
    with pytest.raises(ConfigError, match="labels has 2 names"):
        load_data(path, labels=["a", "b"])


def test_numbers_that_are_not_finite_are_bad_rows(tmp_path):
    values = [0.5, float("inf"), "much", True, float("nan"), None]
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": value} for value in values])
    message = refusal(path, problem_type="regression")
    assert "5 bad rows" in message
    assert "line 2: the label is inf, not a finite number" in message
    assert "line 5: the label is NaN" in message
    assert "line 6: the label is missing" in message


@pytest.mark.parametrize(
    "values", [[["b", "a"], [], ["a"]], ['["b", "a"]', "[]", '["a"]']], ids=["lists", "json"]
)
def test_lists_are_many_labels(tmp_path, values):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x", "labels": value} for value in values])
    data = load_data(path, split="test")
    assert (data.problem_type, data.labels) == ("multi_label", ("a", "b"))
    assert [example.label for example in data.splits["test"]] == [(0, 1), (), (0,)]


def test_bad_lists_of_labels_are_bad_rows(tmp_path):
    values = [["a"], "b", "[b", {"c": 1}, [{"c": 1}]]
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x", "labels": value} for value in values])
    message = refusal(path, problem_type="multi_label")
    assert "4 bad rows" in message
    assert "line 2: the labels are 'b'; write a list" in message
    assert "line 3: the labels '[b' are no list" in message
    assert "line 5: the label is a dict" in message


def test_lists_without_any_label_are_refused(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x", "labels": []}] * 3)
    assert "no row has any label" in refusal(path)


def test_unknown_labels_among_many_show_some_of_them(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}])
    assert "and 88 more" in refusal(path, labels=[f"name {i}" for i in range(100)])

import pytest

from data_files import ROWS, WRITERS, jsonl, parquet, refusal, table, texts, zipped
from magic_pyramid.data import Example, load_data
from magic_pyramid.errors import ConfigError


@pytest.fixture
def folder(tmp_path):
    jsonl(tmp_path / "train.jsonl", ROWS)
    jsonl(tmp_path / "val.jsonl", ROWS[:6])
    jsonl(tmp_path / "test.jsonl", ROWS[6:12])
    return tmp_path


@pytest.mark.parametrize("is_zipped", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("ending", WRITERS)
def test_every_format_gives_the_same_examples(tmp_path, ending, is_zipped):
    path = WRITERS[ending](tmp_path / f"rows.{ending}", ROWS)
    data = load_data(zipped(path) if is_zipped else path, split="test")
    assert data.labels == ("neg", "odd", "pos")
    assert data.problem_type == "single_label"
    assert data.splits["test"][:2] == [Example(text="text 0", label=2), Example(text="text 1", label=0)]
    assert len(data.splits["test"]) == 30


def test_a_folder_gives_its_splits_under_our_names(folder):
    data = load_data(folder)
    assert {name: len(rows) for name, rows in data.splits.items()} == {
        "train": 30,
        "validation": 6,
        "test": 6,
    }
    assert not data.held_out
    assert data.name == folder.name


def test_shards_of_a_split_are_joined(tmp_path):
    parquet(tmp_path / "train-00000-of-00002.parquet", ROWS[:15])
    parquet(tmp_path / "train-00001-of-00002.parquet", ROWS[15:])
    data = load_data(tmp_path, validation_share=0)
    assert texts(data.splits["train"]) == [row["text"] for row in ROWS]


def test_two_files_of_one_split_are_refused(folder):
    table(folder / "train.csv", ROWS)
    assert "several train files: train.csv, train.jsonl" in refusal(folder)


def test_a_file_that_is_unusable_as_a_whole_is_refused_by_name(tmp_path):
    (tmp_path / "a.csv").write_text("text,text\na,b\n")
    assert "a.csv: the first line names the column 'text' twice" in refusal(tmp_path / "a.csv")


def test_a_part_of_train_is_held_out_in_proportion_and_never_test(folder):
    (folder / "val.jsonl").unlink()
    data = load_data(folder, validation_share=0.2)
    assert data.held_out
    assert {name: len(rows) for name, rows in data.splits.items()} == {
        "train": 24,
        "validation": 6,
        "test": 6,
    }
    assert sorted(example.label for example in data.splits["validation"]) == [0, 0, 1, 1, 2, 2]
    together = texts(data.splits["train"]) + texts(data.splits["validation"])
    assert sorted(together) == sorted(row["text"] for row in ROWS)


def test_the_held_out_part_depends_on_the_seed_alone(folder):
    (folder / "val.jsonl").unlink()
    first, again, other = (load_data(folder, seed=seed) for seed in (1, 1, 2))
    assert first.fingerprint("validation") == again.fingerprint("validation")
    assert first.fingerprint("validation") != other.fingerprint("validation")
    alone = load_data(folder, seed=1, split="validation")
    assert alone.splits == {"validation": first.splits["validation"]}
    assert alone.held_out


def test_nothing_is_held_out_when_the_share_is_zero(folder):
    (folder / "val.jsonl").unlink()
    data = load_data(folder, validation_share=0)
    assert list(data.splits) == ["train", "test"]
    assert not data.held_out


def test_a_file_is_train_or_the_split_that_is_named(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    assert set(load_data(path).splits) == {"train", "validation"}
    assert {name: len(rows) for name, rows in load_data(path, split="dev").splits.items()} == {
        "validation": 30
    }


def test_train_rows_are_drawn_in_proportion_after_the_held_out_part(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    full, small = load_data(path), load_data(path, train_rows=6)
    assert small.splits["validation"] == full.splits["validation"]
    assert sorted(example.label for example in small.splits["train"]) == [0, 0, 1, 1, 2, 2]
    assert set(texts(small.splits["train"])) < set(texts(full.splits["train"]))
    assert load_data(path, train_rows=1000).splits == full.splits


def test_a_regression_is_drawn_from_as_a_whole(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"t{i}", "score": i / 7} for i in range(20)])
    data = load_data(path, train_rows=5)
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 5, "validation": 2}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_rows": 2}, "train_rows is 2; it must be at least 3"),
        ({"train_rows": 0}, "train_rows is 0; it must be at least 1"),
        ({"validation_share": 1}, r"validation_share is 1; it must lie in \[0, 0.9\]"),
        ({"labels": "pos"}, "labels is one text"),
        ({"labels": ["pos", "pos"]}, "names 'pos' twice"),
    ],
)
def test_impossible_options_are_refused(tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        load_data(jsonl(tmp_path / "a.jsonl", ROWS), **options)


def test_a_label_of_one_row_cannot_be_stratified(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [*ROWS, {"text": "a", "label": "lonely"}])
    assert "1 of 4 labels have one row in train: 'lonely'; holding out needs two" in refusal(path)
    assert len(load_data(path, validation_share=0).splits["train"]) == 31


def test_one_row_cannot_be_divided(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", "score": 0.5}])
    assert "train has 1 row" in refusal(path)


def test_one_label_is_no_classification(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}] * 4)
    assert "every row has the same label" in refusal(path)


def test_a_filter_that_leaves_nothing_is_refused(folder):
    assert "the train split has no row with label=none; check the filter" in refusal(
        folder, where={"label": "none"}
    )


def test_an_empty_split_is_refused(folder):
    (folder / "test.jsonl").write_text("\n")
    assert "the test split has no rows; add some" in refusal(folder)


@pytest.mark.parametrize("label", [{}, {"label": -1}, {"label": None}], ids=["none", "minus one", "null"])
def test_a_split_without_labels_is_left_out_unless_asked_for(folder, label, caplog):
    jsonl(folder / "test.jsonl", [{"text": "a", **label}] * 3)
    assert set(load_data(folder).splits) == {"train", "validation"}
    assert "the test split has no label" in caplog.text
    assert "the test split has no label in any row" in refusal(folder, split="test")


@pytest.mark.parametrize(
    ("split", "words"),
    [("tset", "split 'tset' is unknown; did you mean 'test'"), ("test", "has no test split")],
)
def test_a_split_that_is_not_there_is_refused(folder, split, words):
    (folder / "test.jsonl").unlink()
    assert words in refusal(folder, split=split)


def test_a_folder_without_splits_is_refused_with_its_content(tmp_path):
    jsonl(tmp_path / "reviews.jsonl", ROWS)
    assert "has no split; it holds reviews.jsonl; name the files train.*" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["reviews.csv", "./reviews", "a/b/c", "reviews.jsonl.gz"])
def test_a_path_that_is_not_there_is_refused(name):
    assert f"{name} does not exist; give a file" in refusal(name)


def test_an_unknown_ending_is_refused(tmp_path):
    (tmp_path / "a.docx").write_text("")
    assert "does not end like a known format" in refusal(tmp_path / "a.docx")


def test_a_hub_name_without_a_network_is_refused_in_words(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "as a dataset of the hub it cannot be had" in refusal("no-such-owner/no-such-data:part")


def test_a_saved_dataset_brings_its_label_names(tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["zebra", "ant"])})
    rows = Dataset.from_dict({"sentence": ["a", "b"] * 4, "label": [0, 1] * 4}, features=features)
    DatasetDict({"train": rows, "dev": rows, "more": rows}).save_to_disk(tmp_path / "set")
    data = load_data(tmp_path / "set")
    assert data.labels == ("zebra", "ant")
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 8, "validation": 8}
    assert data.splits["train"][1] == Example(text="b", label=1)
    DatasetDict({"more": rows}).save_to_disk(tmp_path / "other")
    assert "no split called train, validation or test; it has more" in refusal(tmp_path / "other")
    (tmp_path / "other" / "more" / "state.json").write_text("{")
    assert "cannot be read as a saved dataset" in refusal(tmp_path / "other")


def test_a_dataset_repository_is_read_as_the_hub_would(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set" / "data").mkdir(parents=True)
    jsonl(tmp_path / "set" / "data" / "train.jsonl", ROWS)
    jsonl(tmp_path / "set" / "data" / "test.jsonl", [*ROWS[:3], {"text": "", "label": "pos"}])
    assert len(load_data(tmp_path / "set", split="train", validation_share=0).splits["train"]) == 30
    assert "set[test], row 4: 'text' is empty" in refusal(tmp_path / "set")


def test_the_fingerprint_changes_with_any_example(folder):
    data = load_data(folder)
    assert len(data.fingerprint("test")) == 16
    assert data.fingerprint("test") == load_data(folder).fingerprint("test")
    jsonl(folder / "test.jsonl", [*ROWS[6:11], {"text": "text 11", "label": "pos"}])
    assert data.fingerprint("test") != load_data(folder).fingerprint("test")

"""Questions from files: SQuAD's nested form, flat rows of every kind, splits by article."""

import gzip
import json

import pytest

from data_files import jsonl, parquet, table
from magic_pyramid.data import Columns, iter_rows, load_data
from magic_pyramid.errors import ConfigError, InputError
from magic_pyramid.spans import Answer

CONTEXTS = ("Denver won  the final.", "Étienne lives in Paris; Anna does not.")


def article(number, *, impossible=False):
    paragraphs = [
        {
            "context": CONTEXTS[0],
            "qas": [
                {
                    "id": f"{number}a",
                    "question": f"Who won {number}?",
                    "answers": [{"text": "Denver", "answer_start": 0}, {"text": "Denver", "answer_start": 0}],
                }
            ],
        },
        {
            "context": CONTEXTS[1],
            "qas": [
                {
                    "id": f"{number}b",
                    "question": "Where does Étienne live?",
                    "answers": [{"text": "Paris", "answer_start": 17}],
                }
            ],
        },
    ]
    if impossible:
        wrong = {"text": "Anna", "answer_start": 24}
        paragraphs[1]["qas"].append(
            {
                "id": "c",
                "question": "Why?",
                "is_impossible": True,
                "answers": [],
                "plausible_answers": [wrong],
            }
        )
    return {"title": f"Article {number}", "paragraphs": paragraphs}


def squad(path, count=4, **options):
    content = {"version": "1.1", "data": [article(number, **options) for number in range(count)]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


FLAT = [
    {"question": "Who won?", "context": CONTEXTS[0], "answers": {"text": ["Denver"], "answer_start": [0]}},
    {"question": "Where?", "context": CONTEXTS[1], "answers": {"text": ["Paris"], "answer_start": [17]}},
    {"question": "Who lost?", "context": CONTEXTS[0], "answers": {"text": [], "answer_start": []}},
]


def test_a_squad_file_is_questions_with_their_answers(tmp_path):
    data = load_data(squad(tmp_path / "dev-v1.1.json", impossible=True), validation_share=0)
    assert data.problem_type == "span"
    assert data.labels == ("start", "end")
    first, second, third, *_ = data.splits["train"]
    assert first.inputs == ("Who won 0?", CONTEXTS[0])
    assert first.label == (Answer("Denver", 0), Answer("Denver", 0))
    assert second.label == (Answer("Paris", 17),)
    assert third.label == ()
    assert {example.group for example in data.splits["train"]} == {f"Article {n}" for n in range(4)}


def test_a_compressed_file_and_a_folder_of_official_names_are_read(tmp_path):
    squad(tmp_path / "train-v1.1.json")
    content = squad(tmp_path / "dev.json").read_bytes()
    (tmp_path / "dev.json").unlink()
    (tmp_path / "dev-v1.1.json.gz").write_bytes(gzip.compress(content))
    data = load_data(tmp_path)
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 8, "validation": 8}
    assert not data.held_out


@pytest.mark.parametrize("write", [jsonl, parquet, table])
def test_flat_rows_are_read_from_every_format(write, tmp_path):
    endings = {jsonl: "jsonl", parquet: "parquet", table: "csv"}
    rows = FLAT
    if write is table:
        rows = [{**row, "answers": json.dumps(row["answers"])} for row in rows]
    data = load_data(write(tmp_path / f"rows.{endings[write]}", rows), validation_share=0)
    assert [example.label for example in data.splits["train"]] == [
        (Answer("Denver", 0),),
        (Answer("Paris", 17),),
        (),
    ]


def test_answers_may_be_a_list_of_objects_and_begin_with_a_space(tmp_path):
    row = {**FLAT[0], "answers": [{"text": " the final", "answer_start": 11}]}
    data = load_data(jsonl(tmp_path / "rows.jsonl", [row]), validation_share=0)
    assert data.splits["train"][0].label == (Answer("the final", 12),)


def test_test_and_validation_are_articles_of_their_own_and_always_the_same(tmp_path):
    file = squad(tmp_path / "all.json", count=8)
    data = load_data(file, test_share=0.25, validation_share=0.2)
    articles = {name: {example.group for example in rows} for name, rows in data.splits.items()}
    assert {name: len(names) for name, names in articles.items()} == {"train": 5, "validation": 1, "test": 2}
    assert len(set.union(*articles.values())) == 8
    assert data.held_out

    other_seed = load_data(file, test_share=0.25, validation_share=0.2, seed=3)
    alone = load_data(file, test_share=0.25, split="test")
    assert data.fingerprint("test") == other_seed.fingerprint("test") == alone.fingerprint("test")
    assert list(alone.splits) == ["test"]
    assert data.fingerprint("validation") != other_seed.fingerprint("validation")
    validation = load_data(file, test_share=0.25, validation_share=0.2, split="validation")
    assert validation.fingerprint("validation") == data.fingerprint("validation")


def test_a_test_share_of_classified_rows_is_drawn_by_label(tmp_path):
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(40)]
    data = load_data(jsonl(tmp_path / "rows.jsonl", rows), test_share=0.2, validation_share=0)
    assert {name: len(found) for name, found in data.splits.items()} == {"train": 32, "test": 8}
    assert sum(bool(example.label) for example in data.splits["test"]) == 4


def test_rows_without_a_title_are_held_out_by_their_context(tmp_path):
    rows = [{**FLAT[n % 2], "id": n} for n in range(6)]
    data = load_data(jsonl(tmp_path / "rows.jsonl", rows))
    contexts = {name: {example.text_pair for example in found} for name, found in data.splits.items()}
    assert not contexts["train"] & contexts["validation"]


def test_a_squad_file_is_answered_row_by_row(tmp_path):
    rows = list(iter_rows(squad(tmp_path / "dev.json", count=1)))
    assert [row.example.inputs for row in rows] == [
        ("Who won 0?", CONTEXTS[0]),
        ("Where does Étienne live?", CONTEXTS[1]),
    ]
    assert rows[0].raw["id"] == "0a"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["Denver"], "answer_start": [1]}, "the answer 'Denver' is not at character 1 .*'enver '"),
        ({"text": ["Denver"], "answer_start": [-1]}, "an answer is 'Denver' at -1"),
        ({"text": [" "], "answer_start": [6]}, "an answer is ' ' at 6"),
        ({"text": ["Denver"]}, "the answers are .* write them as"),
        ("Denver", "the answers are 'Denver'"),
        (3, "the answers are 3"),
        (None, "the label is missing"),
    ],
)
def test_wrong_answers_are_named_with_their_row(answers, message, tmp_path):
    file = jsonl(tmp_path / "rows.jsonl", [FLAT[1], {**FLAT[0], "answers": answers}])
    with pytest.raises(InputError, match=f"(?s)1 bad row.*line 2: {message}"):
        load_data(file, validation_share=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "malformed JSON: .*ends in .jsonl"),
        ("3", "the file holds no rows"),
        (
            '{"data": [{"paragraphs": [{"qas": [{"question": "?", "answers": []}]}]}]}',
            "article 1 is not as SQuAD writes it .*'context'",
        ),
        ('{"data": [{"paragraphs": 3}]}', "article 1 is not as SQuAD writes it"),
        ("[1]", "row 1: a JSON int, not an object"),
    ],
)
def test_unusable_files_are_refused(content, message, tmp_path):
    (tmp_path / "rows.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_data(tmp_path / "rows.json")


def test_questions_without_any_answer_cannot_be_trained_on(tmp_path):
    file = jsonl(tmp_path / "rows.jsonl", [FLAT[2]])
    with pytest.raises(InputError, match="no question has an answer"):
        load_data(file, validation_share=0, problem_type="span")


def test_answers_need_a_context(tmp_path):
    rows = [{"text": "Who won?", "answers": FLAT[0]["answers"]}]
    with pytest.raises(InputError, match="no column is known to hold it; name it with --text-pair-column"):
        load_data(jsonl(tmp_path / "rows.jsonl", rows))


def test_columns_of_other_names_can_be_given(tmp_path):
    rows = [{"q": row["question"], "passage_text": row["context"], "gold": row["answers"]} for row in FLAT]
    columns = Columns(text="q", text_pair="passage_text", label="gold")
    data = load_data(jsonl(tmp_path / "rows.jsonl", rows), columns=columns, validation_share=0)
    assert data.problem_type == "span"


def test_one_article_cannot_be_shared_out(tmp_path):
    with pytest.raises(InputError, match="train is about 'Article 0' alone"):
        load_data(squad(tmp_path / "dev.json", count=1))


@pytest.mark.parametrize("share", [-0.1, 0.95])
def test_a_test_share_must_be_a_share(share, tmp_path):
    with pytest.raises(ConfigError, match="test_share is"):
        load_data(squad(tmp_path / "dev.json"), test_share=share)

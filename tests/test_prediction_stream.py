import numpy as np
import pytest

from cli_models import CONFIG
from magic_pyramid.data import Example, Row
from magic_pyramid.errors import ConfigError, InputError
from magic_pyramid.prediction_stream import ANSWER_FIELDS, StreamTotals, answer_rows, kept_fields
from magic_pyramid.predictions import Predictions


class Answers:
    """Stands for a classifier: the label tells the length of the text; "bad" cannot be used."""

    def __init__(self):
        self.sizes = []

    def __call__(self, texts):
        self.sizes.append(len(texts))
        wrong = [place for place, text in enumerate(texts) if text == "bad"]
        if wrong:
            raise InputError(f"input {wrong[0]} (counted from 0): the tokenizer finds no token in it")
        probabilities = np.array([[0.25, 0.75] if len(text) > 3 else [0.9, 0.1] for text in texts])
        return Predictions(
            labels=[CONFIG.labels[i] for i in probabilities.argmax(1)],
            probabilities=probabilities,
            exit_layer=np.zeros(len(texts), dtype=np.int64),
            num_tokens=np.array([[len(text), 2, 0] for text in texts], dtype=np.int64).reshape(-1, 3),
            gflops=np.full(len(texts), 1.23456789e-3),
        )


def row(line, text="a text", **raw):
    return Row(line=line, example=Example(text=text), raw={"text": text, **raw})


def broken(line):
    return Row(line=line, example=None, raw={}, error="malformed JSON")


def answered(rows, **options):
    return [answer for chunk in answer_rows(rows, Answers(), config=CONFIG, **options) for answer in chunk]


def test_a_row_keeps_its_columns_and_gains_the_answer():
    (answer,) = answered([row(1, "a text", id=7)])
    assert answer.fields() == {
        "text": "a text",
        "id": 7,
        "label": "positive",
        "score": 0.75,
        "probabilities": {"negative": 0.25, "positive": 0.75},
        "exit_layer": 0,
        "num_layers_run": 1,
        "tokens": 6,
        "num_tokens": [6, 2, 0],
        "gflops": 0.00123457,
    }
    assert tuple(answer.answer) == ANSWER_FIELDS


def test_a_column_called_like_ours_is_renamed_and_not_lost():
    kept = kept_fields(row(1, label="gold", input_label="other", score=1))
    assert kept == {"text": "a text", "input_input_label": "gold", "input_label": "other", "input_score": 1}


def test_a_bad_row_gets_an_error_and_the_others_their_answers():
    first, second, third = answered([row(1), broken(2), row(3)])
    assert second.fields() == {"error": "line 2: malformed JSON"}
    assert first.answer["label"] == third.answer["label"] == "positive"


@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_text_that_cannot_be_used_does_not_spoil_its_chunk(place):
    rows = [row(line, "bad" if line == place else "a text") for line in range(7)]
    answers = answered(rows)
    assert [answer.answer is None for answer in answers] == [line == place for line in range(7)]
    assert answers[place].error == "the tokenizer finds no token in it"


def test_rows_are_answered_in_chunks_and_in_order():
    predict = Answers()
    chunks = list(answer_rows(map(row, range(7)), predict, config=CONFIG, chunk_rows=3))
    assert [[answer.row.line for answer in chunk] for chunk in chunks] == [[0, 1, 2], [3, 4, 5], [6]]
    assert predict.sizes == [3, 3, 1]


def test_long_texts_make_small_chunks():
    predict = Answers()
    list(answer_rows([row(line, "x" * 900_000) for line in range(6)], predict, config=CONFIG))
    assert predict.sizes == [3, 3]


def test_no_more_rows_are_read_than_are_answered_together():
    taken = []

    def rows():
        for line in range(100):
            taken.append(line)
            yield row(line)

    next(answer_rows(rows(), Answers(), config=CONFIG, chunk_rows=5))
    assert len(taken) == 5


def test_no_rows_give_no_chunks():
    assert answered([]) == []


def test_what_came_before_a_damaged_end_is_answered():
    def rows():
        yield row(1)
        raise InputError("not a whole Parquet file")

    chunks = answer_rows(rows(), Answers(), config=CONFIG)
    assert len(next(chunks)) == 1
    with pytest.raises(InputError, match="not a whole Parquet file"):
        next(chunks)


def test_a_chunk_needs_a_row():
    with pytest.raises(ConfigError, match="chunk_rows is 0; it must be at least 1"):
        next(answer_rows([row(1)], Answers(), config=CONFIG, chunk_rows=0))


def test_totals_are_sums_over_the_rows():
    totals = StreamTotals()
    totals.add(answered([row(1), broken(2), row(3, "bad"), row(4)]))
    assert (totals.num_rows, totals.num_bad, totals.num_layers_run, totals.num_tokens) == (4, 2, 2, 12)
    assert totals.means() == {"mean_layers": 1.0, "mean_input_tokens": 6.0, "gflops": 0.00123457}
    assert StreamTotals(num_rows=1, num_bad=1).means()["gflops"] is None


def test_a_regression_gives_a_rounded_number():
    config = CONFIG.replace(labels=("stars",), problem_type="regression", exit=None)
    output = Predictions(
        labels=[3.14159265],
        probabilities=np.array([[3.14159265]]),
        exit_layer=np.array([1]),
        num_tokens=np.array([[4, 4, 4]]),
        gflops=np.array([0.0]),
    )
    ((answer,),) = answer_rows([row(1)], lambda texts: output, config=config)
    assert answer.answer["label"] == answer.answer["score"] == 3.14159
    assert answer.answer["probabilities"] == {"stars": 3.14159}
    assert answer.answer["gflops"] == 0.0

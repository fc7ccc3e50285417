"""Answer any number of rows with constant memory: good rows get an answer, bad ones an error."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from magic_pyramid.certify import SPEEDS
from magic_pyramid.config import ModelConfig
from magic_pyramid.data import Row
from magic_pyramid.errors import ConfigError, InputError, nearest
from magic_pyramid.predictions import Predictions

ANSWER_FIELDS = (
    "label",
    "score",
    "probabilities",
    "exit_layer",
    "num_layers_run",
    "tokens",
    "num_tokens",
    "gflops",
)
"""What an answered row gains: ``score`` is the highest probability (regression: the number), ``exit_layer``
counts from 0, ``tokens`` is the length of the input, ``num_tokens`` the tokens alive from layer to layer."""
SPAN_FIELDS = (
    "answer",
    "score",
    "start",
    "end",
    "num_windows",
    "num_layers_run",
    "tokens",
    "num_tokens",
    "gflops",
)
"""What an answered question gains: ``start`` and ``end`` are characters of the context; costs are those of
all its windows together."""
ERROR_FIELD = "error"
"""What a bad row gains instead; it begins with the line of the input."""
INPUT_PREFIX = "input_"
"""Put before a column of the input that is called like one of ours, so that nothing is lost."""

CHUNK_ROWS = 1024
"""Rows that are answered together."""
CHUNK_CHARACTERS = 2_000_000
"""At most about this many characters are answered together."""
_DIGITS = 6
_ALONE = "input 0 (counted from 0): "

Predict = Callable[..., Predictions | Sequence[Mapping[str, Any]]]
"""Answers texts in their order, and takes ``speed``, one for each, where rows name theirs; raises InputError
when any of the texts cannot be used. Questions get an answer as ``QuestionAnswering`` gives it, each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRow:
    """One row of the input and what became of it."""

    row: Row
    answer: Mapping[str, Any] | None
    """``fields_of`` the model; None for a bad row."""
    error: str | None
    """What is wrong with a bad row and what to do; None for a good one."""
    names: tuple[str, ...] = ANSWER_FIELDS
    """What good rows gain."""

    def fields(self) -> dict[str, Any]:
        """The output row: the columns of the input, then the answer or the error."""
        added = {ERROR_FIELD: f"line {self.row.line}: {self.error}"} if self.answer is None else self.answer
        return {**kept_fields(self.row, names=self.names), **added}


@dataclass(slots=True)
class StreamTotals:
    """Sums over the rows of a stream."""

    num_rows: int = 0
    num_bad: int = 0
    num_layers_run: int = 0
    num_tokens: int = 0
    gflops: float = 0.0

    def add(self, rows: Iterable[AnsweredRow]) -> None:
        """Count rows that were answered now."""
        for row in rows:
            self.num_rows += 1
            self.num_bad += row.answer is None
            if row.answer is not None:
                self.num_layers_run += row.answer["num_layers_run"]
                self.num_tokens += row.answer["tokens"]
                self.gflops += row.answer["gflops"]

    def means(self) -> dict[str, float | None]:
        """Means over the rows that have an answer; None where there is none."""
        good = self.num_rows - self.num_bad
        return {
            "mean_layers": self.num_layers_run / good if good else None,
            "mean_input_tokens": self.num_tokens / good if good else None,
            "gflops": self.gflops / good if good else None,
        }


def fields_of(config: ModelConfig) -> tuple[str, ...]:
    """What a row gains that a model of this config answers."""
    return ANSWER_FIELDS if config.span is None else SPAN_FIELDS


def answer_rows(
    rows: Iterable[Row],
    predict: Predict,
    *,
    config: ModelConfig,
    chunk_rows: int = CHUNK_ROWS,
    speed_field: str | None = None,
) -> Iterator[list[AnsweredRow]]:
    """Answer rows in chunks, each in the order of the input; at most one chunk is in memory.

    Args:
        rows: the input.
        predict: answers texts.
        config: the model's.
        chunk_rows: rows of a chunk.
        speed_field: field of a row that names its speed, which ``predict`` then gets as a list ``speed``; a
            row without a value runs at the stored setting.

    Raises:
        ConfigError: ``chunk_rows`` is not positive.
        InputError: the input as a whole cannot be read further; what came before has been given out.
    """
    if chunk_rows < 1:
        raise ConfigError(f"chunk_rows is {chunk_rows}; it must be at least 1")
    for read in _chunks(rows, chunk_rows):
        chunk = [_with_speed_checked(row, speed_field) for row in read]
        good = [place for place, row in enumerate(chunk) if row.example is not None]
        answered = _answer(predict, [chunk[place] for place in good], config, speed_field)
        answers = dict(zip(good, answered, strict=True))
        yield [
            answers.get(place, _answered(config, row=row, answer=None, error=row.error))
            for place, row in enumerate(chunk)
        ]


def _answered(config: ModelConfig, **fields: Any) -> AnsweredRow:
    return AnsweredRow(**fields, names=fields_of(config))


def kept_fields(row: Row, *, names: Sequence[str] = ANSWER_FIELDS) -> dict[str, Any]:
    """The columns of the input, renamed where the answer uses their names."""
    taken = {*names, ERROR_FIELD}
    fields: dict[str, Any] = {}
    for name, value in row.raw.items():
        free = name
        while free in taken or (free != name and free in row.raw):
            free = INPUT_PREFIX + free
        fields[free] = value
    return fields


def _chunks(rows: Iterable[Row], chunk_rows: int) -> Iterator[list[Row]]:
    iterator, chunk, size = iter(rows), list[Row](), 0
    while True:
        try:
            row = next(iterator, None)
        except InputError:
            if chunk:
                yield chunk
            raise
        if row is None:
            break
        chunk.append(row)
        size += len(row.example.text) + len(row.example.text_pair or "") if row.example else 0
        if len(chunk) == chunk_rows or size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _with_speed_checked(row: Row, field: str | None) -> Row:
    """A row that does not have the field is bad, and one whose speed has no such name; it may be empty."""
    if field is None or row.example is None:
        return row
    if field not in row.raw:
        return replace(row, example=None, error=f"there is no {field!r}; {nearest(field, map(str, row.raw))}")
    name = row.raw[field]
    if not name or name in SPEEDS:
        return row
    return replace(row, example=None, error=f"{field} is {name!r}; {nearest(str(name), SPEEDS)}")


def _answer(
    predict: Predict, rows: Sequence[Row], config: ModelConfig, speed_field: str | None
) -> list[AnsweredRow]:
    """Answers of readable rows; where a text cannot be used, halving finds it."""
    if not rows:
        return []
    try:
        texts = [row.example.inputs for row in rows if row.example is not None]
        speeds = {} if speed_field is None else {"speed": [row.raw.get(speed_field) or None for row in rows]}
        predictions = predict(texts, **speeds)
    except InputError as error:
        if len(rows) == 1:
            return [_answered(config, row=rows[0], answer=None, error=str(error).removeprefix(_ALONE))]
        middle = len(rows) // 2
        halves = rows[:middle], rows[middle:]
        return [answer for half in halves for answer in _answer(predict, half, config, speed_field)]
    if isinstance(predictions, Predictions):
        answers = [_receipt(predictions, place, config) for place in range(len(rows))]
    else:
        answers = [_span_receipt(found, config) for found in predictions]
    return [
        _answered(config, row=row, answer=answer, error=None)
        for row, answer in zip(rows, answers, strict=True)
    ]


def _span_receipt(found: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    return {
        **{name: found[name] for name in ("answer", "start", "end", "num_windows", "num_tokens")},
        "score": _rounded(found["score"]),
        "num_layers_run": config.backbone.num_hidden_layers,
        "tokens": found["num_tokens"][0],
        "gflops": _rounded(found["gflops"]),
    }


def _receipt(predictions: Predictions, place: int, config: ModelConfig) -> dict[str, Any]:
    values = [_rounded(value) for value in predictions.probabilities[place]]
    num_tokens = [int(count) for count in predictions.num_tokens[place]]
    exit_layer = int(predictions.exit_layer[place])
    label = predictions.labels[place]
    answer = (
        _rounded(label) if config.problem_type == "regression" else label,
        max(values),
        dict(zip(config.labels, values, strict=True)),
        exit_layer,
        exit_layer + 1,
        num_tokens[0],
        num_tokens,
        _rounded(predictions.gflops[place]),
    )
    return dict(zip(ANSWER_FIELDS, answer, strict=True))


def _rounded(value: float) -> float:
    """Six significant digits: what a person or a program still uses."""
    number = float(value)
    if number == 0 or not math.isfinite(number):
        return number
    return round(number, _DIGITS - 1 - math.floor(math.log10(abs(number))))

"""Answer any number of rows with constant memory: good rows get an answer, bad ones an error.

While one chunk of rows is in the engine, the next one is read and tokenised in another thread.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar

from magic_pyramid.config import ModelConfig
from magic_pyramid.data import Row
from magic_pyramid.errors import ConfigError, InputError
from magic_pyramid.predictions import Predictions
from magic_pyramid.tokenization import EncodedTexts, Text

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

Item = TypeVar("Item")
Encode = Callable[[list[Text]], EncodedTexts]
"""Token ids of texts, in their order; raises InputError when any of them cannot be used."""
Answer = Callable[[EncodedTexts], Predictions]
"""The answers to tokenised texts, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRow:
    """One row of the input and what became of it."""

    row: Row
    answer: Mapping[str, Any] | None
    """``ANSWER_FIELDS``; None for a bad row."""
    error: str | None
    """What is wrong with a bad row and what to do; None for a good one."""

    def fields(self) -> dict[str, Any]:
        """The output row: the columns of the input, then the answer or the error."""
        added = {ERROR_FIELD: f"line {self.row.line}: {self.error}"} if self.answer is None else self.answer
        return {**kept_fields(self.row), **added}


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


def answer_rows(
    rows: Iterable[Row],
    encode: Encode,
    answer: Answer,
    *,
    config: ModelConfig,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[list[AnsweredRow]]:
    """Answer rows in chunks, each in the order of the input; at most two chunks are in memory.

    Args:
        rows: the input; read in another thread.
        encode: tokenises; called in another thread.
        answer: the engine.
        config: of the model.
        chunk_rows: rows that are answered together, at least 1.

    Raises:
        ConfigError: ``chunk_rows`` is not positive.
        InputError: the input as a whole cannot be read further; what came before has been given out.
    """
    if chunk_rows < 1:
        raise ConfigError(f"chunk_rows is {chunk_rows}; it must be at least 1")
    for chunk in _ahead(_encode(chunk, encode) for chunk in _chunks(rows, chunk_rows)):
        yield list(_answered(chunk, answer, config))


def kept_fields(row: Row) -> dict[str, Any]:
    """The columns of the input, renamed where the answer uses their names."""
    taken = {*ANSWER_FIELDS, ERROR_FIELD}
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


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items, each made in another thread while the one before it is used."""
    coming = _start(items)
    while (item := coming.result()) is not None:
        coming = _start(items)
        yield item


def _start(items: Iterator[Item]) -> "Future[Item | None]":
    future: Future[Item | None] = Future()

    def work() -> None:
        try:
            future.set_result(next(items, None))
        except BaseException as error:
            future.set_exception(error)

    # A daemon, so that Ctrl-C need not wait for the rest of a line on standard input.
    Thread(target=work, daemon=True).start()
    return future


@dataclass(frozen=True, slots=True)
class _EncodedChunk:
    rows: list[Row]
    errors: dict[int, str]
    """By place in the chunk."""
    encoded: EncodedTexts
    """The texts of the other rows."""


def _encode(rows: list[Row], encode: Encode) -> _EncodedChunk:
    errors = {place: row.error or "" for place, row in enumerate(rows) if row.example is None}
    good = [place for place in range(len(rows)) if place not in errors]
    texts = [row.example.inputs for row in rows if row.example is not None]
    encoded, unusable = _encode_usable(texts, encode)
    return _EncodedChunk(rows, errors | {good[place]: error for place, error in unusable.items()}, encoded)


def _encode_usable(texts: list[Text], encode: Encode) -> tuple[EncodedTexts, dict[int, str]]:
    """Token ids of the texts that have some, and what is wrong with the others; halving finds them."""
    if not texts:
        return EncodedTexts([], []), {}
    try:
        return encode(texts), {}
    except InputError as error:
        if len(texts) == 1:
            return EncodedTexts([], []), {0: str(error).removeprefix(_ALONE)}
    middle = len(texts) // 2
    first, first_errors = _encode_usable(texts[:middle], encode)
    second, second_errors = _encode_usable(texts[middle:], encode)
    encoded = EncodedTexts(first.token_ids + second.token_ids, first.token_type_ids + second.token_type_ids)
    return encoded, first_errors | {middle + place: error for place, error in second_errors.items()}


def _answered(chunk: _EncodedChunk, answer: Answer, config: ModelConfig) -> Iterator[AnsweredRow]:
    predictions = answer(chunk.encoded) if len(chunk.encoded) else None
    places = iter(range(len(chunk.encoded)))
    for place, row in enumerate(chunk.rows):
        if place in chunk.errors:
            yield AnsweredRow(row=row, answer=None, error=chunk.errors[place])
        else:
            assert predictions is not None
            yield AnsweredRow(row=row, answer=_receipt(predictions, next(places), config), error=None)


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

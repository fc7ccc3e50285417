"""Go on with an interrupted output file of `predict`, after checking that it belongs to this input."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magic_pyramid.cli.output import plain
from magic_pyramid.cli.row_files import table_cell
from magic_pyramid.data import Row
from magic_pyramid.data.records import Record, read_records
from magic_pyramid.errors import InputError
from magic_pyramid.prediction_stream import ANSWER_FIELDS, ERROR_FIELD, kept_fields

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What an interrupted output holds."""

    num_rows: int
    num_bad: int
    num_bytes: int
    """Length of its complete rows; what follows is half a row."""
    header: list[str] | None
    """Columns of a table; None for JSON Lines, or when there is none yet."""


NOTHING = Finished(num_rows=0, num_bad=0, num_bytes=0, header=None)


def finished_rows(
    output: Path,
    rows: Iterator[Row],
    *,
    format: str,
    labels: Sequence[str],
    names: Sequence[str] = ANSWER_FIELDS,
) -> Finished:
    """Take as many rows from the input as the output answers already; the output is only read.

    Raises:
        InputError: the output was not made from this input, or not by a model with these labels.
    """
    if not output.exists():
        return NOTHING
    num_bytes = complete_bytes(output, is_csv=format == "csv")
    num_rows = num_bad = 0
    header = _header(output, num_bytes, format)
    with output.open("rb") as file:
        head = io.BufferedReader(_Head(file, num_bytes))
        for record in _records(head, format, output):
            row = next(rows, None)
            if row is None:
                raise _foreign(output, record.line, "the input has fewer rows")
            _check(output, record, row, format=format, labels=labels, names=names)
            num_rows += 1
            num_bad += bool(record.fields.get(ERROR_FIELD))
    return Finished(num_rows=num_rows, num_bad=num_bad, num_bytes=num_bytes, header=header)


def complete_bytes(path: Path, *, is_csv: bool) -> int:
    """Length of a file up to the end of its last complete row; inside CSV quotes a line break ends no row."""
    length = position = quotes = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            if is_csv:
                for line in _lines(block):
                    position += len(line)
                    quotes += line.count(b'"')
                    if line.endswith(b"\n") and quotes % 2 == 0:
                        length = position
            else:
                end = block.rfind(b"\n")
                length = position + end + 1 if end >= 0 else length
                position += len(block)
    return length


def _lines(block: bytes) -> list[bytes]:
    """Pieces that end with a line feed; a lone carriage return ends nothing."""
    pieces = block.split(b"\n")
    return [piece + b"\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])


def _header(output: Path, num_bytes: int, format: str) -> list[str] | None:
    if format == "jsonl" or num_bytes == 0:
        return None
    with output.open("rb") as file:
        first = next(_records(io.BufferedReader(_Head(file, num_bytes)), format, output), None)
        if first is None:
            file.seek(0)
            line = file.read(num_bytes).decode("utf-8", errors="replace").rstrip("\n")
            return line.split("\t") if format == "tsv" else _csv_cells(line)
        return list(first.fields)


def _csv_cells(line: str) -> list[str]:
    return next(csv.reader([line]))


def _records(stream: Any, format: str, output: Path) -> Iterator[Record]:
    for record in read_records(stream, format=format):
        if record.error is not None:
            raise _foreign(output, record.line, f"it cannot be read ({record.error})")
        yield record


def _check(
    output: Path, record: Record, row: Row, *, format: str, labels: Sequence[str], names: Sequence[str]
) -> None:
    written, error = record.fields, record.fields.get(ERROR_FIELD)
    if names[0] not in written and not error:
        raise _foreign(output, record.line, f"it has no {names[0]} and no error")
    if error and not str(error).startswith(f"line {row.line}: "):
        raise _foreign(output, record.line, f"its error is not about line {row.line} of the input")
    found = {name: value for name, value in written.items() if name not in (*names, ERROR_FIELD)}
    kept = kept_fields(row, names=names)
    if format == "jsonl":
        wanted = json.loads(json.dumps(plain(kept)))
    else:
        wanted = {name: table_cell(kept.get(name), format) for name in found}
    if found != wanted:
        raise _foreign(output, record.line, f"its columns differ from line {row.line} of the input")
    if "probabilities" in names and not error and set(_names(written.get("probabilities"))) != set(labels):
        raise _foreign(output, record.line, "its probabilities are of other labels than the model's")


def _names(probabilities: Any) -> list[str]:
    try:
        found = json.loads(probabilities) if isinstance(probabilities, str) else probabilities
    except ValueError:
        return []
    return list(found) if isinstance(found, dict) else []


def _foreign(output: Path, line: int, why: str) -> InputError:
    return InputError(
        f"--resume: line {line} of {output} is not the answer to its row of this input: {why}; "
        "give the same input and model, another --output, or leave --resume out to start afresh"
    )


class _Head(io.RawIOBase):
    """The first bytes of a file."""

    def __init__(self, file: io.BufferedReader, num_bytes: int) -> None:
        self.file, self.left = file, num_bytes

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read on, but not past the end that was given."""
        data = self.file.read(min(len(buffer), self.left))
        buffer[: len(data)] = data
        self.left -= len(data)
        return len(data)

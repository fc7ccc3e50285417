"""Output files of `predict`: rows written as JSON Lines, CSV or TSV, a chunk at a time."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

from magic_pyramid.cli.output import plain
from magic_pyramid.errors import ConfigError, nearest
from magic_pyramid.prediction_stream import ANSWER_FIELDS, ERROR_FIELD

OUTPUT_FORMATS = ("jsonl", "csv", "tsv")
_BREAKS = re.compile(r"[\t\r\n]+")

OutputRow = Mapping[str, Any]


class RowWriter(Protocol):
    """Writes output rows."""

    def write(self, rows: Sequence[OutputRow]) -> None:
        """Write rows and hand them to the system."""

    def close(self) -> None:
        """Write what had to wait."""


def check_output_format(name: str) -> str:
    """The format of this name.

    Raises:
        ConfigError: predictions are not written in it.
    """
    if name.lower() not in OUTPUT_FORMATS:
        raise ConfigError(f"predictions are not written as {name!r}; {nearest(name, OUTPUT_FORMATS)}")
    return name.lower()


def row_writer(
    stream: BinaryIO,
    format: str,
    *,
    header: Sequence[str] | None = None,
    names: Sequence[str] = ANSWER_FIELDS,
) -> RowWriter:
    """A writer onto a stream; ``header`` is that of a table that already stands there.

    ``names`` are the fields of an answer.
    """
    return JsonLines(stream) if format == "jsonl" else TableRows(stream, format, header=header, names=names)


class JsonLines:
    """One JSON object a line."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def write(self, rows: Sequence[OutputRow]) -> None:
        """Write rows and hand them to the system."""
        self.stream.write(b"".join(_json_line(row) for row in rows))
        self.stream.flush()

    def close(self) -> None:
        """Nothing waits."""


class TableRows:
    """CSV or TSV: the columns of the first readable row, then those of the answer and of the error."""

    def __init__(
        self,
        stream: BinaryIO,
        format: str,
        *,
        header: Sequence[str] | None = None,
        names: Sequence[str] = ANSWER_FIELDS,
    ) -> None:
        self.stream, self.format = stream, format
        self.names = (*names, ERROR_FIELD)
        self.header = None if header is None else list(header)
        self.waiting: list[OutputRow] = []
        self.left_out: set[str] = set()

    def write(self, rows: Sequence[OutputRow]) -> None:
        """Write rows and hand them to the system; until a row tells the columns, they wait."""
        if self.header is None:
            self.waiting += rows
            readable = next((row for row in rows if set(row) != {ERROR_FIELD}), None)
            if readable is None:
                return
            self._begin(readable)
            rows, self.waiting = self.waiting, []
        self._write(rows)

    def close(self) -> None:
        """Write what had to wait."""
        if self.waiting:
            self._begin({})
            self._write(self.waiting)
            self.waiting = []

    def _begin(self, row: OutputRow) -> None:
        self.header = [*(name for name in row if name not in self.names), *self.names]
        self._write_lines([self.header])

    def _write(self, rows: Sequence[OutputRow]) -> None:
        assert self.header is not None
        header = self.header
        for row in rows:
            self.left_out.update(name for name in row if name not in header)
        self._write_lines([table_cell(row.get(name), self.format) for name in header] for row in rows)

    def _write_lines(self, lines: Iterable[Sequence[str]]) -> None:
        text = io.StringIO()
        if self.format == "csv":
            csv.writer(text, lineterminator="\n").writerows(lines)
        else:
            text.writelines("\t".join(map(_tsv_quoted, cells)) + "\n" for cells in lines)
        self.stream.write(text.getvalue().encode("utf-8", errors="replace"))
        self.stream.flush()


def table_cell(value: Any, format: str) -> str:
    """A value as the text of one cell: what is no text or number is written as JSON."""
    value = plain(value)
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.encode("utf-8", errors="replace").decode("utf-8")
    return _BREAKS.sub(" ", text) if format == "tsv" else text


def _tsv_quoted(cell: str) -> str:
    # A reader takes the quotes off a cell that is quoted as a whole; such a cell gets a second pair.
    is_quoted = len(cell) >= 2 and cell[0] == cell[-1] == '"'
    return '"' + cell.replace('"', '""') + '"' if is_quoted else cell


def _json_line(row: OutputRow) -> bytes:
    data = plain(row)
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair somewhere in the input
        return json.dumps(data, allow_nan=False).encode() + b"\n"

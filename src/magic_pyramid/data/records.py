"""Records of a file, one by one: CSV, TSV, JSON and its lines, plain text, Parquet, each also gzipped."""

import csv
import gzip
import io
import itertools
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from magic_pyramid.data.squad import rows_of
from magic_pyramid.errors import InputError, nearest

_LONGEST_CELL = 10_000_000
_PARQUET_BATCH = 1024
_DAMAGED_GZIP = "the compressed file is damaged or cut short from here on; make or fetch it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record as it stands in its file: named fields, or what is wrong with it."""

    line: int
    """Line on which it starts, from 1; in Parquet and JSON the row, from 1."""
    fields: dict[str, Any]
    """Values by column name; empty when the record is broken."""
    error: str | None = None
    """What is wrong and what to do; None: the record could be read."""


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    text: str
    error: str | None = None


def format_of(path: str | Path) -> str:
    """Format that a file's name tells, ``.gz`` apart.

    Raises:
        InputError: the ending is not one of ours.
    """
    name = Path(path).name.lower().removesuffix(".gz")
    ending = name.rpartition(".")[2] if "." in name else ""
    if ending not in FORMATS:
        raise InputError(
            f"{path} does not end like a known format; rename it or say which it is: {_known_formats()}"
        )
    return FORMATS[ending]


def check_format(name: str) -> str:
    """Our name of a format given by the user.

    Raises:
        InputError: there is no such format.
    """
    ending = name.lower().removeprefix(".").removesuffix(".gz")
    if ending not in FORMATS:
        raise InputError(f"format {name!r} is unknown; {nearest(ending, FORMATS)}")
    return FORMATS[ending]


@contextmanager
def open_bytes(source: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    """Bytes of a file or of an open stream, expanded when they are gzipped.

    Raises:
        InputError: the file cannot be opened.
    """
    with _open(source) as raw:
        stream = (
            raw if hasattr(raw, "peek") else cast("BinaryIO", io.BufferedReader(cast("io.RawIOBase", raw)))
        )
        # The content decides, not the name: standard input has none.
        is_gzip = stream.peek(2)[:2] == b"\x1f\x8b"  # type: ignore[attr-defined]
        if is_gzip:
            stream = cast("BinaryIO", gzip.GzipFile(fileobj=stream))
        yield stream


def _open(source: str | Path | BinaryIO) -> AbstractContextManager[BinaryIO]:
    if not isinstance(source, str | Path):
        return nullcontext(source)
    try:
        return Path(source).open("rb")
    except OSError as error:
        raise InputError(f"{source} cannot be opened: {error.strerror}; give a readable file") from None


def read_records(stream: BinaryIO, *, format: str) -> Iterator[Record]:
    """Records of a stream; a broken record carries its error and the next one follows.

    Memory is constant, except for JSON, which is read as a whole.

    Raises:
        InputError: the whole file is unusable: two columns of one name, or no JSON, or not a Parquet file.
    """
    return _READERS[format](stream)


def _lines(stream: BinaryIO) -> Iterator[_Line]:
    for number in itertools.count(1):
        try:
            line = stream.readline()
        except (EOFError, zlib.error, gzip.BadGzipFile):
            yield _Line(number, "", _DAMAGED_GZIP)
            return
        if not line:
            return
        yield _decoded(number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)


def _decoded(number: int, line: bytes) -> _Line:
    try:
        return _Line(number, line.decode("utf-8"))
    except UnicodeDecodeError as error:
        wrong = (
            f"broken UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1}; save the file as UTF-8"
        )
        return _Line(number, line.decode("utf-8", errors="replace"), wrong)


def _broken(line: int, error: str) -> Record:
    return Record(line=line, fields={}, error=error)


def _read_text(stream: BinaryIO) -> Iterator[Record]:
    for line in _lines(stream):
        if line.error:
            yield _broken(line.number, line.error)
        else:
            yield Record(line=line.number, fields={"text": line.text.rstrip("\r\n")})


def _read_jsonl(stream: BinaryIO) -> Iterator[Record]:
    for line in _lines(stream):
        if line.error:
            yield _broken(line.number, line.error)
        elif line.text.strip():
            yield _json_record(line)


def _json_record(line: _Line) -> Record:
    try:
        fields = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        return _broken(line.number, f"malformed JSON: {error}; write one JSON object a line")
    if not isinstance(fields, dict):
        return _broken(
            line.number, f"a JSON {type(fields).__name__}, not an object; write one JSON object a line"
        )
    return Record(line=line.number, fields=fields)


def _read_json(stream: BinaryIO) -> Iterator[Record]:
    try:
        document = json.loads(stream.read().decode("utf-8-sig"))
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(_DAMAGED_GZIP) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"malformed JSON: {error}; a file with one object a line ends in .jsonl") from None
    for number, row in enumerate(rows_of(document), start=1):
        if isinstance(row, dict):
            yield Record(line=number, fields=row)
        else:
            yield _broken(number, f"a JSON {type(row).__name__}, not an object; write a list of objects")


def _read_csv(stream: BinaryIO) -> Iterator[Record]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    errors: list[_Line] = []
    lines = _texts(_lines(stream), errors)
    first = next(lines, "")
    delimiter = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if not errors:
                yield _broken(
                    line, f"malformed CSV: {error}; close every quote, and double those inside a cell"
                )
            row = []
        if errors:
            _check_header(header, errors[0])
            yield from (_broken(bad.number, cast("str", bad.error)) for bad in errors)
            errors.clear()
        elif row and header is None:
            header = _header(row)
        elif row:
            yield _table_record(line, row, cast("list[str]", header), advice="quote cells that hold a comma")


def _texts(lines: Iterable[_Line], errors: list[_Line]) -> Iterator[str]:
    for line in lines:
        if line.error:
            errors.append(line)
        yield line.text


def _read_tsv(stream: BinaryIO) -> Iterator[Record]:
    header: list[str] | None = None
    for line in _lines(stream):
        cells = [_unquoted(cell) for cell in line.text.rstrip("\r\n").split("\t")]
        if line.error:
            _check_header(header, line)
            yield _broken(line.number, line.error)
        elif cells == [""]:
            continue
        elif header is None:
            header = _header(cells)
        else:
            yield _table_record(
                line.number, cells, header, advice="a TSV cell holds no tab and no line break"
            )


def _unquoted(cell: str) -> str:
    # A TSV has no quoting rule, so a lone quote is text; only a cell quoted as a whole is taken as quoted.
    inside = cell[1:-1]
    is_quoted = len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inside.replace('""', "")
    return inside.replace('""', '"') if is_quoted else cell


def _header(cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(
            f"the first line names the column {twice[0]!r} twice; give every column its own name"
        )
    return names


def _check_header(header: list[str] | None, line: _Line) -> None:
    if header is None:
        raise InputError(f"the column names in line {line.number} cannot be read: {line.error}")


def _table_record(line: int, cells: list[str], header: list[str], *, advice: str) -> Record:
    if len(cells) != len(header):
        return _broken(line, f"{len(cells)} cells where the first line names {len(header)} columns; {advice}")
    return Record(line=line, fields={name: cell for name, cell in zip(header, cells, strict=True) if name})


def _read_parquet(stream: BinaryIO) -> Iterator[Record]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    with _seekable(stream) as file:
        row = 0
        try:
            for batch in ParquetFile(file).iter_batches(batch_size=_PARQUET_BATCH):
                for fields, error in _batch_rows(batch):
                    row += 1
                    yield Record(line=row, fields=fields, error=error)
        except (pyarrow.ArrowException, OSError, EOFError, zlib.error) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"not a whole Parquet file after row {row} ({reason}); write or fetch it again"
            ) from None


@contextmanager
def _seekable(stream: BinaryIO) -> Iterator[BinaryIO]:
    if not isinstance(cast("object", stream), gzip.GzipFile) and stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile() as copy:
        try:
            shutil.copyfileobj(stream, copy)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise InputError(f"row 1: {_DAMAGED_GZIP}") from None
        copy.seek(0)
        yield copy


def _batch_rows(batch: Any) -> Iterator[tuple[dict[str, Any], str | None]]:
    try:
        yield from ((fields, None) for fields in batch.to_pylist())
    except UnicodeDecodeError:
        yield from (_slow_row(batch, row) for row in range(batch.num_rows))


def _slow_row(batch: Any, row: int) -> tuple[dict[str, Any], str | None]:
    try:
        return batch.slice(row, 1).to_pylist()[0], None
    except UnicodeDecodeError as error:
        return {}, f"broken UTF-8: {error.reason}; write the file again from UTF-8 text"


def _known_formats() -> str:
    return ", ".join(f".{ending}" for ending in FORMATS) + ", each also .gz"


FORMATS = {
    "csv": "csv",
    "tsv": "tsv",
    "json": "json",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
    "txt": "txt",
}
"""File ending to format."""

_READERS: dict[str, Callable[[BinaryIO], Iterator[Record]]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "json": _read_json,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "txt": _read_text,
}

"""Rows of a file or of standard input, one at a time, for prediction."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from magic_pyramid.data.examples import Columns, Example, TextColumns, find_columns, read_example
from magic_pyramid.data.records import Record, check_format, format_of, open_bytes, read_records
from magic_pyramid.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of an input file: an example, or what is wrong with it."""

    line: int
    """Line on which it starts, from 1; in Parquet the row, from 1."""
    example: Example | None
    """The texts, without a label; None when the row is bad."""
    raw: dict[str, Any]
    """All fields of the row, as they stand in the file."""
    error: str | None = None
    """What is wrong and what to do; None for a good row."""


def iter_rows(
    source: str | Path | BinaryIO, *, format: str | None = None, columns: Columns | None = None
) -> Iterator[Row]:
    """Rows in the order of the file, with constant memory; a bad row is given with its error.

    ``source`` is a file, an open binary stream, or ``"-"`` for standard input. Where no name tells the format
    (csv, tsv, jsonl, txt, parquet), it is JSON Lines. Blank lines are passed over, except in plain text.

    Raises:
        InputError: the file or its format cannot be used at all, or no column of a table holds the text.
    """
    if format is not None:
        used_format = check_format(format)
    elif isinstance(source, str | Path) and str(source) != "-":
        used_format = format_of(source)
    else:
        used_format = "jsonl"
    if isinstance(source, str | Path) and str(source) != "-":
        name, opened = str(source), Path(source)
        if not opened.is_file():
            raise InputError(f"{source} is not a file; give a file, or - for standard input")
        return _rows(opened, used_format, columns or Columns(), name)
    stream = sys.stdin.buffer if isinstance(source, str | Path) else source
    return _rows(stream, used_format, columns or Columns(), "standard input")


def _rows(source: Path | BinaryIO, format: str, columns: Columns, name: str) -> Iterator[Row]:
    found: TextColumns | None = None
    with open_bytes(source) as stream:
        try:
            for record in read_records(stream, format=format):
                if found is None and record.error is None:
                    found = _columns_of(record, columns, is_table=format != "jsonl")
                yield _row(record, found, columns)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None


def _columns_of(record: Record, columns: Columns, *, is_table: bool) -> TextColumns | None:
    try:
        return find_columns(record.fields, columns)
    except InputError:
        # A JSON object names its own fields, so one without a text is one bad row; a header is for all rows.
        if is_table:
            raise
        return None


def _row(record: Record, found: TextColumns | None, columns: Columns) -> Row:
    if record.error is not None:
        return Row(line=record.line, example=None, raw=record.fields, error=record.error)
    try:
        used = found if found is not None else find_columns(record.fields, columns)
        return Row(line=record.line, example=read_example(record.fields, used), raw=record.fields)
    except InputError as error:
        return Row(line=record.line, example=None, raw=record.fields, error=str(error))

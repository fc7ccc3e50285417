"""Small data files of every format, and the refusals they meet."""

import csv
import gzip
import io
import json

import pytest

from magic_pyramid.data import iter_rows, load_data
from magic_pyramid.errors import InputError

ROWS = [{"text": f"text {i}", "label": ("pos", "neg", "odd")[i % 3]} for i in range(30)]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def parquet(path, rows):
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def tsv(path, rows):
    return table(path, rows, delimiter="\t")


WRITERS = {"csv": table, "tsv": tsv, "jsonl": jsonl, "parquet": parquet}


def zipped(path):
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def texts(examples):
    return [example.text for example in examples]


def refusal(source, **options):
    with pytest.raises(InputError) as caught:
        load_data(source, **options)
    return str(caught.value)


def read(content, format, **options):
    return list(iter_rows(io.BytesIO(content), format=format, **options))

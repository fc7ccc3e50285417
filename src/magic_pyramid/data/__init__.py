"""Labelled texts from files, folders and the hub, and rows streamed for prediction."""

from magic_pyramid.data.examples import Columns, Example
from magic_pyramid.data.fingerprints import row_fingerprints
from magic_pyramid.data.loading import LabelledData, fingerprint_of, load_data
from magic_pyramid.data.streaming import Row, iter_rows

__all__ = [
    "Columns",
    "Example",
    "LabelledData",
    "Row",
    "fingerprint_of",
    "iter_rows",
    "load_data",
    "row_fingerprints",
]

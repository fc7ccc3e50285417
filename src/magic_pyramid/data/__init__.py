"""Labelled texts from files, folders and the hub, and rows streamed for prediction."""

from magic_pyramid.data.examples import Columns, Example
from magic_pyramid.data.loading import LabelledData, load_data
from magic_pyramid.data.streaming import Row, iter_rows

__all__ = ["Columns", "Example", "LabelledData", "Row", "iter_rows", "load_data"]

"""Results on stdout, as JSON or for people; messages on stderr."""

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console

FILE_WIDTH = 140
"""Columns of a table that goes into a file or another program."""


def print_json(data: Any) -> None:
    """One JSON document, readable by any program: no NaN, no character outside ASCII."""
    sys.stdout.write(json.dumps(plain(data), indent=2, allow_nan=False) + "\n")


def show(*parts: Any) -> None:
    """Print what rich can draw, fitted to the terminal."""
    width = None if sys.stdout.isatty() else FILE_WIDTH
    console = Console(file=sys.stdout, highlight=False, width=width)
    for part in parts:
        console.print(part)


def say(message: str) -> None:
    """A line for people that is no result."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def plain(value: Any) -> Any:
    """The value in JSON's own types: numpy's numbers become Python's, what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)

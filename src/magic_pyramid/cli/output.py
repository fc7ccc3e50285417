"""Results on stdout, as JSON or for people; messages on stderr."""

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from magic_pyramid.errors import ConfigError

PICTURE_SUFFIXES = (".png", ".svg")
"""What names of pictures end in."""
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


def check_target(path: Path | None, *, suffixes: Sequence[str] = ()) -> None:
    """Raise ConfigError when a file has none of the suffixes, or its folder does not exist."""
    if path is not None and suffixes and path.suffix.lower() not in suffixes:
        raise ConfigError(f"{path} ends in {path.suffix!r}; name a file that ends in {' or '.join(suffixes)}")
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        problem = "is a folder" if path.is_dir() else "lies in a folder that does not exist"
        raise ConfigError(f"{path} {problem}; name a file in a folder that exists")


def typed(argv: Sequence[str]) -> str:
    """The command as it was typed, without folders that only this machine has: it is kept and published."""
    return shlex.join(["magic-pyramid", *map(_without_folders, argv)])


def _without_folders(word: str) -> str:
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else word


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

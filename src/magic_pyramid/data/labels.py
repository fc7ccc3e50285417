"""Labels: what they are called, in which order, and the number behind each value of a file."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from magic_pyramid.config import ProblemType
from magic_pyramid.data.squad import looks_like_answers, read_answers
from magic_pyramid.errors import ConfigError, InputError, nearest
from magic_pyramid.spans import Answer

LABEL_FILE = "labels.json"
"""Stands beside the splits: label names in the order of the integers, or ``{"type": "regression"}``."""

_SCORE_COLUMNS = ("score", "similarity", "similarity_score")
_WHOLE = re.compile(r"[+-]?\d+(\.0+)?")
_MOST_NAMED = 12


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Turns label values of a file into indices or numbers."""

    problem_type: ProblemType
    names: tuple[str, ...]
    """Label names in the order of the logits."""
    file_names: tuple[str, ...] | None
    """Names behind the integers of the file, where it says so."""
    _index: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {name: row for row, name in enumerate(self.names)})

    def read(
        self, value: Any, *, context: str | None = None
    ) -> int | float | tuple[int, ...] | tuple[Answer, ...]:
        """Index, number, indices, or answers of a label value.

        Raises:
            InputError: the value is missing, NaN, of the wrong kind, no known label, or not in the context.
        """
        check_present(value)
        if self.problem_type == "span":
            return read_answers(value, context=context)
        if self.problem_type == "regression":
            return _number(value)
        if self.problem_type == "multi_label":
            return tuple(sorted({self._read_one(item) for item in label_list(value)}))
        return self._read_one(value)

    def _read_one(self, value: Any) -> int:
        check_present(value)
        name = label_name(value)
        if self.file_names is not None and (not isinstance(value, str) or name not in self.file_names):
            name = name_behind(value, self.file_names) or name
        if name in self._index:
            return self._index[name]
        # Names given without the data's own: an integer is a place among them, unless the names are integers.
        if self.file_names is None and _WHOLE.fullmatch(name) and not any(map(_WHOLE.fullmatch, self.names)):
            place = int(float(name))
            if 0 <= place < len(self.names):
                return place
        raise InputError(f"label {value!r} is unknown; {self._known(name)}; correct it or delete the row")

    def _known(self, name: str) -> str:
        if len(self.names) <= _MOST_NAMED:
            return nearest(name, self.names)
        return f"known: {', '.join(self.names[:_MOST_NAMED])} and {len(self.names) - _MOST_NAMED} more"


def is_missing(value: Any) -> bool:
    """Whether a label is absent, empty or NaN."""
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan")
    return value is None or (isinstance(value, float) and math.isnan(value))


def check_present(value: Any) -> None:
    """Raise InputError when a label is absent, empty or NaN."""
    if is_missing(value):
        what = "NaN" if isinstance(value, float) or str(value).strip().lower() == "nan" else "missing"
        raise InputError(f"the label is {what}; write one or delete the row")


def label_name(value: Any) -> str:
    """Name of a label value: 1, 1.0 and "1" are the same label.

    Raises:
        InputError: the value is no text and no number.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise InputError(f"the label is a {type(value).__name__}; write a name or a number")
    name = str(value).strip()
    return str(int(float(name))) if "." in name and _WHOLE.fullmatch(name) else name


def label_list(value: Any) -> list[Any]:
    """Labels of a multi-label row: a list, or the JSON text of one.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise InputError(f'the labels {value!r} are no list; write ["one", "two"]') from None
    if not isinstance(value, list | tuple):
        raise InputError(f'the labels are {value!r}; write a list such as ["one", "two"]')
    return list(value)


def name_behind(value: Any, file_names: Sequence[str]) -> str | None:
    """Name that an integer of the file stands for; None when it stands for none."""
    name = label_name(value)
    if isinstance(value, bool):
        name = str(int(value))
    if not _WHOLE.fullmatch(name):
        return None
    place = int(float(name))
    return file_names[place] if 0 <= place < len(file_names) else None


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"the label is {value!r}, not a finite number; correct it or delete the row")
    return number


def guess_problem_type(values: Iterable[Any], *, column: str) -> ProblemType:
    """What labels such as these ask for.

    Texts with their place in a context: ``span``. Other lists: ``multi_label``. Numbers with a fraction, or
    any numbers in a column called score: ``regression``.
    Everything else: ``single_label``, also whole numbers that were stored as 1.0.
    """
    present = [value for value in values if not is_missing(value)]
    if any(map(looks_like_answers, present)):
        return "span"
    if present and all(isinstance(value, list | tuple) or _looks_like_list(value) for value in present):
        return "multi_label"
    numbers = [_number_or_none(value) for value in present]
    if not present or any(number is None for number in numbers):
        return "single_label"
    is_fraction = any(not cast("float", number).is_integer() for number in numbers)
    return "regression" if is_fraction or column.strip().lower() in _SCORE_COLUMNS else "single_label"


def _looks_like_list(value: Any) -> bool:
    return isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]")


def _number_or_none(value: Any) -> float | None:
    try:
        return _number(value)
    except InputError:
        return None


def names_in(values: Iterable[Any], *, problem_type: ProblemType) -> tuple[str, ...]:
    """Distinct label names, whole numbers in numeric order, others by the alphabet; bad ones left out."""
    names: set[str] = set()
    for value in values:
        try:
            items = label_list(value) if problem_type == "multi_label" else [value]
            names.update(label_name(item) for item in items if not is_missing(item))
        except InputError:
            continue
    if all(_WHOLE.fullmatch(name) for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def read_label_file(folder: Path) -> tuple[tuple[str, ...] | None, ProblemType | None]:
    """Label names and problem type that a folder's labels.json states; None for what it does not.

    Raises:
        InputError: the file is there and cannot be understood.
    """
    file = folder / LABEL_FILE
    if not file.is_file():
        return None, None
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not valid JSON ({error}); write a list of label names") from None
    if isinstance(data, dict) and data.get("type") == "regression":
        return None, "regression"
    if not isinstance(data, list) or not data or not all(isinstance(name, str) for name in data):
        raise InputError(
            f'{file} is not a list of label names; write ["first", "second"] or {{"type": "regression"}}'
        )
    return check_names(data, owner=str(file)), None


def check_names(names: Sequence[str], *, owner: str) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        ConfigError: they are one text, or a name is given twice.
    """
    if isinstance(names, str):
        raise ConfigError(f"{owner} is one text, {names!r}; give a list of label names")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ConfigError(f"{owner} names {twice[0]!r} twice; every label has its own name")
    return tuple(names)

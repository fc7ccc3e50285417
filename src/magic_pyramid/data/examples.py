"""Examples, and the columns of a table that hold their texts and labels."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from magic_pyramid.errors import InputError, nearest
from magic_pyramid.spans import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A text or a pair of texts, with its label where it is known."""

    text: str
    """The text, or the first text of a pair."""
    text_pair: str | None = None
    """The second text of a pair."""
    label: int | float | tuple[int, ...] | tuple[Answer, ...] | None = None
    """Index of the label, the number of a regression, the indices of all labels that hold, or the answers to
    a question, none where it has none."""
    group: str | None = None
    """What the row was taken from, such as an article; rows of one group are held out together."""

    @property
    def inputs(self) -> str | tuple[str, str]:
        """What the tokenizer takes: the text, or both texts."""
        return self.text if self.text_pair is None else (self.text, self.text_pair)


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns to use; None: found by the usual names."""

    text: str | None = None
    """Column of the text, or of the first text of a pair."""
    text_pair: str | None = None
    """Column of the second text of a pair."""
    label: str | None = None
    """Column of the label."""


@dataclass(frozen=True, slots=True)
class TextColumns:
    """Names of the columns that hold the texts."""

    text: str
    text_pair: str | None


@dataclass(frozen=True, slots=True)
class LabelledColumns(TextColumns):
    """Names of the columns that hold the texts and the label."""

    label: str


# Within a line the names are equally good; a line is looked at only when those above it found nothing.
_TEXT_NAMES = (
    ("text",),
    (
        "sentence",
        "review",
        "content",
        "document",
        "comment",
        "tweet",
        "message",
        "body",
        "passage",
        "article",
    ),
    ("utterance", "query", "question", "abstract", "description", "summary", "input", "sms", "post"),
    ("title", "headline", "subject"),
)
_LABEL_NAMES = (
    ("label", "labels", "answers"),
    ("category", "intent", "class", "score", "target", "sentiment", "topic", "emotion"),
    ("rating", "stars", "similarity", "similarity_score", "gold_label", "coarse_label", "label_text"),
)
_PAIR_NAMES = (
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question", "answer"),
    ("question", "passage"),
    ("question", "context"),
    ("query", "passage"),
    ("query", "document"),
)


def find_columns(names: Iterable[str], columns: Columns) -> TextColumns:
    """Columns that hold the texts.

    Raises:
        InputError: a given column does not exist, or none or several could be meant.
    """
    found = list(names)
    for option in ("text", "text_pair"):
        _check_given(found, option, getattr(columns, option))
    return TextColumns(*_find_texts(found, columns))


def find_labelled_columns(names: Iterable[str], columns: Columns) -> LabelledColumns:
    """Columns that hold the texts and the label.

    Raises:
        InputError: a given column does not exist, or none or several could be meant.
    """
    found = list(names)
    texts = find_columns(found, columns)
    _check_given(found, "label", columns.label)
    label = columns.label or _find_one(found, _LABEL_NAMES, taken={texts.text, texts.text_pair}, what="label")
    if label is None:
        raise _not_found(found, "label")
    return LabelledColumns(texts.text, texts.text_pair, label)


def _check_given(found: list[str], option: str, given: str | None) -> None:
    if given is not None and given not in found:
        raise InputError(f"there is no column {given!r} ({_option(option)}); {nearest(given, found)}")


def _find_texts(found: list[str], columns: Columns) -> tuple[str, str | None]:
    if columns.text is not None:
        return columns.text, columns.text_pair
    by_name = {name.strip().lower(): name for name in reversed(found) if name != columns.label}
    pairs = [(by_name[a], by_name[b]) for a, b in _PAIR_NAMES if a in by_name and b in by_name]
    if columns.text_pair is not None:
        pairs = [pair for pair in pairs if pair[1] == columns.text_pair]
    elif len(pairs) > 1 or (pairs and "text" in by_name and by_name["text"] not in pairs[0]):
        seen = [" + ".join(pair) for pair in pairs] + ([by_name["text"]] if "text" in by_name else [])
        raise _ambiguous(found, "text", dict.fromkeys(seen))
    if pairs:
        return pairs[0]
    text = _find_one(found, _TEXT_NAMES, taken={columns.text_pair, columns.label}, what="text")
    if text is None:
        raise _not_found(found, "text")
    return text, columns.text_pair


def _find_one(
    found: list[str], tiers: tuple[tuple[str, ...], ...], *, taken: set[str | None], what: str
) -> str | None:
    for tier in tiers:
        matches = [name for name in found if name not in taken and name.strip().lower() in tier]
        if len(matches) > 1:
            raise _ambiguous(found, what, matches)
        if matches:
            return matches[0]
    return None


def _option(what: str) -> str:
    return f"--{what.replace('_', '-')}-column NAME, or columns=Columns({what}=NAME)"


def _not_found(found: list[str], what: str) -> InputError:
    return InputError(
        f"no column is known to hold the {what}; the columns are {_listed(found)}; "
        f"name one with {_option(what)}"
    )


def _ambiguous(found: list[str], what: str, matches: Iterable[str]) -> InputError:
    return InputError(
        f"several columns could hold the {what}: {_listed(matches)}; the columns are {_listed(found)}; "
        f"name one with {_option(what)}"
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none at all"


def read_example(record: Mapping[str, Any], columns: TextColumns) -> Example:
    """The texts of a record, without its label.

    Raises:
        InputError: a text is missing, empty, or no text.
    """
    pair = None if columns.text_pair is None else _read_text(record, columns.text_pair)
    return Example(text=_read_text(record, columns.text), text_pair=pair)


def read_label(record: Mapping[str, Any], columns: LabelledColumns) -> Any:
    """The label of a record, as it stands there.

    Raises:
        InputError: the record has no such column.
    """
    if columns.label not in record:
        raise InputError(f"column {columns.label!r} is missing; add it or delete the row")
    return record[columns.label]


def _read_text(record: Mapping[str, Any], column: str) -> str:
    if column not in record:
        raise InputError(f"column {column!r} is missing; add it or delete the row")
    value = record[column]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise InputError(
            f"{column!r} is {'null' if value is None else 'NaN'}; write a text or delete the row"
        )
    if not isinstance(value, str):
        raise InputError(f"{column!r} is {type(value).__name__}, not a text; put it in quotes")
    if not value.strip():
        raise InputError(f"{column!r} is empty; write a text or delete the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{column!r} holds half of a surrogate pair, broken Unicode; write the text again"
        ) from None
    return value

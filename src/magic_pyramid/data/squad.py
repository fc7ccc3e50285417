"""Questions with answers in a context: SQuAD's nested file as rows, and the answers of a row."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from magic_pyramid.errors import InputError
from magic_pyramid.spans import Answer

_FORM = '{"text": ["Denver Broncos"], "answer_start": [177]}'


def rows_of(document: Any) -> Iterator[Any]:
    """Rows of a JSON document: each question of a SQuAD file, or the objects of a list.

    A question becomes ``id``, ``title``, ``question``, ``context`` and ``answers``.

    Raises:
        InputError: the document is neither, or an article of it is not whole.
    """
    rows = document.get("data") if isinstance(document, Mapping) else document
    if not isinstance(rows, list):
        raise InputError('the file holds no rows; write a list of objects, or SQuAD\'s {"data": [...]}')
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Mapping) and "paragraphs" in row:
            try:
                yield from _questions(row)
            except (KeyError, TypeError) as error:
                raise InputError(
                    f"article {number} is not as SQuAD writes it ({type(error).__name__}: {error}); it has "
                    "title and paragraphs, a paragraph context and qas, each of them id, question and answers"
                ) from None
        else:
            yield row


def _questions(article: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for number, paragraph in enumerate(article["paragraphs"], start=1):
        title = article.get("title", f"paragraph {number}")
        for asked in paragraph["qas"]:
            answers = [] if asked.get("is_impossible") else asked["answers"]
            yield {
                "id": asked.get("id"),
                "title": title,
                "question": asked["question"],
                "context": paragraph["context"],
                "answers": answers,
            }


def looks_like_answers(value: Any) -> bool:
    """Whether a label is answers in a context."""
    try:
        return bool(_pairs(value))
    except InputError:
        return False


def read_answers(value: Any, *, context: str | None) -> tuple[Answer, ...]:
    """Answers as a file has them: lists of texts and starts, a list of objects, or the JSON text of either.

    None are no error: the question has no answer. Without a context their places are not checked.

    Raises:
        InputError: they are of another form, or do not stand in the context where they say.
    """
    answers = tuple(_answer(text, start) for text, start in _pairs(value))
    if context is None:
        return answers
    for answer in answers:
        found = context[answer.start : answer.start + len(answer.text)]
        if found != answer.text:
            raise InputError(
                f"the answer {answer.text!r} is not at character {answer.start} of the context, where "
                f"{found!r} stands; correct answer_start, or delete the answer"
            )
    return answers


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise _no_answers(value) from None
    if isinstance(value, Mapping) and {"text", "answer_start"} <= set(value):
        texts, starts = value["text"], value["answer_start"]
        if isinstance(texts, str):
            texts, starts = [texts], [starts]
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            return list(zip(texts, starts, strict=True))
    if isinstance(value, list) and all(
        isinstance(item, Mapping) and {"text", "answer_start"} <= set(item) for item in value
    ):
        return [(item["text"], item["answer_start"]) for item in value]
    raise _no_answers(value)


def _answer(text: Any, start: Any) -> Answer:
    is_place = isinstance(start, int) and not isinstance(start, bool) and start >= 0
    if not isinstance(text, str) or not text.strip() or not is_place:
        raise InputError(
            f"an answer is {text!r} at {start!r}; write a text, and the character at which it begins"
        )
    start += len(text) - len(text.lstrip())
    return Answer(text.strip(), start)


def _no_answers(value: Any) -> InputError:
    return InputError(f"the answers are {value!r}; write them as {_FORM}")

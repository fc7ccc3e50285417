"""Right answers, and how a given one is scored: the rules of SQuAD's official program, version 2.0."""

import re
import string
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Answer(NamedTuple):
    """A right answer: a part of the context."""

    text: str
    start: int
    """Character of the context at which it begins, from 0."""


def exact_match(given: str, answers: Iterable[str]) -> float:
    """1 where the answer equals a right one, both normalised; without a right one the empty one is right."""
    return max(float(normalised(given) == right) for right in _right(answers))


def f1_score(given: str, answers: Iterable[str]) -> float:
    """Overlap in words with the nearest right answer: harmonic mean of precision and recall, in [0, 1]."""
    words = normalised(given).split()
    return max(_overlap(words, right.split()) for right in _right(answers))


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and surplus white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _right(answers: Iterable[str]) -> list[str]:
    return [right for right in map(normalised, answers) if right] or [""]


def _overlap(given: list[str], right: list[str]) -> float:
    if not given or not right:
        return float(given == right)
    common = sum((Counter(given) & Counter(right)).values())
    return 2 * common / (len(given) + len(right))

"""Windows: parts of a context, each read together with its question."""

from collections.abc import Sequence
from dataclasses import dataclass

from magic_pyramid.spans.answers import Answer

NO_ANSWER = (0, 0)
"""Start and end of "no answer here": the first token, [CLS]."""

Offsets = tuple[tuple[int, int], ...]
"""First character of each token in the context, and the one behind its last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What is known of one row of token ids: question, then a part of the context."""

    question: int
    """Number of the question; windows of one question have the same."""
    context: str
    """The whole context."""
    first: int
    """Place of the first context token among the row's tokens."""
    offsets: Offsets
    """Characters of each context token of the window."""
    answers: tuple[Answer, ...] | None = None
    """Right answers; none where the question has none, None where they are not known."""

    @property
    def target(self) -> tuple[int, int]:
        """Places of the first right answer's first and last token; ``NO_ANSWER`` where it is not here."""
        if not self.answers:
            return NO_ANSWER
        found = tokens_of(self.answers[0], self.offsets)
        return NO_ANSWER if found is None else (self.first + found[0], self.first + found[1])


def tokens_of(answer: Answer, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """First and last token that hold an answer; None where these tokens do not hold all of it."""
    start, end = answer.start, answer.start + len(answer.text)
    if offsets[0][0] > start or offsets[-1][1] < end:
        return None
    first = next(place for place, (_, behind) in enumerate(offsets) if behind > start)
    last = next(place for place in reversed(range(len(offsets))) if offsets[place][0] < end)
    return first, max(first, last)

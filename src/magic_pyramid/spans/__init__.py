"""Answers that are parts of a text: windows, the best spans of their logits, and SQuAD's scores."""

from magic_pyramid.spans.answers import Answer, exact_match, f1_score
from magic_pyramid.spans.decode import Reading, Span, read_question
from magic_pyramid.spans.windows import NO_ANSWER, Window

__all__ = [
    "NO_ANSWER",
    "Answer",
    "Reading",
    "Span",
    "Window",
    "exact_match",
    "f1_score",
    "read_question",
]

"""From logits to answers: the best spans of each window, and the best of all windows of a question."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from magic_pyramid.spans.windows import Window

_MARGIN = 2
"""So many times the spans wanted are taken of a window, as two may differ in a token of white space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of a context, and how much speaks for it."""

    text: str
    start: int
    """First character in the context."""
    end: int
    """Character behind the last."""
    score: float
    """Start logit plus end logit."""
    probability: float
    """That it starts here times that it ends here, among the context's tokens and [CLS] of its window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the windows of one question say together."""

    spans: tuple[Span, ...]
    """The best spans, each part of the context once, best first."""
    none: Span
    """That there is no answer: the least that a window gives [CLS]."""

    def has_answer(self, threshold: float | None) -> bool:
        """Whether a span answers, as ``SpanConfig.no_answer_threshold`` tells."""
        return threshold is None or self.none.score - self.spans[0].score <= threshold

    def answers(self, threshold: float | None) -> tuple[Span, ...]:
        """Spans, and where a question may have none, also that, in the order in which they answer."""
        if threshold is None:
            return self.spans
        place = sum(self.none.score - span.score <= threshold for span in self.spans)
        return (*self.spans[:place], self.none, *self.spans[place:])


def read_question(
    windows: Sequence[tuple[Window, Float[np.ndarray, "2 places"]]], *, max_answer_length: int, count: int = 1
) -> Reading:
    """The best spans over all windows of a question; of equal scores the earlier and shorter span.

    Args:
        windows: windows with their start and end logits, a place a token.
        max_answer_length: longest span in tokens.
        count: spans wanted; there are fewer where the context has fewer.
    """
    found: dict[tuple[int, int], Span] = {}
    nothing: list[Span] = []
    for window, logits in windows:
        probs = _probabilities(window, logits)
        for first, last in _best_places(window, logits, max_answer_length, _MARGIN * count):
            span = _span(window, logits, probs, first, last)
            known = found.get((span.start, span.end))
            if known is None or known.score < span.score:
                found[span.start, span.end] = span
        nothing.append(_no_answer(logits, probs))
    best = sorted(found.values(), key=lambda span: (-span.score, span.start, span.end))
    return Reading(spans=tuple(best[:count]), none=min(nothing, key=lambda span: span.score))


def _best_places(
    window: Window, logits: Float[np.ndarray, "2 places"], max_answer_length: int, count: int
) -> list[tuple[int, int]]:
    """First and last context token of the best spans, counted from the first context token."""
    tokens = len(window.offsets)
    width = min(max_answer_length, tokens)
    starts, ends = logits[:, window.first : window.first + tokens].astype(np.float64)
    behind = np.concatenate([ends, np.full(width - 1, -np.inf)])
    scores = (starts[:, None] + np.lib.stride_tricks.sliding_window_view(behind, width)).ravel()
    least = np.partition(scores, max(scores.size - count, 0))[max(scores.size - count, 0)]
    good = np.flatnonzero((scores >= least) & np.isfinite(scores))
    best = good[np.argsort(-scores[good], kind="stable")][:count]
    places = [divmod(int(place), width) for place in best]
    return [(first, first + more) for first, more in places]


def _probabilities(window: Window, logits: Float[np.ndarray, "2 places"]) -> Float[np.ndarray, "2 places"]:
    possible = np.zeros(logits.shape[1], dtype=np.bool_)
    possible[0] = possible[window.first : window.first + len(window.offsets)] = True
    masked = np.where(possible, logits.astype(np.float64), -np.inf)
    weights = np.exp(masked - masked.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _span(window: Window, logits: np.ndarray, probs: np.ndarray, first: int, last: int) -> Span:
    start, end = window.offsets[first][0], window.offsets[last][1]
    text = window.context[start:end]
    # Some tokenizers count the space before a word to its first token.
    start += len(text) - len(text.lstrip())
    text = text.strip()
    places = window.first + first, window.first + last
    return Span(
        text=text,
        start=start,
        end=start + len(text),
        score=float(logits[0, places[0]]) + float(logits[1, places[1]]),
        probability=float(probs[0, places[0]] * probs[1, places[1]]),
    )


def _no_answer(logits: np.ndarray, probs: np.ndarray) -> Span:
    score = float(logits[0, 0]) + float(logits[1, 0])
    return Span(text="", start=0, end=0, score=score, probability=float(probs[0, 0] * probs[1, 0]))

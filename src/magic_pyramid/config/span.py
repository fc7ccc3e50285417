"""How a model answers questions with a part of a text."""

from dataclasses import dataclass

from magic_pyramid.config.base import Config, check_within


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanConfig(Config):
    """Question answering: how long contexts are read, and which spans are answers."""

    stride: int = 128
    """Tokens that neighbouring windows of a long context share, at most half of a window's context."""
    max_question_length: int = 64
    """Longer questions are cut to this many tokens, and to half of a window."""
    max_answer_length: int = 30
    """Longest answer in tokens."""
    no_answer_threshold: float | None = None
    """A question has no answer where that scores higher than the best span by more than this, in logits;
    None: every question has one."""

    def __post_init__(self) -> None:
        check_within("span", "stride", self.stride, 0, 1_000_000)
        check_within("span", "max_question_length", self.max_question_length, 1, 1_000_000)
        check_within("span", "max_answer_length", self.max_answer_length, 1, 1_000_000)
        if self.no_answer_threshold is not None:
            check_within("span", "no_answer_threshold", self.no_answer_threshold, -1e6, 1e6)

"""Examples as rows of token ids, each with what it is judged by: a row a text, or a window of a context."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from magic_pyramid.config import ModelConfig
from magic_pyramid.data import Example
from magic_pyramid.errors import InputError
from magic_pyramid.metrics import Label
from magic_pyramid.spans import Window
from magic_pyramid.tokenization import EncodedTexts, Text, TextEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRows:
    """What an engine runs, and beside each row its label."""

    encoded: EncodedTexts
    labels: list[Label]

    def __len__(self) -> int:
        return len(self.encoded)


def label_rows(encoder: TextEncoder, examples: Sequence[Example], config: ModelConfig) -> LabelledRows:
    """The rows of labelled examples, as a model of this config takes them.

    Raises:
        InputError: there are none, some have no label, or a text cannot be used.
    """
    labels = [example.label for example in examples]
    missing = sum(label is None for label in labels)
    if not labels or missing:
        raise InputError(
            f"{missing} of {len(labels)} examples have no label; give at least one, all labelled"
        )
    inputs = [example.inputs for example in examples]
    if config.span is None:
        encoded = encoder.encode(inputs, max_length=config.max_length)
        return LabelledRows(encoded=encoded, labels=labels)  # type: ignore[arg-type]
    encoded, windows = window_rows(encoder, inputs, config)
    return LabelledRows(
        encoded=encoded,
        labels=[replace(window, answers=labels[window.question]) for window in windows],  # type: ignore[arg-type]
    )


def window_rows(
    encoder: TextEncoder, pairs: Sequence[Text], config: ModelConfig
) -> tuple[EncodedTexts, list[Window]]:
    """The windows of questions and their contexts; a question's windows stand together.

    Raises:
        InputError: a pair is none, or its question or context holds no token.
        ConfigError: a window has no room for a context.
    """
    assert config.span is not None
    return encoder.encode_windows(
        pairs,
        max_length=config.max_length,
        max_question_length=config.span.max_question_length,
        stride=config.span.stride,
    )

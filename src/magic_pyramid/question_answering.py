"""Questions and contexts in, answers out: parts of the contexts, with what each cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypedDict, overload

import numpy as np

from magic_pyramid.classifier import Classifier
from magic_pyramid.config import ModelConfig
from magic_pyramid.data import Example
from magic_pyramid.engine.interface import EngineOutput, flops_of
from magic_pyramid.errors import CheckpointError, ConfigError, InputError
from magic_pyramid.labelled_rows import window_rows
from magic_pyramid.metrics import read_windows
from magic_pyramid.model import PyramidModel
from magic_pyramid.predictor import CALIBRATED, Calibrated
from magic_pyramid.spans import Span
from magic_pyramid.tokenization import Text, TextEncoder


class FoundAnswer(TypedDict):
    """One answer; the costs are the question's, all its windows together."""

    answer: str
    """Part of the context; empty where the question has no answer there."""
    score: float
    """How sure the model is of start and end, in [0, 1], within the window that answers."""
    start: int
    """First character in the context, from 0."""
    end: int
    """Character behind the last."""
    num_windows: int
    """Parts in which the context was read."""
    num_tokens: list[int]
    """Tokens of the input, then those alive after each layer."""
    gflops: float


class QuestionAnswering:
    """Answers questions with a part of a context."""

    def __init__(
        self, model: PyramidModel, encoder: TextEncoder, *, info: dict[str, Any] | None = None
    ) -> None:
        """Put the parts together; ``info`` is what the folder says about the model."""
        self._runner = Classifier(model, encoder, info=info)

    @classmethod
    def from_pretrained(cls, path_or_name: str | Path, *, device: str = "cpu") -> Self:
        """Load a folder or a hub name, ours or a Hugging Face ``...ForQuestionAnswering``.

        Raises:
            CheckpointError: missing, damaged, foreign or newer, or a model that does not answer questions.
        """
        loaded = Classifier.from_pretrained(path_or_name, device=device, engine="torch")
        if loaded.config.span is None:
            raise CheckpointError(
                f"{path_or_name} is a {loaded.config.problem_type} model and answers no questions; load it "
                "with Classifier, or train one with data that has question, context and answers"
            )
        return cls(loaded.model, loaded.encoder, info=loaded.info)

    @property
    def config(self) -> ModelConfig:
        """What the model is."""
        return self._runner.config

    @property
    def info(self) -> dict[str, Any]:
        """What the folder says about the model."""
        return self._runner.info

    @overload
    def __call__(self, question: str, context: str, **options: Any) -> FoundAnswer: ...
    @overload
    def __call__(
        self, question: Sequence[str], context: str | Sequence[str], **options: Any
    ) -> list[FoundAnswer]: ...
    def __call__(
        self, question: str | Sequence[str], context: str | Sequence[str], **options: Any
    ) -> FoundAnswer | list[FoundAnswer]:
        """The best answer to a question, or to each of several.

        Args:
            question: a question, or several.
            context: the text that holds the answer; with several questions one for all, or one for each.
            options: as ``answer`` takes them, except ``count``.

        Raises:
            InputError: a text cannot be used, or there are not as many contexts as questions.
            ConfigError: an option is out of range.
        """
        if isinstance(question, str):
            if not isinstance(context, str):
                raise InputError("there is one question and a list of contexts; give one context")
            return self.answer([(question, context)], **options)[0][0]
        contexts = [context] * len(question) if isinstance(context, str) else list(context)
        if len(contexts) != len(question):
            raise InputError(
                f"there are {len(question)} questions and {len(contexts)} contexts; give one context each, "
                "or one for all"
            )
        return [found[0] for found in self.answer(list(zip(question, contexts, strict=True)), **options)]

    def answer(
        self,
        pairs: Sequence[Text],
        *,
        count: int = 1,
        no_answer_threshold: float | Calibrated | None = CALIBRATED,
        prune_scale: float | Calibrated = CALIBRATED,
        batch_size: int | None = None,
    ) -> list[list[FoundAnswer]]:
        """The best answers to each question, best first.

        Args:
            pairs: questions with their contexts.
            count: answers wanted; there are fewer where a context has fewer.
            no_answer_threshold: see ``SpanConfig``; None: every question has an answer.
            prune_scale: strength of token pruning, >= 0; larger removes more, 0 removes nothing.
            batch_size: windows per batch; None fills batches by tokens.

        Raises:
            InputError: something is no pair of texts, or has no token.
            ConfigError: an option is out of range.
        """
        if count < 1:
            raise ConfigError(f"count is {count!r}; ask for at least one answer")
        if not pairs:
            return []
        config, setting = self.config, self._runner.setting(prune_scale=prune_scale)
        assert config.span is not None
        threshold = no_answer_threshold
        if isinstance(threshold, Calibrated):
            threshold = config.span.no_answer_threshold
        encoded, windows = window_rows(self._runner.encoder, pairs, config)
        output = self._runner.engine.run(encoded, setting=setting, batch_size=batch_size)
        gflops = flops_of(config, output, setting) / 1e9
        question = np.asarray([window.question for window in windows])
        readings = read_windows(output.logits, windows, config, count=count)
        return [
            [
                _found(span, output, gflops, np.flatnonzero(question == row))
                for span in readings[row].answers(threshold)[:count]
            ]
            for row in range(len(pairs))
        ]

    def evaluate(self, examples: Sequence[Example], **options: Any) -> dict[str, Any]:
        """F1 (as ``accuracy``), exact match, FLOPs and wall-clock; options as for ``Classifier.evaluate``.

        Raises:
            InputError: there are no examples, or some have no answers.
        """
        return self._runner.evaluate(examples, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model folder, all of it or nothing."""
        self._runner.save_pretrained(folder)

    def to_huggingface(self, folder: str | Path) -> None:
        """Write the dense model as an ordinary checkpoint of its family, without the pruner."""
        self._runner.to_huggingface(folder)


def _found(span: Span, output: EngineOutput, gflops: np.ndarray, rows: np.ndarray) -> FoundAnswer:
    return FoundAnswer(
        answer=span.text,
        score=span.probability,
        start=span.start,
        end=span.end,
        num_windows=len(rows),
        num_tokens=output.num_tokens[rows].sum(axis=0).tolist(),
        gflops=float(gflops[rows].sum()),
    )

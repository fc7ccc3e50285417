"""What any exit thresholds would do with held-out texts at one prune scale, without running again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int64

from magic_pyramid.config import ModelConfig, ProblemType
from magic_pyramid.cost import CostModel
from magic_pyramid.engine.array_rule import ArrayExitRule
from magic_pyramid.engine.interface import AllAnswers
from magic_pyramid.errors import ConfigError
from magic_pyramid.metrics import Label

NOT_ASKED = -1.0
"""Threshold of an exit head that is not asked."""
Answers = Int64[np.ndarray, "texts answers"]
"""The label of each text; or 0 and 1 for each label that may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Every exit head, and last the final head, on every text."""

    unsure: Float32[np.ndarray, "texts exits"]
    """What a threshold is compared with."""
    is_right: Bool[np.ndarray, "texts heads"]
    """Whether the head's answer is the wanted one."""
    flops: Float[np.ndarray, "texts heads"]
    """Of the layers up to the head; in the last column also of the final head."""
    head_flops: Float[np.ndarray, "texts exits"]
    """Of asking the exit head."""
    kept_tokens: Int[np.ndarray, "texts heads"]
    """Tokens alive where the head stands."""

    @property
    def num_exits(self) -> int:
        """Exit heads."""
        return int(self.unsure.shape[1])

    def select(self, rows: Int[np.ndarray, " rows"]) -> Self:
        """Some of the texts."""
        return type(self)(
            unsure=self.unsure[rows],
            is_right=self.is_right[rows],
            flops=self.flops[rows],
            head_flops=self.head_flops[rows],
            kept_tokens=self.kept_tokens[rows],
        )

    def places(self, thresholds: Sequence[float]) -> Int64[np.ndarray, " texts"]:
        """Which head answers each text, with a threshold for each exit head."""
        if not self.num_exits:
            return np.zeros(len(self.unsure), dtype=np.int64)
        lets_go = self.unsure <= np.asarray(thresholds, dtype=np.float32)
        return np.asarray(np.where(lets_go.any(axis=1), lets_go.argmax(axis=1), self.num_exits))

    def right_at(self, places: Int64[np.ndarray, " texts"]) -> Bool[np.ndarray, " texts"]:
        """Whether each text gets the wanted answer."""
        return np.asarray(self.is_right[np.arange(len(places)), places])

    def flops_at(
        self, places: Int64[np.ndarray, " texts"], thresholds: Sequence[float]
    ) -> Float[np.ndarray, " texts"]:
        """Cost of each text; a head is charged where it is asked."""
        is_asked = np.asarray(thresholds) >= 0.0
        asked = np.cumsum(self.head_flops * is_asked, axis=1)
        # Who is answered by the final head has met every exit head.
        asked = np.concatenate(
            [asked, asked[:, -1:] if self.num_exits else np.zeros((len(asked), 1))], axis=1
        )
        rows = np.arange(len(places))
        return np.asarray(self.flops[rows, places] + asked[rows, places])


def outcomes_of(
    config: ModelConfig, answers: AllAnswers, wanted: Answers, *, prune_scale: float | None = None
) -> Outcomes:
    """Read what all heads said at one prune scale.

    Args:
        config: the model.
        answers: of its heads.
        wanted: the right answers, or those of the dense model.
        prune_scale: the scale; None: the stored one.
    """
    last, cost = config.backbone.num_hidden_layers - 1, CostModel(config)
    heads = (*config.exit_layers, last)
    count = len(answers.num_tokens)

    def flops(layer: int, tested: tuple[int, ...]) -> np.ndarray:
        exit_layer = np.full(count, layer)
        return cost.flops(answers.num_tokens, exit_layer, tested_layers=tested, prune_scale=prune_scale)

    layers = np.stack([flops(layer, ()) for layer in heads], axis=1)
    asked = [flops(layer, (layer,)) - layers[:, place] for place, layer in enumerate(config.exit_layers)]
    right = [
        (answers_of(answers.logits[layer], config.problem_type) == wanted).all(axis=1) for layer in heads
    ]
    return Outcomes(
        unsure=_unsure(config, answers),
        is_right=np.stack(right, axis=1),
        flops=layers,
        head_flops=np.stack(asked, axis=1) if asked else np.zeros((count, 0)),
        kept_tokens=np.stack([answers.num_tokens[:, layer + 1] for layer in heads], axis=1),
    )


def answers_of(logits: Float32[np.ndarray, "texts labels"], problem_type: ProblemType) -> Answers:
    """What a head says.

    Raises:
        ConfigError: it says a number, which is never simply right or wrong.
    """
    if problem_type == "regression":
        raise ConfigError(
            "a regression has no answers that are right or wrong, and its correlation is no mean over texts, "
            "so a drop cannot be certified; use the criterion patience and evaluate it"
        )
    if problem_type == "multi_label":
        return np.asarray(logits > 0, dtype=np.int64)
    return np.asarray(logits.argmax(axis=1)[:, None], dtype=np.int64)


def wanted_answers(labels: Sequence[Label], config: ModelConfig) -> Answers:
    """The labels as answers: a text with several labels is right if all are."""
    if config.problem_type != "multi_label":
        return np.asarray(labels, dtype=np.int64)[:, None]
    wanted = np.zeros((len(labels), config.num_labels), dtype=np.int64)
    for row, indices in enumerate(labels):
        assert isinstance(indices, tuple)
        wanted[row, list(indices)] = 1
    return wanted


def _unsure(config: ModelConfig, answers: AllAnswers) -> np.ndarray:
    count, rule = len(answers.num_tokens), ArrayExitRule(config, 0.0)
    state = rule.start(count)
    unsure = np.zeros((count, len(config.exit_layers)), dtype=np.float32)
    for column, layer in enumerate(config.exit_layers):
        unsure[:, column], state = rule.measure(answers.logits[layer], state)
    return unsure

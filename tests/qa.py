"""A tiny model that answers questions, and questions to ask it."""

import json
import random
from pathlib import Path
from typing import Any

import tiny
from magic_pyramid.config import (
    SPAN_LABELS,
    CascadeConfig,
    ModelConfig,
    RankBinsConfig,
    RankCountsConfig,
    SpanConfig,
)
from magic_pyramid.data import Example
from magic_pyramid.question_answering import QuestionAnswering
from magic_pyramid.spans import Answer
from magic_pyramid.tokenization import TextEncoder

CONFIG = tiny.CONFIG.replace(
    problem_type="span",
    labels=SPAN_LABELS,
    exit=None,
    span=SpanConfig(stride=4, max_question_length=6, max_answer_length=5),
)
CASES = {
    "thresholds": CONFIG,
    "all but the first token die": tiny.changed(CONFIG, prune={"manual_thresholds": (1.0, 1.0, 1.0)}),
    "only the last layer prunes": tiny.changed(CONFIG, prune={"manual_thresholds": (0.0, 0.0, 0.2)}),
    "shares of ranked tokens": CONFIG.replace(prune=RankBinsConfig(layers=(0, 1), num_bins=5)),
    "shares by schedule": CONFIG.replace(
        prune=CascadeConfig(final_keep_ratio=0.2, whole_layers=0, final_head_ratio=1.0)
    ),
    "counts": CONFIG.replace(prune=RankCountsConfig()),
    "no pruner": CONFIG.replace(prune=None),
    **{name: CONFIG.replace(backbone=backbone) for name, backbone in tiny.FAMILIES.items()},
}
FILLER = ("film", "plot", "actor", "scene", "the", "was", "and")
ANSWERS = ("lovely", "quiet", "good")
CONTEXT = "the plot is dull and the actor was not good but the scene is very long and very loud"
FILM = "a  quiet lovely film, that never stays"
EXAMPLES = (
    Example(text="was the actor good", text_pair=CONTEXT, label=(Answer("not good", 35),), group="plot"),
    Example(
        text="the scene", text_pair=CONTEXT, label=(Answer("very long and very loud", 61),), group="plot"
    ),
    Example(
        text="a film", text_pair=FILM, label=(Answer("quiet lovely", 3), Answer("lovely", 9)), group="film"
    ),
    Example(text="the actor", text_pair=FILM, label=(), group="film"),
)


def build(config: ModelConfig = CONFIG, *, seed: int = 3) -> Any:
    model = tiny.build(config, seed=seed)
    if isinstance(config.prune, RankBinsConfig):
        model.pruner.coarse.data.fill_(4.0)
        model.pruner.fine.data[:, -2:] = -4.0
    if isinstance(config.prune, RankCountsConfig):
        for layer, count in enumerate((8, 5, 3)):
            model.pruner.shares.data[layer, count:] = 0.0
    return model


def answering(config: ModelConfig = CONFIG, *, seed: int = 3) -> QuestionAnswering:
    return QuestionAnswering(build(config, seed=seed), TextEncoder(tiny.tokenizer()))


def squad(path: Path, *, articles: int, seed: int, impossible: float = 0.0) -> Path:
    """Contexts of plain words, one of which is of the kind that is always the answer."""
    generator = random.Random(seed)
    data = []
    for number in range(articles):
        paragraphs = []
        for _ in range(8):
            words = generator.choices(FILLER, k=generator.randint(3, 12))
            place, answer = generator.randrange(len(words) + 1), generator.choice(ANSWERS)
            has_answer = generator.random() >= impossible
            words.insert(place, answer if has_answer else "loud")
            start = len(" ".join([*words[:place], ""]))
            asked = {
                "id": f"{number}-{len(paragraphs)}",
                "question": "the film is",
                "answers": [{"text": answer, "answer_start": start}] if has_answer else [],
                "is_impossible": not has_answer,
            }
            paragraphs.append({"context": " ".join(words), "qas": [asked]})
        data.append({"title": f"article {number}", "paragraphs": paragraphs})
    path.write_text(json.dumps({"version": "test", "data": data}), encoding="utf-8")
    return path

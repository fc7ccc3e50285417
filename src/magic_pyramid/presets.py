"""Every method as a row of configs: no subclass, and no branch on a name anywhere."""

from dataclasses import dataclass
from typing import Literal

from magic_pyramid.config import (
    AnyPruneConfig,
    CascadeConfig,
    ExitConfig,
    ModelConfig,
    PruneConfig,
    RankBinsConfig,
    RankCountsConfig,
    TrainConfig,
)
from magic_pyramid.errors import ConfigError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What a method adds to a fine-tuned encoder."""

    summary: str
    prune: AnyPruneConfig | None = None
    exit: ExitConfig | None = None
    final_head: Literal["cls", "fastbert"] = "cls"
    recipe: str = "default"
    """Training settings to begin with, a key of ``RECIPES``."""


PRESETS: dict[str, Preset] = {
    "bert": Preset(summary="the plain fine-tuned encoder"),
    "ltp": Preset(summary="learned token pruning (KDD 2022)", prune=PruneConfig()),
    "fastbert": Preset(
        summary="self-distilled early exits (ACL 2020)", exit=ExitConfig(), final_head="fastbert"
    ),
    "magic_pyramid": Preset(
        summary="token pruning and early exits (2021)", prune=PruneConfig(), exit=ExitConfig()
    ),
    "deebert": Preset(
        summary="early exits on a frozen encoder, learned from the labels (ACL 2020)",
        exit=ExitConfig(head="cls"),
        recipe="deebert",
    ),
    "pabee": Preset(
        summary="early exits by patience, all heads trained with the encoder (NeurIPS 2020)",
        exit=ExitConfig(head="cls", criterion="patience", patience=3),
        recipe="pabee",
    ),
    "truncated": Preset(
        summary="the first half of the encoder's layers, fine-tuned; a baseline", recipe="truncated"
    ),
    "distilbert": Preset(
        summary="every second layer of the fine-tuned encoder, distilled from it (2019)", recipe="distilbert"
    ),
    "pyramid": Preset(
        summary="pruning and exits trained together towards a speed-up (--target-speedup); ours",
        prune=PruneConfig(),
        # The budget counts texts as gone that are as sure as answers must be at the dense accuracy.
        exit=ExitConfig(threshold=0.15),
        recipe="joint",
    ),
    "top": Preset(
        summary="learned shares of ranked tokens under a FLOPs constraint (KDD 2023; --target-speedup)",
        prune=RankBinsConfig(),
        recipe="top",
    ),
    "power_bert": Preset(
        summary="learned counts of the most significant tokens (ICML 2020; --target-speedup)",
        prune=RankCountsConfig(),
        recipe="power_bert",
    ),
    "spatten": Preset(
        summary="a schedule of tokens and heads, ranked over all layers so far (HPCA 2021)",
        prune=CascadeConfig(),
        recipe="scheduled",
    ),
    "ltp_topk": Preset(
        summary="a schedule of tokens, ranked layer by layer: the top-k baseline of LTP (KDD 2022)",
        prune=CascadeConfig(accumulate=False, final_head_ratio=1.0),
        recipe="scheduled",
    ),
}

PAPER = TrainConfig(
    min_steps=0,
    learning_rate=2e-5,
    learning_rate_final_head=None,
    learning_rate_exits=2e-4,
    learning_rate_thresholds=2e-5,
    distill_weight=0.0,
    joint_exits=0.0,
    max_sequences_per_batch=32,
    tokens_per_batch=32 * 128,
)
"""What the papers share: one learning rate, labels only while pruning, exits on a frozen backbone."""


def _paper(
    finetune: float, soft_prune: float, hard_prune: float, distill_exits: float, batch: int
) -> TrainConfig:
    epochs = {
        "finetune": finetune,
        "soft_prune": soft_prune,
        "hard_prune": hard_prune,
        "distill_exits": distill_exits,
    }
    return PAPER.replace(epochs=epochs, max_sequences_per_batch=batch, tokens_per_batch=batch * 128)


RECIPES: dict[str, TrainConfig] = {
    "default": TrainConfig(),
    "joint": TrainConfig(
        epochs={"finetune": 3.0, "soft_prune": 1.0, "hard_prune": 1.0, "distill_exits": 2.0},
        learning_rate_pruning=2e-5,
        learning_rate_thresholds=3e-4,
        distill_weight=0.0,
        joint_from="soft_prune",
        target_speedup=3.0,
    ),
    "top": TrainConfig(
        epochs={"finetune": 3.0, "soft_prune": 3.0, "hard_prune": 1.0},
        learning_rate_thresholds=0.1,
        distill_weight=1.0,
        target_speedup=2.0,
        budget_exact=True,
        rank_weight=0.01,
        rank_floor=0.01,
    ),
    "deebert": TrainConfig(
        epochs={"finetune": 3.0, "distill_exits": 3.0}, joint_exits=0.0, exit_teacher="labels"
    ),
    "pabee": TrainConfig(epochs={"finetune": 3.0}, exit_weights="depth_of_all"),
    "truncated": TrainConfig(epochs={"finetune": 3.0}, student_keeps="first"),
    "distilbert": TrainConfig(epochs={"finetune": 3.0, "distill_student": 3.0}, student_keeps="alternate"),
    "power_bert": TrainConfig(
        epochs={"finetune": 3.0, "soft_prune": 3.0, "hard_prune": 2.0},
        learning_rate_thresholds=1e-2,
        target_speedup=2.0,
        budget_exact=True,
    ),
    "scheduled": TrainConfig(epochs={"finetune": 3.0, "hard_prune": 2.0}),
    "paper": PAPER,
    "paper-ag_news": _paper(3, 1, 2, 2, batch=64),
    "paper-yelp_polarity": _paper(3, 1, 2, 2, batch=64),
    "paper-qqp": _paper(5, 2, 5, 5, batch=32),
    "paper-mrpc": _paper(10, 10, 5, 5, batch=32),
    "paper-rte": _paper(10, 10, 5, 5, batch=32),
}
"""Training settings by name; the papers' rows have Magic Pyramid's epochs (docs/method.md)."""


def find_preset(name: str) -> Preset:
    """Look a method up.

    Raises:
        ConfigError: no such preset; the nearest name is offered.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; {nearest(name, PRESETS)}")
    return PRESETS[name]


def find_recipe(name: str) -> TrainConfig:
    """Look a training recipe up.

    Raises:
        ConfigError: no such recipe; the nearest name is offered.
    """
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}; {nearest(name, RECIPES)}")
    return RECIPES[name]


def apply_preset(config: ModelConfig, chosen: Preset) -> ModelConfig:
    """The model config with the method's pruning and exits in place of its own."""
    exits = chosen.exit
    if exits is not None and config.problem_type == "regression":
        exits = exits.replace(criterion="patience", patience=3)
    return config.replace(prune=chosen.prune, exit=exits, final_head=chosen.final_head)

"""The training stages as data: what is masked, which parameters learn, and from which losses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from magic_pyramid.config import Config, ModelConfig, StageName, TrainConfig
from magic_pyramid.errors import ConfigError
from magic_pyramid.model import Masking, ParameterGroup
from magic_pyramid.training.student import kept_layers

BUDGET_TOLERANCE = 0.04
"""A budget is kept when the measured speed-up is within this share of the one asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(Config):
    """One row of the training plan; the loop reads nothing else about a stage."""

    name: StageName
    """Which of them it is."""
    epochs: float
    """Passes over the train split; the last one may be cut short."""
    masking: Masking
    """What happens to unimportant tokens; validation removes them where training only weights them."""
    trains: tuple[ParameterGroup, ...]
    """The parameter groups that learn; all others are frozen, and their modules run in eval mode."""
    layers: tuple[int, ...] | None = None
    """0-based layers that the model is cut to before the stage; None: it stays as it is."""
    label_weight: float = 0.0
    """Weight of the final head's loss against the labels."""
    distill_weight: float = 0.0
    """Weight of the final head's KL to the fine-tuned model."""
    penalty_weight: float = 0.0
    """Weight of the mean soft mask."""
    target_speedup: float | None = None
    """Dense FLOPs over FLOPs that the stage learns to reach; None: it has no budget."""
    rank_weight: float = 0.0
    """Weight of bringing early layers' attention into the fine-tuned model's order."""
    rank_floor: float = 1.0
    """Share of that weight that is left at the end of the ramp."""
    ramp: float = 0.0
    """Share of the steps in which the saving asked for rises, and the weight of the order falls."""
    reach_temperature: float | None = None
    """Softness of the chance that a text leaves, which weights the budget's layers; None: nobody leaves."""
    exit_label_weight: float = 0.0
    """Weight of each exit head's loss against the labels."""
    exit_distill_weight: float = 0.0
    """Weight of each exit head's KL to the final head."""
    exit_weights: Literal["uniform", "depth"] = "uniform"
    """Whether all heads have these weights, or only on average: in proportion to their depth."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises."""
    keeps: Literal["best", "last"] = "best"
    """Which weights the next stage starts from: the best on validation, or the last."""

    @property
    def asks_exits(self) -> bool:
        """Whether the exit heads take part."""
        return max(self.exit_label_weight, self.exit_distill_weight) > 0

    @property
    def learns_exits_only(self) -> bool:
        """Whether the exit heads learn alone, from an encoder that stays as it is."""
        return self.trains == ("exit_heads",)

    @property
    def asks_teacher(self) -> bool:
        """Whether the fine-tuned model's answers are needed."""
        return max(self.distill_weight, self.rank_weight) > 0

    def rank_weight_at(self, progress: float) -> float:
        """Weight of the order when so much of the stage, in [0, 1], is done."""
        left = 1.0 - progress / self.ramp if self.ramp > 0 else 0.0
        return self.rank_weight * max(self.rank_floor, left)

    def budget_miss(self, speedup: float) -> float:
        """How far a measured speed-up is from the one asked for, as a share; 0 within the tolerance."""
        if self.target_speedup is None:
            return 0.0
        miss = abs(speedup / self.target_speedup - 1.0)
        return miss if miss > BUDGET_TOLERANCE else 0.0

    @property
    def validation_masking(self) -> Masking:
        """Masking of the validation pass: what inference will do."""
        return "none" if self.masking == "none" else "hard"


def stages_of(model: ModelConfig, train: TrainConfig) -> tuple[Stage, ...]:
    """The stages that this model needs, in order; a stage of 0 epochs is left out."""
    soft = (_soft_prune(model, train),) if model.prune and model.prune.softens else ()
    pruning = (*soft, _hard_prune(model, train)) if model.prune else ()
    exits = (_distill_exits(model, train),) if model.exit_layers else ()
    student = (_distill_student(model, train),) if train.student_keeps != "all" else ()
    rows = (_finetune(model, train), *pruning, *exits, *student)
    return tuple(stage for stage in rows if stage.epochs > 0)


def check_student(train: TrainConfig, stages: Sequence[Stage]) -> None:
    """Raise ConfigError where a student is asked for and no stage makes one."""
    if train.student_keeps != "all" and not any(stage.layers for stage in stages):
        raise ConfigError(
            f"train.student_keeps is {train.student_keeps!r}, but neither finetune nor distill_student has "
            "epochs, so no student is made; give one of them some"
        )


def learning_rates(stage: Stage, model: ModelConfig, train: TrainConfig) -> dict[ParameterGroup, float]:
    """Peak learning rate of each kind of parameter; a final head is new in `finetune` only."""
    backbone = learning_rate_of(model, train)
    if stage.name in ("soft_prune", "hard_prune") and train.learning_rate_pruning is not None:
        backbone = train.learning_rate_pruning
    new_head = train.learning_rate_final_head if stage.name == "finetune" else None
    return {
        "backbone": backbone,
        "final_head": backbone if new_head is None else new_head,
        "exit_heads": train.learning_rate_exits,
        "thresholds": train.learning_rate_thresholds,
    }


def learning_rate_of(model: ModelConfig, train: TrainConfig) -> float:
    """Peak learning rate of the backbone: as given, or by width.

    Narrow encoders take and need larger steps: 2e-5 at width 768, growing with the inverse square of the
    width, within [1e-5, 1e-4].
    """
    if train.learning_rate is not None:
        return train.learning_rate
    return min(max(2e-5 * (768 / model.backbone.hidden_size) ** 2, 1e-5), 1e-4)


def expects_exits(stage: Stage, model: ModelConfig) -> bool:
    """Whether texts count as leaving early while the stage learns; with `patience` that has no chance."""
    if stage.reach_temperature is None or not stage.asks_exits or model.exit is None:
        return False
    return model.exit.threshold is not None and model.exit.criterion != "patience"


def early_layers(num_layers: int) -> range:
    """The first third, at least one: where a wrong order of the tokens costs most (ToP, section 3.3)."""
    return range(max(1, num_layers // 3))


def _head_weights(model: ModelConfig, train: TrainConfig) -> tuple[float, float]:
    """Weights of the final head's loss and, on average, of an exit head's while the backbone trains.

    All exit heads together weigh ``joint_exits`` times the final head; or, by the depth of all, a head weighs
    what its depth is of the sum of depths (PABEE, section 3.3), exit heads ``joint_exits`` times that.
    """
    if not model.exit_layers:
        return 1.0, 0.0
    if train.exit_weights != "depth_of_all":
        return 1.0, train.joint_exits / len(model.exit_layers)
    depth = model.backbone.num_hidden_layers
    exits = train.joint_exits * sum(layer + 1 for layer in model.exit_layers)
    return depth / (depth + exits), exits / (depth + exits) / len(model.exit_layers)


def _shared(train: TrainConfig) -> Literal["uniform", "depth"]:
    return "uniform" if train.exit_weights == "uniform" else "depth"


def _with_backbone(exit_weight: float) -> tuple[ParameterGroup, ...]:
    heads: tuple[ParameterGroup, ...] = ("exit_heads",) if exit_weight > 0 else ()
    return ("backbone", "final_head", *heads)


def _exit_losses(weight: float, train: TrainConfig, *, label_share: float) -> dict[str, Any]:
    """What exit heads learn from after fine-tuning: labels by their share, the rest from the final head."""
    if train.exit_teacher == "labels":
        label_share = 1.0
    return {
        "exit_label_weight": label_share * weight,
        "exit_distill_weight": (1.0 - label_share) * weight,
    }


def _finetune(model: ModelConfig, train: TrainConfig) -> Stage:
    is_joint = train.joint_from == "finetune"
    final_weight, exit_weight = _head_weights(model, train) if is_joint else (1.0, 0.0)
    return Stage(
        name="finetune",
        epochs=train.epochs_of("finetune"),
        masking="none",
        trains=_with_backbone(exit_weight),
        layers=None if train.epochs_of("distill_student") > 0 else kept_layers(model, train),
        label_weight=final_weight,
        exit_label_weight=exit_weight,
        exit_weights=_shared(train),
        warmup=train.warmup,
    )


def _soft_prune(model: ModelConfig, train: TrainConfig) -> Stage:
    assert model.prune is not None
    learns: tuple[ParameterGroup, ...] = ("thresholds",) if model.prune.learns else ()
    asks_budget = bool(learns) and train.target_speedup is not None
    final_weight, exit_weight = _head_weights(model, train)
    return Stage(
        name="soft_prune",
        epochs=train.epochs_of("soft_prune"),
        masking="soft",
        trains=(*_with_backbone(exit_weight), *learns),
        label_weight=final_weight * (1.0 - train.distill_weight),
        distill_weight=final_weight * train.distill_weight,
        penalty_weight=0.0 if asks_budget else model.prune.penalty,
        target_speedup=train.target_speedup if asks_budget else None,
        rank_weight=train.rank_weight,
        reach_temperature=train.reach_temperature if asks_budget else None,
        rank_floor=train.rank_floor,
        ramp=train.budget_ramp,
        exit_weights=_shared(train),
        **_exit_losses(exit_weight, train, label_share=0.5),
        # Validation removes tokens that training only weighted, so its best says little, except whether
        # pruning alone keeps a budget.
        keeps="best" if asks_budget and train.budget_exact and not model.exit_layers else "last",
    )


def _hard_prune(model: ModelConfig, train: TrainConfig) -> Stage:
    final_weight, exit_weight = _head_weights(model, train)
    return Stage(
        name="hard_prune",
        epochs=train.epochs_of("hard_prune"),
        masking="hard",
        trains=_with_backbone(exit_weight),
        label_weight=final_weight * (1.0 - train.distill_weight),
        distill_weight=final_weight * train.distill_weight,
        exit_weights=_shared(train),
        **_exit_losses(exit_weight, train, label_share=0.5),
    )


def _distill_exits(model: ModelConfig, train: TrainConfig) -> Stage:
    return Stage(
        name="distill_exits",
        epochs=train.epochs_of("distill_exits"),
        masking="hard" if model.prune else "none",
        trains=("exit_heads",),
        **_exit_losses(1.0, train, label_share=0.0),
        warmup=train.warmup,
    )


def _distill_student(model: ModelConfig, train: TrainConfig) -> Stage:
    return Stage(
        name="distill_student",
        epochs=train.epochs_of("distill_student"),
        masking="none",
        trains=("backbone", "final_head"),
        layers=kept_layers(model, train),
        label_weight=1.0 - train.distill_weight,
        distill_weight=train.distill_weight,
        warmup=train.warmup,
    )

"""The four training stages as data: what is masked, which parameters learn, and from which losses."""

from dataclasses import dataclass
from typing import Literal

from magic_pyramid.config import Config, ModelConfig, StageName, TrainConfig
from magic_pyramid.model import Masking, ParameterGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(Config):
    """One row of the training plan; the loop reads nothing else about a stage."""

    name: StageName
    """Which of the four it is."""
    epochs: float
    """Passes over the train split; the last one may be cut short."""
    masking: Masking
    """What happens to unimportant tokens; validation removes them where training only weights them."""
    trains: tuple[ParameterGroup, ...]
    """The parameter groups that learn; all others are frozen, and their modules run in eval mode."""
    label_weight: float = 0.0
    """Weight of the final head's loss against the labels."""
    distill_weight: float = 0.0
    """Weight of the final head's KL to the fine-tuned model."""
    penalty_weight: float = 0.0
    """Weight of the mean soft mask."""
    exit_label_weight: float = 0.0
    """Weight of each exit head's loss against the labels."""
    exit_distill_weight: float = 0.0
    """Weight of each exit head's KL to the final head."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises."""
    keeps: Literal["best", "last"] = "best"
    """Which weights the next stage starts from: the best on validation, or the last."""

    @property
    def asks_exits(self) -> bool:
        """Whether the exit heads take part."""
        return self.exit_label_weight > 0 or self.exit_distill_weight > 0

    @property
    def validation_masking(self) -> Masking:
        """Masking of the validation pass: what inference will do."""
        return "none" if self.masking == "none" else "hard"


def stages_of(model: ModelConfig, train: TrainConfig) -> tuple[Stage, ...]:
    """The stages that this model needs, in order; a stage of 0 epochs is left out."""
    pruning = (_soft_prune(model, train), _hard_prune(model, train)) if model.prune else ()
    exits = (_distill_exits(model, train),) if model.exit_layers else ()
    return tuple(stage for stage in (_finetune(model, train), *pruning, *exits) if stage.epochs > 0)


def learning_rates(stage: Stage, model: ModelConfig, train: TrainConfig) -> dict[ParameterGroup, float]:
    """Peak learning rate of each kind of parameter; a final head is new in `finetune` only."""
    backbone = learning_rate_of(model, train)
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


def _joint_weight(model: ModelConfig, train: TrainConfig) -> float:
    """Weight of one exit head while the backbone trains: together they weigh ``joint_exits``."""
    return train.joint_exits / len(model.exit_layers) if model.exit_layers else 0.0


def _with_backbone(model: ModelConfig, train: TrainConfig) -> tuple[ParameterGroup, ...]:
    heads: tuple[ParameterGroup, ...] = ("exit_heads",) if _joint_weight(model, train) > 0 else ()
    return ("backbone", "final_head", *heads)


def _teaches(train: TrainConfig) -> float:
    """KL weight in the pruning stages; without fine-tuning there is no model to learn from."""
    return train.distill_weight if train.epochs_of("finetune") > 0 else 0.0


def _finetune(model: ModelConfig, train: TrainConfig) -> Stage:
    return Stage(
        name="finetune",
        epochs=train.epochs_of("finetune"),
        masking="none",
        trains=_with_backbone(model, train),
        label_weight=1.0,
        exit_label_weight=_joint_weight(model, train),
        warmup=train.warmup,
    )


def _soft_prune(model: ModelConfig, train: TrainConfig) -> Stage:
    assert model.prune is not None
    learns: tuple[ParameterGroup, ...] = ("thresholds",) if model.prune.learns else ()
    return Stage(
        name="soft_prune",
        epochs=train.epochs_of("soft_prune"),
        masking="soft",
        trains=(*_with_backbone(model, train), *learns),
        label_weight=1.0 - _teaches(train),
        distill_weight=_teaches(train),
        penalty_weight=model.prune.penalty,
        exit_label_weight=_joint_weight(model, train) / 2,
        exit_distill_weight=_joint_weight(model, train) / 2,
        # Validation removes tokens that training only weighted, so its best says little here.
        keeps="last",
    )


def _hard_prune(model: ModelConfig, train: TrainConfig) -> Stage:
    return Stage(
        name="hard_prune",
        epochs=train.epochs_of("hard_prune"),
        masking="hard",
        trains=_with_backbone(model, train),
        label_weight=1.0 - _teaches(train),
        distill_weight=_teaches(train),
        exit_label_weight=_joint_weight(model, train) / 2,
        exit_distill_weight=_joint_weight(model, train) / 2,
    )


def _distill_exits(model: ModelConfig, train: TrainConfig) -> Stage:
    return Stage(
        name="distill_exits",
        epochs=train.epochs_of("distill_exits"),
        masking="hard" if model.prune else "none",
        trains=("exit_heads",),
        exit_distill_weight=1.0,
        warmup=train.warmup,
    )

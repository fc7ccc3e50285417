"""How a model is trained."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from magic_pyramid.config.base import Config, check_choice, check_within
from magic_pyramid.errors import ConfigError, nearest

StageName = Literal["finetune", "soft_prune", "hard_prune", "distill_exits", "distill_student"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)

_RANGES: dict[str, tuple[float, float]] = {
    "min_steps": (0, 1_000_000),
    "learning_rate": (0.0, 1e3),
    "learning_rate_pruning": (0.0, 1e3),
    "learning_rate_final_head": (0.0, 1e3),
    "learning_rate_exits": (0.0, 1e3),
    "learning_rate_thresholds": (0.0, 1e3),
    "learning_rate_budget": (0.0, 1e3),
    "weight_decay": (0.0, 1e3),
    "warmup": (0.0, 1.0),
    "dropout": (0.0, 0.99),
    "max_grad_norm": (1e-8, 1e9),
    "tokens_per_batch": (1, 10_000_000),
    "max_sequences_per_batch": (1, 1_000_000),
    "gradient_accumulation": (1, 100_000),
    "distill_weight": (0.0, 1.0),
    "distill_temperature": (1e-3, 1e3),
    "joint_exits": (0.0, 1000.0),
    "target_speedup": (1.0, 1e6),
    "budget_ramp": (0.0, 1.0),
    "reach_temperature": (1e-6, 1e3),
    "rank_weight": (0.0, 1e6),
    "rank_floor": (0.0, 1.0),
    "rank_top_k": (2, 10_000),
    "max_drop": (0.0, 100.0),
    "validation_share": (0.0, 0.9),
    "seed": (0, 2**32 - 1),
}
"""What each number may be, where it is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Config):
    """How the stages are trained. The defaults are ours; the papers' values are the named recipes."""

    epochs: dict[str, float] = field(
        default_factory=lambda: {"finetune": 3.0, "soft_prune": 1.0, "hard_prune": 1.0, "distill_exits": 2.0}
    )
    """Epochs per stage; a stage with 0 epochs, or with nothing to train, is skipped."""
    min_steps: int = 300
    """A small train split is repeated, up to 10 epochs, until a stage makes about so many steps; 0: never."""
    learning_rate: float | None = None
    """Peak learning rate of the backbone; None: 2e-5 at width 768, times (768 / width) squared."""
    learning_rate_pruning: float | None = None
    """The same in `soft_prune` and `hard_prune`; None: as in `finetune`."""
    learning_rate_final_head: float | None = 1e-3
    """Peak learning rate of the final head in `finetune`, where it is new; None: as the backbone."""
    learning_rate_exits: float = 1e-3
    """Peak learning rate of the exit heads."""
    learning_rate_thresholds: float = 2e-5
    """Peak learning rate of the token thresholds."""
    weight_decay: float = 0.01
    """AdamW weight decay of matrices; biases, norms and thresholds have none."""
    warmup: float = 0.1
    """Share of the steps of `finetune` and `distill_exits` in which the learning rate rises."""
    dropout: float | None = None
    """Dropout in the encoder while training, in [0, 1); None: what the encoder was trained with."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm, thresholds apart from the rest."""
    tokens_per_batch: int = 2048
    """Token budget of one batch."""
    max_sequences_per_batch: int = 32
    """At most this many sequences in one batch, whatever the budget."""
    gradient_accumulation: int = 1
    """Batches whose gradients are summed before a step."""
    distill_weight: float = 0.5
    """Share of the label loss replaced by KL to the fine-tuned model in the stages after it, in [0, 1]."""
    distill_temperature: float = 2.0
    """Temperature of that KL."""
    joint_exits: float = 1.0
    """Weight of the exits' mean loss while the backbone trains; 0 trains them in `distill_exits` only."""
    joint_from: Literal["finetune", "soft_prune"] = "finetune"
    """The first stage in which exits learn while the backbone does."""
    exit_teacher: Literal["final_head", "labels"] = "final_head"
    """Whom exits learn from after `finetune`: the final head of the moment, or nobody, from the labels."""
    exit_weights: Literal["uniform", "depth_of_all"] = "uniform"
    """How the exits share their weight while the backbone trains: alike, or each by its depth, the final head
    counted in and all weights together being 1."""
    student_keeps: Literal["all", "first", "alternate"] = "all"
    """Layers of the encoder that the model keeps: all, the first, or evenly spaced ones. The others go before
    `distill_student`, where the whole encoder is the teacher, or at the start where that has 0 epochs."""
    student_layers: int | None = None
    """How many layers a student keeps; None: half of them, or as many as `target_speedup` allows."""
    target_speedup: float | None = None
    """Dense FLOPs over FLOPs that `soft_prune` learns to reach, >= 1; None: `prune.penalty` decides. A
    student keeps the most layers that reach it."""
    budget_exact: bool = False
    """Hold the model at `target_speedup` from both sides; False lets it become cheaper."""
    budget_ramp: float = 0.5
    """Share of `soft_prune` in which the asked saving rises from 0 to the target's, in [0, 1]."""
    reach_temperature: float | None = 0.1
    """Softness of the chance that a text leaves at `exit.threshold`, which weights a layer's FLOPs in the
    budget; None counts every layer as if all texts reached it."""
    learning_rate_budget: float = 0.02
    """Learning rate of the budget's two multipliers, which rise while the model costs too much."""
    rank_weight: float = 0.0
    """Weight in `soft_prune` of bringing early layers' attention into the fine-tuned model's order."""
    rank_floor: float = 1.0
    """Share of `rank_weight` left at the end of `budget_ramp`, to which it falls linearly; 1 keeps it all."""
    rank_top_k: int = 20
    """Tokens of each text that this order names, the most attended first."""
    max_drop: float = 0.5
    """Points of validation accuracy that the chosen exit threshold may cost."""
    validation_share: float = 0.1
    """Part of train held out where the data has no validation split."""
    seed: int = 0
    """Seed of initialisation, order and dropout."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass; thresholds and scores stay fp32."""

    def __post_init__(self) -> None:
        for name in self.epochs:
            if name not in STAGE_NAMES:
                raise ConfigError(f"train.epochs names the stage {name!r}; {nearest(name, STAGE_NAMES)}")
        for value in self.epochs.values():
            check_within("train", "epochs", value, 0.0, 10_000.0)
        check_choice("train", "joint_from", self.joint_from, Literal["finetune", "soft_prune"])
        check_choice("train", "exit_teacher", self.exit_teacher, Literal["final_head", "labels"])
        check_choice("train", "exit_weights", self.exit_weights, Literal["uniform", "depth_of_all"])
        check_choice("train", "student_keeps", self.student_keeps, Literal["all", "first", "alternate"])
        check_choice("train", "precision", self.precision, Literal["fp32", "bf16", "fp16"])
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None:
                check_within("train", name, value, low, high)

    def epochs_of(self, stage: str) -> float:
        """Epochs of a stage; a stage that is not named runs for none."""
        return float(self.epochs.get(stage, 0.0))

"""What training tells: events while it runs, a report when it is done."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from magic_pyramid.config import StageName


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainEvent:
    """One thing that happened."""

    kind: Literal["stage_started", "step", "validated", "stage_finished", "stage_skipped"]
    """`stage_skipped`: it had been finished before the interruption, or by another training."""
    stage: StageName
    step: int = 0
    num_steps: int = 0
    epoch: float = 0.0
    num_epochs: float = 0.0
    loss: float | None = None
    """Mean training loss since the previous number."""
    kept_tokens: tuple[float, ...] | None = None
    """Mean tokens alive after each layer, per training sequence."""
    gflops: float | None = None
    """Projected GFLOPs per sequence, all layers run: from `kept_tokens`, or measured (`validated`)."""
    speedup: float | None = None
    """Dense FLOPs over FLOPs as the stage expects them, where it follows a budget."""
    validation: Mapping[str, Any] | None = None
    """The numbers of `validated`."""


OnEvent = Callable[[TrainEvent], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """What one stage did."""

    name: StageName
    seconds: float
    """Time spent, summed over interruptions."""
    num_steps: int
    losses: tuple[dict[str, float], ...]
    """Mean training loss per logging interval: `step`, `epoch`, `loss`, `learning_rate`."""
    validation: tuple[dict[str, Any], ...]
    """Validation numbers at each epoch's end."""
    kept: dict[str, Any] | None
    """The entry of `validation` whose weights the next stage got, after they met an exact budget; None where
    nothing was validated."""
    pruner: dict[str, list[float]] | None
    """What the pruner had learned at the end, one value a layer, by its name; None without a pruner."""

    @property
    def kept_tokens(self) -> list[float] | None:
        """Mean tokens alive after each layer on validation; None where nothing was validated."""
        return self.kept["kept_tokens"] if self.kept else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read back what ``to_dict`` gave."""
        values = dict(data)
        for name in ("losses", "validation"):
            values[name] = tuple(values[name])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What all stages did, in order."""

    stages: tuple[StageReport, ...] = field(default_factory=tuple)

    @property
    def seconds(self) -> float:
        """Time spent in all stages."""
        return sum(stage.seconds for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"seconds": self.seconds, "stages": [stage.to_dict() for stage in self.stages]}

"""A budget as a constraint: two multipliers that rise while the model costs too much (ToP, section 3.4)."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from magic_pyramid.config import ModelConfig, TrainConfig
from magic_pyramid.cost import CostModel, flops_speedup
from magic_pyramid.errors import ConfigError
from magic_pyramid.model import PyramidModel
from magic_pyramid.training.projection import projected_speedup
from magic_pyramid.training.stages import Stage, expects_exits, stages_of


class Budget(nn.Module):
    """Penalty on the FLOPs that a speed-up asks to save and that are not saved yet.

    ``m1 * missing + m2 * missing ** 2``, where ``missing`` is the share of the dense FLOPs still to be saved.
    The multipliers start at 0 and learn by gradient ascent, so whoever trains them maximises the loss. The
    share to be saved rises linearly during the ramp, so that the model can follow.
    """

    def __init__(self, speedup: float, *, dense_flops: float, ramp: float, exact: bool = False) -> None:
        """Ask for a speed-up.

        Args:
            speedup: mean dense FLOPs over mean FLOPs that is wanted, >= 1.
            dense_flops: mean dense FLOPs of a training text; a long text counts for more, as in the speed-up.
            ramp: share of the training after which the whole speed-up is asked for, in [0, 1].
            exact: also push back a model that is cheaper than asked for; otherwise it may be.
        """
        super().__init__()
        self.share = 1.0 - 1.0 / speedup
        self.dense_flops, self.ramp, self.exact = dense_flops, ramp, exact
        self.linear = nn.Parameter(torch.zeros(()))
        self.quadratic = nn.Parameter(torch.zeros(()))

    def share_at(self, progress: float) -> float:
        """Share of the dense FLOPs to be saved when so much of the training, in [0, 1], is done."""
        return self.share * (min(1.0, progress / self.ramp) if self.ramp > 0 else 1.0)

    def penalty(
        self, flops: Float[Tensor, " seqs"], dense_flops: Float[Tensor, " seqs"], *, progress: float
    ) -> Float[Tensor, ""]:
        """What the batch adds to the loss.

        Args:
            flops: expected FLOPs of each text.
            dense_flops: with pruning and exits off.
            progress: share of the training done, in [0, 1].
        """
        allowed = (1.0 - self.share_at(progress)) * dense_flops
        missing = (flops - allowed).mean() / self.dense_flops
        if self.exact:
            return self.linear * missing + self.quadratic * missing**2
        with torch.no_grad():
            # Below 0 a multiplier would reward waste; clamped in place, it can rise again at once.
            self.linear.clamp_(min=0.0)
            self.quadratic.clamp_(min=0.0)
        return self.linear * missing + self.quadratic * missing.clamp(min=0.0) ** 2


def budget_of(
    stage: Stage, model: ModelConfig, train: TrainConfig, lengths: Int[np.ndarray, " rows"]
) -> Budget | None:
    """The budget that a stage learns to keep on texts of these lengths; None where it has none."""
    if stage.target_speedup is None:
        return None
    return Budget(
        stage.target_speedup,
        dense_flops=float(CostModel(model).dense_flops(lengths).mean()),
        ramp=stage.ramp,
        exact=train.budget_exact,
    )


def meet_budget(model: PyramidModel, budget: Budget, lengths: Int[np.ndarray, " rows"]) -> bool:
    """Close the gap that the multipliers left between the speed-up of these texts and an exact one.

    Gives whether the pruner could. With exits the speed-up depends on more than on what is pruned.
    """
    if not budget.exact or model.config.exit_layers:
        return False
    return _meet(model, 1.0 / (1.0 - budget.share), lengths) is not None


def meet_beforehand(model: PyramidModel, train: TrainConfig, lengths: Int[np.ndarray, " rows"]) -> None:
    """Let a pruner that meets a speed-up without training do so on texts of these lengths."""
    if train.target_speedup is not None and _is_met_beforehand(model.config):
        _meet(model, train.target_speedup, lengths)


def _meet(model: PyramidModel, speedup: float, lengths: Int[np.ndarray, " rows"]) -> float | None:
    """The speed-up of these texts after the pruner came as near as it can; None where it cannot."""
    if model.pruner is None:
        return None
    return model.pruner.meet(
        torch.from_numpy(lengths).to(model.embeddings.token.weight.device),
        wanted=speedup,
        measure=lambda num_tokens: projected_speedup(model.config, num_tokens.cpu().numpy()),
    )


def _is_met_beforehand(model: ModelConfig) -> bool:
    return model.prune is not None and model.prune.meets_budget and not model.exit_layers


def check_budget(model: ModelConfig, train: TrainConfig, lengths: Int[np.ndarray, " rows"]) -> None:
    """Raise ConfigError when a speed-up cannot be learned or reached, or where none is given and one must."""
    asked = train.target_speedup
    if asked is None:
        if model.prune is not None and model.prune.needs_budget:
            raise ConfigError(
                f"prune.kind {model.prune.kind!r} learns to remove tokens only towards a speed-up, and "
                "train.target_speedup is None; give one, such as --target-speedup 2"
            )
        return
    stages = [stage for stage in stages_of(model, train) if stage.target_speedup is not None]
    if not stages and not _is_met_beforehand(model):
        raise ConfigError(
            f"train.target_speedup is {asked:g}, but no stage of this training learns what to remove; "
            "choose a preset that prunes, and give soft_prune some epochs"
        )
    counts_exits = bool(stages) and expects_exits(stages[0], model)
    cost = CostModel(model if counts_exits else model.replace(exit=None))
    most = flops_speedup(cost.dense_flops(lengths), cost.least_flops(lengths))
    if asked > most:
        raise ConfigError(
            f"train.target_speedup is {asked:g}; with as few tokens as its settings can leave these texts "
            f"reach {most:.2f} at most; ask for less, or let earlier layers prune"
        )

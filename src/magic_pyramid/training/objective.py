"""What a stage minimises: the model, its frozen parts, and the weighted losses, as one module."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from magic_pyramid.config import ModelConfig, ProblemType
from magic_pyramid.cost import CostModel
from magic_pyramid.exiting.losses import distillation, exit_distillation, task_loss
from magic_pyramid.model import ModelOutput, ParameterGroup, PyramidModel
from magic_pyramid.pruning.ranking import rank_distillation
from magic_pyramid.training.batches import TrainBatch
from magic_pyramid.training.budget import Budget
from magic_pyramid.training.stages import Stage, early_layers

GROUPS: tuple[ParameterGroup, ...] = ("backbone", "final_head", "thresholds", "exit_heads")


class StageObjective(nn.Module):
    """The loss of one stage, and the model behind it; only the stage's parameter groups learn."""

    def __init__(
        self,
        model: PyramidModel,
        stage: Stage,
        *,
        distill_temperature: float = 1.0,
        budget: Budget | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.distill_temperature = distill_temperature
        self.budget = budget
        self.progress = 0.0
        """Share of the stage's steps done; the loop keeps it up to date."""
        for group in GROUPS:
            for parameter in model.parameter_group(group):
                parameter.requires_grad_(group in stage.trains)

    def train(self, mode: bool = True) -> Self:
        """Training mode for what learns; frozen modules stay in eval mode, so that a teacher is not noisy."""
        super().train(mode)
        if mode and "backbone" not in self.stage.trains:
            self.model.eval()
            self.model.final_head.train("final_head" in self.stage.trains)
            self.model.exit_heads.train("exit_heads" in self.stage.trains)
        return self

    def forward(self, inputs: TrainBatch) -> dict[str, Tensor]:
        """Mean loss over this process's sequences, and what the progress line shows."""
        output = self.model(inputs.batch, masking=self.stage.masking, exits=self.stage.asks_exits)
        losses = [weight * loss for weight, loss in self._terms(output, inputs) if weight > 0]
        flops, dense_flops = self._flops(output, inputs)
        if self.budget is not None:
            losses.append(self.budget.penalty(flops, dense_flops, progress=self.progress))
        counts = 1 if inputs.num_local else 0
        return {
            "loss": torch.stack(losses).sum(),
            "kept_tokens": counts * output.num_tokens.sum(0),
            "flops": counts * torch.stack([flops.detach().sum(), dense_flops.sum()]),
        }

    def _flops(self, output: ModelOutput, inputs: TrainBatch) -> tuple[Tensor, Tensor]:
        """Expected FLOPs of each text, and those with nothing removed."""
        cost, lengths = CostModel(self.model.config), inputs.batch.lengths.float()[:, None]
        dense = cost.expected_flops(lengths.expand(-1, len(self.model.layers) + 1))
        return cost.expected_flops(torch.cat([lengths, output.expected_tokens], dim=1)), dense

    def _terms(self, output: ModelOutput, inputs: TrainBatch) -> Iterable[tuple[float, Tensor]]:
        stage, config = self.stage, self.model.config
        problem: ProblemType = config.problem_type
        kl: Literal["forward", "reverse"] = config.exit.kl if config.exit else "forward"
        if stage.label_weight > 0:
            yield stage.label_weight, task_loss(output.logits, inputs.targets, problem_type=problem)
        if stage.distill_weight > 0:
            assert inputs.teacher is not None
            yield (
                stage.distill_weight,
                distillation(
                    output.logits,
                    inputs.teacher.logits,
                    temperature=self.distill_temperature,
                    problem_type=problem,
                ),
            )
        if stage.penalty_weight > 0:
            yield stage.penalty_weight, output.penalty.float().mean()
        if stage.rank_weight > 0:
            assert inputs.teacher is not None
            weight = stage.rank_weight_at(self.progress)
            for layer in early_layers(len(self.model.layers)):
                mass, ranking = output.masses[layer], inputs.teacher.ranking
                yield weight, rank_distillation(mass, inputs.batch, ranking)
        for logits in output.exit_logits.values():
            if stage.exit_label_weight > 0:
                yield stage.exit_label_weight, task_loss(logits, inputs.targets, problem_type=problem)
            if stage.exit_distill_weight > 0:
                yield (
                    stage.exit_distill_weight,
                    exit_distillation(logits, output.logits.detach(), kl=kl, problem_type=problem),
                )


def targets_of(labels: Sequence[Any], config: ModelConfig) -> Tensor:
    """Labels as a tensor: class indices, one 0 or 1 per label (multi-label), or numbers (regression)."""
    if config.problem_type == "multi_label":
        hot = torch.zeros(len(labels), config.num_labels)
        for row, indices in enumerate(labels):
            hot[row, list(indices)] = 1.0
        return hot
    return torch.tensor(labels, dtype=torch.int64 if config.problem_type == "single_label" else torch.float32)


def optimizer_groups(
    objective: StageObjective,
    *,
    learning_rates: dict[ParameterGroup, float],
    weight_decay: float,
    learning_rate_budget: float,
) -> list[dict[str, Any]]:
    """Optimiser groups of what learns, each with its learning rate; only matrices decay, thresholds never.

    A budget's multipliers are the one group that ascends.
    """
    groups: list[dict[str, Any]] = []
    for name in objective.stage.trains:
        parameters = objective.model.parameter_group(name)
        for decays in (True, False):
            chosen = [p for p in parameters if (p.ndim >= 2 and name != "thresholds") == decays]
            if chosen:
                decay = weight_decay if decays else 0.0
                groups.append({"params": chosen, "lr": learning_rates[name], "weight_decay": decay})
    if objective.budget is not None:
        groups.append({
            "params": list(objective.budget.parameters()),
            "lr": learning_rate_budget,
            "weight_decay": 0.0,
            "maximize": True,
        })  # fmt: skip
    return groups

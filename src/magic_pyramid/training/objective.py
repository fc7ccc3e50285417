"""What a stage minimises: the model, its frozen parts, and the weighted losses, as one module."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from magic_pyramid.config import ModelConfig, ProblemType
from magic_pyramid.cost import CostModel
from magic_pyramid.exit_thresholds import threshold_after
from magic_pyramid.exiting.criteria import uncertainty
from magic_pyramid.exiting.losses import distillation, exit_distillation, task_loss
from magic_pyramid.model import ModelOutput, ParameterGroup, PyramidModel
from magic_pyramid.pruning.ranking import rank_distillation
from magic_pyramid.training.batches import TrainBatch
from magic_pyramid.training.budget import Budget
from magic_pyramid.training.stages import Stage, early_layers, expects_exits

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
        spent = torch.zeros(2, device=output.logits.device)
        if self.budget is not None:
            flops, dense_flops = self._flops(output, inputs)
            losses.append(self.budget.penalty(flops, dense_flops, progress=self.progress))
            spent = torch.stack([flops.detach().sum(), dense_flops.sum()])
        counts = 1 if inputs.num_local else 0
        return {
            "loss": torch.stack(losses).sum(),
            "kept_tokens": counts * output.num_tokens.sum(0),
            "flops": counts * spent,
        }

    def _flops(self, output: ModelOutput, inputs: TrainBatch) -> tuple[Tensor, Tensor]:
        """Expected FLOPs of each text, and those with nothing removed."""
        cost, lengths = CostModel(self.model.config), inputs.batch.lengths.float()[:, None]
        dense = cost.expected_flops(lengths.expand(-1, len(self.model.layers) + 1))
        num_tokens = torch.cat([lengths, output.expected_tokens], dim=1)
        return cost.expected_flops(num_tokens, self._reach(output)), dense

    def _reach(self, output: ModelOutput) -> Tensor | None:
        """How likely each text reaches each layer; None where all count as reached.

        Without a gradient: a head must not become sure of itself because that is cheap.
        """
        config, exits, temperature = self.model.config, self.model.config.exit, self.stage.reach_temperature
        if not expects_exits(self.stage, config):
            return None
        assert exits is not None
        assert exits.threshold is not None
        assert temperature is not None
        assert exits.criterion != "patience"
        stays = torch.ones_like(output.expected_tokens)
        for layer, logits in output.exit_logits.items():
            unsure = uncertainty(logits.detach(), problem_type=config.problem_type, criterion=exits.criterion)
            threshold = threshold_after(config, exits.threshold, layer)
            stays[:, layer] = torch.sigmoid((unsure - threshold) / temperature)
        return torch.cat([torch.ones_like(stays[:, :1]), stays[:, :-1].cumprod(1)], dim=1).detach()

    def _terms(self, output: ModelOutput, inputs: TrainBatch) -> Iterable[tuple[float, Tensor]]:
        stage, config = self.stage, self.model.config
        problem: ProblemType = config.problem_type
        kl: Literal["forward", "reverse"] = config.exit.kl if config.exit else "forward"
        if stage.label_weight > 0:
            yield stage.label_weight, task_loss(output.logits, inputs.targets, problem_type=problem)
        if stage.distill_weight > 0:
            yield stage.distill_weight, self._by_teacher(output.logits, inputs)
        if stage.penalty_weight > 0:
            yield stage.penalty_weight, output.penalty.float().mean()
        if stage.rank_weight > 0:
            assert inputs.teacher is not None
            weight = stage.rank_weight_at(self.progress)
            for layer in early_layers(len(self.model.layers)):
                mass, ranking = output.masses[layer], inputs.teacher.ranking
                yield weight, rank_distillation(mass, inputs.batch, ranking)
        for layer, logits in output.exit_logits.items():
            share = self._exit_share(layer)
            if stage.exit_label_weight > 0:
                loss = task_loss(logits, inputs.targets, problem_type=problem)
                yield share * stage.exit_label_weight, loss
            if stage.exit_distill_weight > 0:
                loss = exit_distillation(logits, output.logits.detach(), kl=kl, problem_type=problem)
                yield share * stage.exit_distill_weight, loss

    def _by_teacher(self, logits: Tensor, inputs: TrainBatch) -> Tensor:
        assert inputs.teacher is not None
        return distillation(
            logits,
            inputs.teacher.logits,
            temperature=self.distill_temperature,
            problem_type=self.model.config.problem_type,
        )

    def _exit_share(self, layer: int) -> float:
        """A head's weight among the exit heads, whose mean is 1."""
        layers = self.model.config.exit_layers
        if self.stage.exit_weights == "uniform":
            return 1.0
        return (layer + 1) * len(layers) / sum(other + 1 for other in layers)


def targets_of(labels: Sequence[Any], config: ModelConfig) -> Tensor:
    """Labels as a tensor: class indices, one 0 or 1 per label (multi-label), or numbers (regression).

    For spans the places of an answer's first and last token.
    """
    if config.problem_type == "span":
        return torch.tensor([window.target for window in labels], dtype=torch.int64)
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

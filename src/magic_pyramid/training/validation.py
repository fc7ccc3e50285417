"""Direct passes in eval mode: the numbers of an epoch's end, and the teacher's answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magic_pyramid.exiting.losses import exit_distillation, task_loss
from magic_pyramid.metrics import METRIC_NAMES, quality
from magic_pyramid.model import Masking, PyramidModel
from magic_pyramid.packing import pack_sequences
from magic_pyramid.pruning.ranking import top_tokens
from magic_pyramid.tokenization import EncodedTexts
from magic_pyramid.training.batches import length_batches
from magic_pyramid.training.objective import targets_of
from magic_pyramid.training.processes import Processes
from magic_pyramid.training.projection import projected_gflops, projected_speedup
from magic_pyramid.training.stages import Stage
from magic_pyramid.training.teacher import Teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Every head's logits and the tokens alive, for every row; on the CPU."""

    logits: Tensor
    exit_logits: dict[int, Tensor]
    num_tokens: Tensor


@torch.no_grad()
def answer_all(
    model: PyramidModel, encoded: EncodedTexts, *, masking: Masking, exits: bool, processes: Processes
) -> Answers:
    """One forward pass over all rows, shared among the processes; the model comes back in its old mode."""
    config, was_training = model.config, model.training
    rows = len(encoded)
    logits = torch.zeros(rows, *config.logits_shape, device=processes.device)
    exit_logits = {layer: torch.zeros_like(logits) for layer in (config.exit_layers if exits else ())}
    counts = torch.zeros(rows, config.backbone.num_hidden_layers, dtype=torch.int64, device=processes.device)
    model.eval()
    for batch in length_batches(np.asarray(encoded.lengths), processes):
        chosen = encoded.select(batch.tolist())
        packed = pack_sequences(chosen.token_ids, token_type_ids=chosen.token_type_ids)
        output = model(packed.to(processes.device), masking=masking, exits=exits)
        places = torch.from_numpy(batch).to(processes.device)
        logits[places] = output.logits.float()
        counts[places] = output.num_tokens
        for layer, values in output.exit_logits.items():
            exit_logits[layer][places] = values.float()
    model.train(was_training)
    return Answers(
        logits=processes.sum(logits).cpu(),
        exit_logits={layer: processes.sum(values).cpu() for layer, values in exit_logits.items()},
        num_tokens=processes.sum(counts).cpu(),
    )


@torch.no_grad()
def ask_teacher(model: PyramidModel, encoded: EncodedTexts, *, top_k: int, processes: Processes) -> Teacher:
    """One pass over all rows with every token, shared among the processes, in eval mode."""
    was_training, last = model.training, len(model.layers) - 1
    logits = torch.zeros(len(encoded), *model.config.logits_shape, device=processes.device)
    ranking = torch.zeros(len(encoded), top_k, dtype=torch.int64, device=processes.device)
    model.eval()
    for rows in length_batches(np.asarray(encoded.lengths), processes):
        chosen = encoded.select(rows.tolist())
        batch = pack_sequences(chosen.token_ids, token_type_ids=chosen.token_type_ids).to(processes.device)
        state = model.begin(batch)
        for layer in range(last):
            state = model.keep_all(state, layer)
        block = model.block(last)
        weights = block.attention.weigh(state.hidden_states, state.layout, state.bias)
        hidden = block.finish(weights.context(), state.hidden_states)
        places = torch.from_numpy(rows).to(processes.device)
        logits[places] = model.final_head(hidden, batch).float()
        ranking[places] = top_tokens(weights.mass, batch, count=top_k)
    model.train(was_training)
    return Teacher(logits=processes.sum(logits).cpu(), ranking=processes.sum(ranking).cpu())


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The held-out rows, and how a stage is judged on them."""

    encoded: EncodedTexts
    labels: Sequence[Any]
    """One a row, as ``label_rows`` gives them."""
    processes: Processes

    def measure(self, model: PyramidModel, stage: Stage) -> dict[str, Any]:
        """Numbers of this moment; the best has the least ``budget_miss``, then the largest ``score``."""
        config = model.config
        answers = answer_all(
            model,
            self.encoded,
            masking=stage.validation_masking,
            exits=stage.asks_exits,
            processes=self.processes,
        )
        exit_quality = {
            str(layer): quality(values.numpy(), self.labels, config)
            for layer, values in answers.exit_logits.items()
        }
        final_quality = quality(answers.logits.numpy(), self.labels, config)
        score = sum(exit_quality.values()) / len(exit_quality) if stage.learns_exits_only else final_quality
        num_tokens = np.concatenate(
            [np.asarray(self.encoded.lengths)[:, None], answers.num_tokens.numpy()], axis=1
        )
        scale = None if stage.validation_masking == "hard" else 0.0
        speedup = projected_speedup(config, num_tokens, prune_scale=scale)
        return {
            "score": score,
            "budget_miss": stage.budget_miss(speedup),
            "loss": (
                self._exit_loss(answers, model, stage)
                if stage.learns_exits_only
                else self._loss(answers.logits, model)
            ),
            "metric": METRIC_NAMES[config.problem_type],
            "quality": final_quality,
            "exit_quality": exit_quality,
            "kept_tokens": answers.num_tokens.double().mean(0).tolist(),
            "gflops": projected_gflops(config, num_tokens, prune_scale=scale),
            "speedup": speedup,
        }

    def _loss(self, logits: Tensor, model: PyramidModel) -> float:
        targets = targets_of(self.labels, model.config)
        return float(task_loss(logits, targets, problem_type=model.config.problem_type))

    def _exit_loss(self, answers: Answers, model: PyramidModel, stage: Stage) -> float:
        assert model.config.exit is not None
        if stage.exit_label_weight > 0:
            by_labels = [self._loss(logits, model) for logits in answers.exit_logits.values()]
            return sum(by_labels) / len(by_labels)
        kl, problem = model.config.exit.kl, model.config.problem_type
        losses = [
            exit_distillation(logits, answers.logits, kl=kl, problem_type=problem)
            for logits in answers.exit_logits.values()
        ]
        return float(torch.stack(losses).mean())

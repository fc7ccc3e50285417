"""Every head's answer to every text, so that any exit threshold can be tried without running again."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from magic_pyramid.config import ModelConfig
from magic_pyramid.cost import CostModel
from magic_pyramid.engine.interface import EngineOutput, Setting, layers_tested
from magic_pyramid.engine.scheduler import plan_batches
from magic_pyramid.exiting.criteria import ExitRule
from magic_pyramid.model import PyramidModel
from magic_pyramid.packing import pack_sequences
from magic_pyramid.planning import ExitStatistics
from magic_pyramid.tokenization import EncodedTexts

TOKENS_PER_BATCH = 4096


@dataclass(frozen=True, slots=True)
class AllAnswers:
    """What all heads say at one prune scale when nobody leaves."""

    logits: dict[int, Tensor]
    """Logits ``[inputs, labels]`` of each exit layer and, under the last layer, of the final head."""
    num_tokens: np.ndarray
    """As in ``EngineOutput``, every layer run."""


@torch.inference_mode()
def answer_all_heads(model: PyramidModel, encoded: EncodedTexts, *, scale: float) -> AllAnswers:
    """Run every layer, tokens removed at this multiple of the thresholds, and ask every head.

    Args:
        model: in evaluation mode.
        encoded: the inputs.
        scale: multiplier of the token thresholds; 0 removes nothing.
    """
    config = model.config
    layers = config.backbone.num_hidden_layers
    heads = {
        layer: torch.zeros(len(encoded), config.num_labels) for layer in (*config.exit_layers, layers - 1)
    }
    num_tokens = np.zeros((len(encoded), layers + 1), dtype=np.int64)
    device = next(model.parameters()).device
    for rows in plan_batches(encoded.lengths, tokens_per_batch=TOKENS_PER_BATCH, batch_size=None):
        chosen = encoded.select(rows)
        batch = pack_sequences(chosen.token_ids, token_type_ids=chosen.token_type_ids).to(device)
        state = model.begin(batch)
        num_tokens[rows, 0] = chosen.lengths
        for layer in range(layers):
            state = model.remove_tokens(state, layer, scale=scale)
            num_tokens[rows, layer + 1] = state.batch.lengths.cpu().numpy()
            if layer in config.exit_layers:
                heads[layer][rows] = model.exit_head(layer)(state.hidden_states, state.batch).float().cpu()
        heads[layers - 1][rows] = model.final_head(state.hidden_states, state.batch).float().cpu()
    return AllAnswers(heads, num_tokens)


def simulate(config: ModelConfig, answers: AllAnswers, setting: Setting) -> tuple[EngineOutput, np.ndarray]:
    """What an engine would give with these exits, and the FLOPs of each input.

    The answers are taken as they are: ``prune_scale`` is the one they were made with.
    """
    layers = config.backbone.num_hidden_layers
    exit_layer = torch.full((len(answers.num_tokens),), layers - 1)
    logits = answers.logits[layers - 1].clone()
    rule, asked = ExitRule(config, setting.exit_threshold), layers_tested(config, setting)
    state = rule.start(len(exit_layer))
    running = torch.ones(len(exit_layer), dtype=torch.bool)
    for layer in asked:
        leaves, state = rule.test(answers.logits[layer], state)
        now = leaves & running
        exit_layer[now], logits[now] = layer, answers.logits[layer][now]
        running &= ~now
    ran = np.arange(layers + 1) <= exit_layer.numpy()[:, None] + 1
    output = EngineOutput(
        logits=logits.numpy(), exit_layer=exit_layer.numpy(), num_tokens=answers.num_tokens * ran
    )
    flops = CostModel(config).flops(output.num_tokens, output.exit_layer, tested_layers=asked)
    return output, flops


def exit_statistics(config: ModelConfig, answers: AllAnswers, setting: Setting) -> ExitStatistics:
    """What each head would do with each text at a setting whose exits are on; a confidence criterion only.

    The answers are taken as they are: ``prune_scale`` must be the one they were made with.
    """
    assert setting.exit_threshold is not None, "exits are on"
    rule, count = ExitRule(config, setting.exit_threshold), len(answers.num_tokens)
    leaves = [rule.test(answers.logits[layer], rule.start(count))[0].tolist() for layer in config.exit_layers]
    patterns = Counter("".join("01"[leave] for leave in heads) for heads in zip(*leaves, strict=True))
    return ExitStatistics(
        exit_threshold=setting.exit_threshold,
        prune_scale=setting.prune_scale,
        exit_layers=config.exit_layers,
        patterns=dict(sorted(patterns.items())),
        mean_tokens=tuple(round(float(mean), 2) for mean in answers.num_tokens.mean(axis=0)),
    )

"""Every head's answer to every text, so that any exit threshold can be tried without running again."""

from collections import Counter

import numpy as np

from magic_pyramid.config import ModelConfig
from magic_pyramid.cost import CostModel
from magic_pyramid.engine.array_rule import ArrayExitRule
from magic_pyramid.engine.interface import AllAnswers, EngineOutput, Setting, layers_tested
from magic_pyramid.planning import ExitStatistics


def simulate(config: ModelConfig, answers: AllAnswers, setting: Setting) -> tuple[EngineOutput, np.ndarray]:
    """What an engine would give with these exits, and the FLOPs of each input.

    The answers are taken as they are: ``prune_scale`` is the one they were made with.
    """
    layers, count = config.backbone.num_hidden_layers, len(answers.num_tokens)
    exit_layer = np.full(count, layers - 1)
    logits = answers.logits[layers - 1].copy()
    rule, asked = ArrayExitRule(config, setting.exit_threshold or 0.0), layers_tested(config, setting)
    state = rule.start(count)
    running = np.ones(count, dtype=np.bool_)
    for layer in asked:
        leaves, state = rule.test(answers.logits[layer], state, layer=layer)
        now = leaves & running
        exit_layer[now], logits[now] = layer, answers.logits[layer][now]
        running &= ~now
    ran = np.arange(layers + 1) <= exit_layer[:, None] + 1
    output = EngineOutput(logits=logits, exit_layer=exit_layer, num_tokens=answers.num_tokens * ran)
    flops = CostModel(config).flops(output.num_tokens, output.exit_layer, tested_layers=asked)
    return output, flops


def exit_statistics(config: ModelConfig, answers: AllAnswers, setting: Setting) -> ExitStatistics:
    """What each head would do with each text at a setting whose exits are on; a confidence criterion only.

    The answers are taken as they are: ``prune_scale`` must be the one they were made with.
    """
    assert setting.exit_threshold is not None, "exits are on"
    rule, count = ArrayExitRule(config, setting.exit_threshold), len(answers.num_tokens)
    leaves = [
        rule.test(answers.logits[layer], rule.start(count), layer=layer)[0].tolist()
        for layer in config.exit_layers
    ]
    patterns = Counter("".join("01"[leave] for leave in heads) for heads in zip(*leaves, strict=True))
    return ExitStatistics(
        exit_threshold=setting.exit_threshold,
        prune_scale=setting.prune_scale,
        exit_layers=config.exit_layers,
        patterns=dict(sorted(patterns.items())),
        mean_tokens=tuple(round(float(mean), 2) for mean in answers.num_tokens.mean(axis=0)),
    )

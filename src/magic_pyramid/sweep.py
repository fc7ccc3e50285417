"""Every head's answer to every text, so that any exit threshold can be tried without running again."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from magic_pyramid.config import ModelConfig
from magic_pyramid.cost import CostModel
from magic_pyramid.engine.array_rule import ArrayExitRule
from magic_pyramid.engine.interface import (
    AllAnswers,
    AsksAllHeads,
    EngineOutput,
    Setting,
    flops_of,
    layers_tested,
)
from magic_pyramid.metrics import Label, quality
from magic_pyramid.planning import ExitStatistics
from magic_pyramid.tokenization import EncodedTexts

EXIT_THRESHOLDS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, *(round(0.05 * step, 2) for step in range(2, 20)))
"""Thresholds that are tried, safest first."""
PRUNE_SCALES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Multipliers of the token thresholds that are tried, safest first."""


def thresholds_of(config: ModelConfig) -> tuple[float | None, ...]:
    """What may be tried of a model, safest first."""
    if config.exit is None:
        return (None,)
    if config.exit.criterion == "patience":
        return (None, *(1.0 / patience for patience in range(len(config.exit_layers), 0, -1)))
    return (None, *EXIT_THRESHOLDS)


def sweep(
    engine: AsksAllHeads,
    config: ModelConfig,
    encoded: EncodedTexts,
    labels: Sequence[Label],
    *,
    named: Mapping[str, Setting],
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Accuracy and FLOPs of every prune scale and exit threshold, and of settings that have a name."""
    scales = PRUNE_SCALES if config.prune else (0.0,)
    answered = {
        scale: engine.answer_all_heads(encoded, scale=scale)
        for scale in dict.fromkeys([*scales, *(setting.prune_scale for setting in named.values())])
    }
    dense_flops = CostModel(config).dense_flops(answered[0.0].num_tokens[:, 0]).mean()

    def point(setting: Setting) -> dict[str, Any]:
        output, flops = simulate(config, answered[setting.prune_scale], setting)
        return {
            "prune_scale": setting.prune_scale,
            "exit_threshold": setting.exit_threshold,
            "accuracy": quality(output.logits, labels, config),
            "flops_speedup": float(dense_flops / flops.mean()),
        }

    grid = [
        point(Setting(prune_scale=scale, exit_threshold=threshold))
        for scale in scales
        for threshold in thresholds_of(config)
    ]
    return grid, {name: point(setting) for name, setting in named.items()}


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
    return output, flops_of(config, output, setting)


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

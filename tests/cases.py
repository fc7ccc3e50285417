"""Models and settings on which every engine must agree with the oracle."""

import numpy as np

import tiny
from magic_pyramid.config import PruneConfig
from magic_pyramid.engine.interface import DENSE, EngineOutput, Setting

LENGTHS = (9, 2, 14, 9, 1, 5)
CASES = {
    "kept": tiny.CONFIG,
    "input": tiny.changed(prune={"score_norm": "input"}),
    "fixed": tiny.changed(prune={"score_norm": "fixed", "fixed_length": 7}),
    "zero-based ramp": tiny.CONFIG.replace(
        prune=PruneConfig(threshold_index="zero_based", final_threshold=0.15)
    ),
    "one-based ramp": tiny.CONFIG.replace(prune=PruneConfig(final_threshold=0.15)),
    "protected separators": tiny.changed(prune={"protect_sep": True, "manual_thresholds": (0.2, 0.3, 0.4)}),
    "all but the first token die": tiny.changed(prune={"manual_thresholds": (1.0, 1.0, 1.0)}),
    "cls heads": tiny.changed(exit={"head": "cls"}),
    "block heads": tiny.changed(exit={"head": "block"}),
    "one exit": tiny.changed(exit={"layers": (1,)}),
    "fastbert final head": tiny.CONFIG.replace(final_head="fastbert"),
    "no pruner": tiny.CONFIG.replace(prune=None),
    "no exits": tiny.CONFIG.replace(exit=None),
    **{name: tiny.CONFIG.replace(backbone=backbone) for name, backbone in tiny.FAMILIES.items()},
}
ASKED = {
    "no head": {"exit_layers": ()},
    "the first": {"exit_layers": (0,)},
    "the second": {"exit_layers": (1,)},
    "both": {"exit_layers": (0, 1)},
    "rising thresholds": {"exit_threshold": (0.3, 0.8)},
    "falling thresholds": {"exit_threshold": (0.8, 0.3)},
    "a threshold that is not asked": {"exit_threshold": (1.0, 0.7), "exit_layers": (1,)},
}
"""Which heads are asked, and for what, for models that have both."""
HEADS = [name for name, config in CASES.items() if config.exit_layers == (0, 1)]
"""Cases with both exit heads."""
SETTINGS = {
    "dense": DENSE,
    "pruned": Setting(prune_scale=1.0),
    "exits": Setting(prune_scale=0.0, exit_threshold=0.6),
    "both": Setting(prune_scale=1.0, exit_threshold=0.6),
    "harder": Setting(prune_scale=1.5, exit_threshold=0.8),
}
TOLERANCE = 1e-4
"""What fp32 rounding may do to a logit."""
ORT_TOLERANCE = 3e-4
"""The same where onnxruntime answers, whose functions differ by processor (2e-4 was seen)."""


def assert_same(one: EngineOutput, other: EngineOutput, *, tolerance: float = TOLERANCE) -> None:
    """The same decisions exactly, and the same logits to a tolerance."""
    assert one.exit_layer.tolist() == other.exit_layer.tolist()
    assert one.num_tokens.tolist() == other.num_tokens.tolist()
    np.testing.assert_allclose(one.logits, other.logits, atol=tolerance, rtol=tolerance)

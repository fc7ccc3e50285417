"""What the tokens kept so far amount to, with every layer run."""

import numpy as np
from jaxtyping import Shaped

from magic_pyramid.config import ModelConfig
from magic_pyramid.cost import CostModel, flops_speedup


def projected_gflops(
    config: ModelConfig, num_tokens: Shaped[np.ndarray, "inputs layers_plus_1"], *, prune_scale: float | None
) -> float:
    """Mean GFLOPs per sequence without exits; means of token counts are rounded.

    Args:
        config: the model.
        num_tokens: of the input, and kept by each layer.
        prune_scale: strength of the pruning that kept them; None: the stored one.
    """
    return float(_flops(config, num_tokens, prune_scale).mean() / 1e9)


def projected_speedup(
    config: ModelConfig,
    num_tokens: Shaped[np.ndarray, "inputs layers_plus_1"],
    *,
    prune_scale: float | None = None,
) -> float:
    """Mean dense FLOPs over mean FLOPs without exits, padding-free; see ``projected_gflops``."""
    dense = CostModel(config).dense_flops(num_tokens[:, 0])
    return flops_speedup(dense, _flops(config, num_tokens, prune_scale))


def _flops(config: ModelConfig, num_tokens: np.ndarray, prune_scale: float | None) -> np.ndarray:
    counts = np.rint(num_tokens).astype(np.int64)
    exit_layer = np.full(len(counts), config.backbone.num_hidden_layers - 1)
    return CostModel(config).flops(counts, exit_layer, tested_layers=(), prune_scale=prune_scale)

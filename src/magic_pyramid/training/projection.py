"""What the tokens kept so far amount to, with every layer run."""

import numpy as np
from jaxtyping import Shaped

from magic_pyramid.config import ModelConfig
from magic_pyramid.cost import CostModel, flops_speedup


def projected_gflops(config: ModelConfig, num_tokens: Shaped[np.ndarray, "inputs layers_plus_1"]) -> float:
    """Mean GFLOPs per sequence without exits; means of token counts are rounded."""
    return float(_flops(config, num_tokens).mean() / 1e9)


def projected_speedup(config: ModelConfig, num_tokens: Shaped[np.ndarray, "inputs layers_plus_1"]) -> float:
    """Mean dense FLOPs over mean FLOPs without exits, padding-free."""
    return flops_speedup(CostModel(config).dense_flops(num_tokens[:, 0]), _flops(config, num_tokens))


def _flops(config: ModelConfig, num_tokens: Shaped[np.ndarray, "inputs layers_plus_1"]) -> np.ndarray:
    counts = np.rint(num_tokens).astype(np.int64)
    exit_layer = np.full(len(counts), config.backbone.num_hidden_layers - 1)
    return CostModel(config).flops(counts, exit_layer, tested_layers=())

"""GFLOPs that the tokens kept so far amount to, with every layer run."""

import numpy as np
from jaxtyping import Shaped

from magic_pyramid.config import ModelConfig
from magic_pyramid.cost import CostModel


def projected_gflops(config: ModelConfig, num_tokens: Shaped[np.ndarray, "inputs layers_plus_1"]) -> float:
    """Mean GFLOPs per sequence without exits; means of token counts are rounded."""
    counts = np.rint(num_tokens).astype(np.int64)
    exit_layer = np.full(len(counts), config.backbone.num_hidden_layers - 1)
    return float(CostModel(config).flops(counts, exit_layer, tested_layers=()).mean() / 1e9)

"""Temperatures of heads, folded into the last layer's weights: of a model, and of tensors as stored."""

from collections.abc import Mapping

import torch
from torch import Tensor

from magic_pyramid.config import ModelConfig
from magic_pyramid.exiting.heads import LAST_LAYERS
from magic_pyramid.model import PyramidModel


def fold_temperatures(model: PyramidModel, temperatures: Mapping[int, float]) -> None:
    """Divide the logits of heads by their temperature; by layer, the last layer is the final head."""
    tensors = model.state_dict()
    with torch.no_grad():
        for name, temperature in _scaled(model.config, temperatures).items():
            tensors[name].div_(temperature)


def fold_stored(
    config: ModelConfig, tensors: Mapping[str, Tensor], temperatures: Mapping[int, float]
) -> dict[str, Tensor]:
    """The same with tensors of any storage: of codes the scale changes, 16-bit matrices become fp32."""
    folded = dict(tensors)
    for name, temperature in _scaled(config, temperatures).items():
        stored = f"{name}.scale" if f"{name}.scale" in folded else name
        folded[stored] = folded[stored].float() / temperature
    return folded


def _scaled(config: ModelConfig, temperatures: Mapping[int, float]) -> dict[str, float]:
    """Temperature by the name of the weight or bias that is divided by it."""
    last = config.backbone.num_hidden_layers - 1
    exit_kind = config.exit.head if config.exit else "fastbert"
    found: dict[str, float] = {}
    for layer, temperature in temperatures.items():
        head = "final_head" if layer == last else f"exit_heads.{layer}"
        output = LAST_LAYERS[config.final_head if layer == last else exit_kind]
        found |= {f"{head}.{output}.{part}": temperature for part in ("weight", "bias")}
    return found

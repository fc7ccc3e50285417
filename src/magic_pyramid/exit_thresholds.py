"""One exit threshold for all exit heads, or one for each of them in the order of their layers."""

from magic_pyramid.config import ModelConfig

ExitThreshold = float | tuple[float, ...]


def threshold_after(config: ModelConfig, threshold: ExitThreshold, layer: int) -> float:
    """What the head after a 0-based exit layer compares with."""
    return threshold[config.exit_layers.index(layer)] if isinstance(threshold, tuple) else threshold

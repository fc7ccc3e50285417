"""Choosing the speed knob on held-out texts: the cheapest setting whose answers stay good enough."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magic_pyramid.config import ModelConfig
from magic_pyramid.cost import CostModel
from magic_pyramid.engine.scheduler import plan_batches
from magic_pyramid.exiting.criteria import ExitRule
from magic_pyramid.metrics import Label, quality
from magic_pyramid.model import PyramidModel
from magic_pyramid.packing import pack_sequences
from magic_pyramid.tokenization import EncodedTexts

EXIT_THRESHOLDS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
"""Candidates, safest first; above one half an entropy of two labels means less than 89 % sure."""
PRUNE_SCALES = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Candidate multipliers of the token thresholds, safest first."""
MAX_ROWS = 1000
"""Texts looked at; of a larger set, this many at even distances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The chosen setting and what it did on the texts that chose it."""

    exit_threshold: float | None
    """None where the model has no exits."""
    prune_scale: float
    """1 where the model has no pruner."""
    quality: float
    """With this setting, on the calibration texts."""
    dense_quality: float
    """Of the same weights with pruning and exits off."""
    flops_speedup: float
    """Padding-free, on the calibration texts."""
    num_examples: int
    """Calibration texts."""
    max_drop: float
    """Points that were allowed to be lost."""
    meets_max_drop: bool
    """False: even the safest setting loses more, and it was chosen all the same."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Cached:
    """All heads' answers at one prune scale."""

    logits: dict[int, Tensor]
    num_tokens: np.ndarray


def calibrate(
    model: PyramidModel, encoded: EncodedTexts, labels: Sequence[Label], *, max_drop: float
) -> Calibration:
    """Search prune scale and exit threshold together.

    For each scale the thresholds are walked from the safest up and the walk stops at the first that loses
    more than ``max_drop`` points against the dense run, so that one lucky large threshold is not taken. The
    cheapest setting that passed wins. It is an empirical choice, without a guarantee for other texts.

    Args:
        model: with a pruner, exits, both or neither; any mode, it is put in evaluation mode.
        encoded: held-out texts, not used to fit any weight.
        labels: theirs.
        max_drop: points (0.5 is half a per cent) of quality that may be lost.
    """
    config = model.eval().config
    rows = np.linspace(0, len(encoded) - 1, min(len(encoded), MAX_ROWS)).round().astype(int).tolist()
    encoded, labels = encoded.select(rows), [labels[row] for row in rows]
    dense = _answers(model, encoded, scale=0.0)
    last = config.backbone.num_hidden_layers - 1
    dense_quality = quality(dense.logits[last].numpy(), labels, config.problem_type)
    dense_flops = CostModel(config).dense_flops(dense.num_tokens[:, 0]).mean()
    floor = dense_quality - max_drop / 100

    best: Calibration | None = None
    safest: Calibration | None = None
    for scale in PRUNE_SCALES if config.prune else (1.0,):
        cached = dense if scale == 0.0 or not config.prune else _answers(model, encoded, scale=scale)
        for threshold in _thresholds(config):
            logits, flops = _simulate(config, cached, threshold)
            found = Calibration(
                exit_threshold=threshold,
                prune_scale=scale,
                quality=quality(logits, labels, config.problem_type),
                dense_quality=dense_quality,
                flops_speedup=float(dense_flops / flops.mean()),
                num_examples=len(encoded),
                max_drop=max_drop,
                meets_max_drop=True,
            )
            safest = safest or found
            if found.quality < floor:
                break
            best = found if best is None or found.flops_speedup > best.flops_speedup else best
    assert safest is not None
    return best or Calibration(**{**safest.to_dict(), "meets_max_drop": False})


def _thresholds(config: ModelConfig) -> tuple[float | None, ...]:
    if config.exit is None:
        return (None,)
    # Patience counts layers; a threshold only switches it on.
    return (None, 0.0) if config.exit.criterion == "patience" else (None, *EXIT_THRESHOLDS)


@torch.inference_mode()
def _answers(model: PyramidModel, encoded: EncodedTexts, *, scale: float) -> _Cached:
    config = model.config
    layers = config.backbone.num_hidden_layers
    heads = {
        layer: torch.zeros(len(encoded), config.num_labels) for layer in (*config.exit_layers, layers - 1)
    }
    num_tokens = np.zeros((len(encoded), layers + 1), dtype=np.int64)
    device = next(model.parameters()).device
    for rows in plan_batches(encoded.lengths, tokens_per_batch=4096, batch_size=None):
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
    return _Cached(heads, num_tokens)


def _simulate(config: ModelConfig, cached: _Cached, threshold: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Logits and FLOPs of each row, had it left by this threshold."""
    layers = config.backbone.num_hidden_layers
    exit_layer = torch.full((len(cached.num_tokens),), layers - 1)
    logits = cached.logits[layers - 1].clone()
    rule = ExitRule(config, threshold)
    state = rule.start(len(exit_layer))
    running = torch.ones(len(exit_layer), dtype=torch.bool)
    for layer in config.exit_layers if threshold is not None else ():
        leaves, state = rule.test(cached.logits[layer], state)
        now = leaves & running
        exit_layer[now], logits[now] = layer, cached.logits[layer][now]
        running &= ~now
    flops = CostModel(config).flops(
        cached.num_tokens, exit_layer.numpy(), charges_exits=threshold is not None
    )
    return logits.numpy(), flops

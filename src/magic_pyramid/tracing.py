"""Follow one text through the model, layer by layer, for the pictures."""

import torch
from torch import Tensor

from magic_pyramid.cost import CostModel
from magic_pyramid.engine.interface import Setting, layers_tested
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.exiting.criteria import uncertainty
from magic_pyramid.metrics import probabilities
from magic_pyramid.model import EncoderState, PyramidModel, attended
from magic_pyramid.packing import pack_sequences
from magic_pyramid.predictions import predictions_of
from magic_pyramid.report.trace import Trace, TraceLayer
from magic_pyramid.tokenization import EncodedTexts


@torch.inference_mode()
def trace_text(
    model: PyramidModel, encoded: EncodedTexts, tokens: list[str], *, setting: Setting, with_attention: bool
) -> Trace:
    """The way of a single encoded text; where it leaves is the engine's own decision."""
    config = model.config
    output = TorchEngine(model).run(encoded, setting=setting)
    answer = predictions_of(config, output, setting)
    exit_layer = int(output.exit_layer[0])
    batch = pack_sequences(encoded.token_ids, token_type_ids=encoded.token_type_ids)
    state = model.begin(batch.to(model.embeddings.token.weight.device))
    layers = []
    for layer in range(exit_layer + 1):
        after = model.remove_tokens(state, layer, scale=setting.prune_scale)
        layers.append(_layer(model, state, after, layer, setting, with_attention=with_attention))
        state = after
    return Trace(
        tokens=tokens,
        labels=config.labels,
        problem_type=config.problem_type,
        layers=tuple(layers),
        exit_layer=exit_layer,
        num_layers=config.backbone.num_hidden_layers,
        exit_threshold=None if isinstance(setting.exit_threshold, tuple) else setting.exit_threshold,
        probabilities=[float(p) for p in answer.probabilities[0]],
        gflops=float(answer.gflops[0]),
        dense_gflops=float(CostModel(config).dense_flops(output.num_tokens[:, 0])[0]) / 1e9,
        prune_scale=setting.prune_scale,
    )


def _layer(
    model: PyramidModel,
    before: EncoderState,
    after: EncoderState,
    layer: int,
    setting: Setting,
    *,
    with_attention: bool,
) -> TraceLayer:
    weights = model.weigh(before, layer, scale=setting.prune_scale)
    bar = None
    if model.pruner is not None and model.pruner.prunes_at(layer, scale=setting.prune_scale):
        bar = model.pruner.mass_threshold(layer, attended(before, weights), scale=setting.prune_scale)
    logits = _asked_logits(model, after, layer, setting)
    criterion = model.config.exit.criterion if model.config.exit else "entropy"
    unsure = None
    if logits is not None and criterion != "patience":
        unsure = float(uncertainty(logits, problem_type=model.config.problem_type, criterion=criterion))
    return TraceLayer(
        index=layer,
        arrived=before.batch.position_ids.tolist(),
        kept=after.batch.position_ids.tolist(),
        importance=weights.mass.tolist(),
        token_threshold_mass=None if bar is None else float(bar[0]),
        uncertainty=unsure,
        probabilities=None
        if logits is None
        else [float(p) for p in probabilities(logits.float().cpu().numpy(), model.config.problem_type)[0]],
        attention=weights.probs[0][0].mean(0).tolist() if with_attention else None,
    )


def _asked_logits(model: PyramidModel, state: EncoderState, layer: int, setting: Setting) -> Tensor | None:
    """What the head after a layer says, where exits are on and it is asked."""
    if layer in layers_tested(model.config, setting):
        head = model.exit_head(layer)
    elif setting.exit_threshold is not None and layer == model.config.backbone.num_hidden_layers - 1:
        head = model.final_head
    else:
        return None
    logits: Tensor = head(state.hidden_states, state.batch)
    return logits

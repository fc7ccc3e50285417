"""New exit heads meet the states of an encoder that is trained already."""

import torch
from torch import Tensor

from magic_pyramid.exiting.heads import ClsHead
from magic_pyramid.model import Masking, PyramidModel
from magic_pyramid.packing import PackedBatch, pack_sequences
from magic_pyramid.tokenization import EncodedTexts, evenly_spaced

NUM_ROWS = 256
"""Rows whose states say how first tokens differ, spread evenly over the train split."""
_ROWS_AT_ONCE = 32


@torch.no_grad()
def standardise_exit_heads(model: PyramidModel, encoded: EncodedTexts, *, masking: Masking) -> None:
    """Give the first layer of [CLS] heads the scale of the states that they will see; others stay."""
    seen: dict[ClsHead, list[Tensor]] = {
        head: [] for head in model.exit_heads.values() if isinstance(head, ClsHead)
    }
    if not seen:
        return

    def note(head: ClsHead, inputs: tuple[Tensor, PackedBatch]) -> None:
        hidden_states, batch = inputs
        seen[head].append(hidden_states[batch.first_tokens])

    hooks = [head.register_forward_pre_hook(note) for head in seen]
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    places = evenly_spaced(len(encoded), NUM_ROWS)
    for start in range(0, len(places), _ROWS_AT_ONCE):
        chosen = encoded.select(places[start : start + _ROWS_AT_ONCE])
        batch = pack_sequences(chosen.token_ids, token_type_ids=chosen.token_type_ids)
        model(batch.to(device), masking=masking, exits=True)
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    for head, states in seen.items():
        head.standardise_inputs(torch.cat(states))

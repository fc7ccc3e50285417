"""Token ids to hidden states: token, position and type tables, LayerNorm, optional projection."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from magic_pyramid.config import BackboneConfig
from magic_pyramid.packing import PackedBatch


class Embeddings(nn.Module):
    """Sum of the token, position and (where the backbone has them) type embeddings, normalised."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        width = config.embedding_size or config.hidden_size
        self.position_offset = config.position_offset
        self.token = nn.Embedding(config.vocab_size, width)
        self.position = nn.Embedding(config.max_position_embeddings, width)
        if config.type_vocab_size:
            self.token_type = nn.Embedding(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        if width != config.hidden_size:
            self.projection = nn.Linear(width, config.hidden_size)

    def forward(self, batch: PackedBatch) -> Float[Tensor, "tokens hidden"]:
        """Hidden states on entry to the first layer."""
        embedded: Tensor = self.token(batch.token_ids) + self.position(
            batch.position_ids + self.position_offset
        )
        if hasattr(self, "token_type"):
            embedded = embedded + self.token_type(batch.token_type_ids)
        hidden: Tensor = self.dropout(self.norm(embedded))
        return self.projection(hidden) if hasattr(self, "projection") else hidden


def init_weights(module: nn.Module, *, std: float = 0.02) -> None:
    """Initialise every matrix below a module as BERT does: normal weights, zero biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            torch.nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            torch.nn.init.zeros_(part.bias)

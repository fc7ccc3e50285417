"""MPNet's relative position bias, gathered for the tokens that are still alive."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from magic_pyramid.layers.attention import Bias
from magic_pyramid.layers.layout import Layout
from magic_pyramid.packing import PackedBatch

MAX_DISTANCE = 128
"""Distances from here on share the last bucket (T5's and MPNet's constant)."""


class RelativeBias(nn.Embedding):
    """One number per head and distance bucket, shared by all layers."""

    def for_layout(self, batch: PackedBatch, layout: Layout) -> Bias:
        """Bias of each group: ``[seqs, heads, query, key]``."""
        biases = []
        for group in layout.groups:
            positions = batch.position_ids[group.rows]
            distance = positions[:, None, :] - positions[:, :, None]
            biases.append(self(bucket(distance, num_buckets=self.num_embeddings)).permute(0, 3, 1, 2))
        return tuple(biases)


def bucket(distance: Int64[Tensor, "..."], *, num_buckets: int) -> Int64[Tensor, "..."]:
    """Bucket of key position minus query position: exact when near, logarithmic when far."""
    half = num_buckets // 2
    exact = half // 2
    far = distance.abs()
    spread = torch.log(far.clamp(min=1).float() / exact) / math.log(MAX_DISTANCE / exact) * (half - exact)
    logarithmic = (exact + spread.long()).clamp(max=half - 1)
    return torch.where(far < exact, far, logarithmic) + (distance > 0).long() * half


def bias_by_distance(
    table: Float[Tensor, "buckets heads"], *, farthest: int
) -> Float[Tensor, "distances heads"]:
    """The bias of every key position minus query position, from ``-farthest`` to ``farthest``."""
    distances = torch.arange(-farthest, farthest + 1)
    return table[bucket(distances, num_buckets=len(table))]

"""Ragged batches: sequences stored back to back, without padding."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Self

import torch
from jaxtyping import Bool, Int, Int32, Int64, Shaped
from torch import Tensor

from magic_pyramid.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """All tokens of all sequences of a batch in one row; no padding anywhere.

    Width and depth are two verbs, and both give a new batch: ``select_tokens`` and ``select_sequences``.
    """

    token_ids: Int64[Tensor, " tokens"]
    """Vocabulary ids."""
    position_ids: Int64[Tensor, " tokens"]
    """Where each token stood in its input, from 0; it stays when neighbours are removed."""
    token_type_ids: Int64[Tensor, " tokens"]
    """Segment of each token: 0, or 1 in the second text of a pair."""
    cu_seqlens: Int32[Tensor, " seqs_plus_1"]
    """Start offset of each sequence; first 0, last the number of tokens."""
    sequence_ids: Int64[Tensor, " seqs"]
    """Which input each row is, so that answers find their place after rows left."""

    @property
    def num_tokens(self) -> int:
        """Tokens in the batch."""
        return int(self.token_ids.shape[0])

    @property
    def num_sequences(self) -> int:
        """Sequences in the batch."""
        return int(self.sequence_ids.shape[0])

    @cached_property
    def lengths(self) -> Int64[Tensor, " seqs"]:
        """Tokens of each sequence."""
        return self.cu_seqlens.diff().long()

    @cached_property
    def first_tokens(self) -> Int64[Tensor, " seqs"]:
        """Row of each sequence's first token, [CLS]."""
        return self.cu_seqlens[:-1].long()

    @cached_property
    def sequence_of_token(self) -> Int64[Tensor, " tokens"]:
        """Row number, in this batch, of the sequence each token belongs to."""
        rows = torch.arange(self.num_sequences, device=self.cu_seqlens.device)
        return rows.repeat_interleave(self.lengths, output_size=self.num_tokens)

    def per_token(self, values: Shaped[Tensor, " seqs"]) -> Shaped[Tensor, " tokens"]:
        """Each sequence's value, once for every one of its tokens."""
        if self.num_sequences == 1:
            return values.expand(self.num_tokens)
        return values[self.sequence_of_token]

    def sum_tokens(self, values: Shaped[Tensor, " tokens"]) -> Shaped[Tensor, " seqs"]:
        """The sum of each sequence's values."""
        return values.new_zeros(self.num_sequences).index_add(0, self.sequence_of_token, values)

    def max_tokens(self, values: Shaped[Tensor, " tokens"]) -> Shaped[Tensor, " seqs"]:
        """The largest of each sequence's values, which must not be negative."""
        largest = values.new_zeros(self.num_sequences)
        return largest.scatter_reduce(0, self.sequence_of_token, values, "amax")

    def select_tokens(self, keep: Bool[Tensor, " tokens"]) -> Self:
        """Drop the tokens that are not kept; every sequence keeps its place, even if it becomes empty."""
        return self.take_tokens(keep.nonzero().flatten())

    def take_tokens(self, kept: Int64[Tensor, " kept"]) -> Self:
        """``select_tokens`` by the ascending packed rows of the tokens that stay."""
        return type(self)(
            token_ids=self.token_ids.index_select(0, kept),
            position_ids=self.position_ids.index_select(0, kept),
            token_type_ids=self.token_type_ids.index_select(0, kept),
            cu_seqlens=torch.searchsorted(kept, self.cu_seqlens, out_int32=True),
            sequence_ids=self.sequence_ids,
        )

    def select_sequences(self, keep: Bool[Tensor, " seqs"]) -> Self:
        """Drop the sequences that are not kept, with all their tokens."""
        tokens = self.per_token(keep).nonzero().flatten()
        return type(self)(
            token_ids=self.token_ids.index_select(0, tokens),
            position_ids=self.position_ids.index_select(0, tokens),
            token_type_ids=self.token_type_ids.index_select(0, tokens),
            cu_seqlens=offsets(self.lengths[keep]),
            sequence_ids=self.sequence_ids[keep],
        )

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        names = [field.name for field in fields(self)]
        return type(self)(**{name: getattr(self, name).to(device) for name in names})


def offsets(lengths: Int[Tensor, " seqs"]) -> Int32[Tensor, " seqs_plus_1"]:
    """Start offsets of sequences of these lengths, stored back to back."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()


def pack_sequences(
    token_ids: list[list[int]],
    *,
    token_type_ids: list[list[int]] | None = None,
    sequence_ids: list[int] | None = None,
) -> PackedBatch:
    """Pack ragged lists of ids, as a tokenizer gives them without padding.

    Raises:
        InputError: a sequence is empty.
    """
    lengths = [len(ids) for ids in token_ids]
    if not lengths or min(lengths) == 0:
        raise InputError("a packed batch needs at least one sequence, each of at least one token")
    types = token_type_ids if token_type_ids is not None else [[0] * n for n in lengths]
    rows = sequence_ids if sequence_ids is not None else list(range(len(lengths)))
    return PackedBatch(
        token_ids=torch.tensor([i for ids in token_ids for i in ids], dtype=torch.int64),
        position_ids=torch.cat([torch.arange(n) for n in lengths]),
        token_type_ids=torch.tensor([i for ids in types for i in ids], dtype=torch.int64),
        cu_seqlens=offsets(torch.tensor(lengths)),
        sequence_ids=torch.tensor(rows, dtype=torch.int64),
    )


def pack(
    input_ids: Int64[Tensor, "seqs length"],
    *,
    attention_mask: Shaped[Tensor, "seqs length"] | None = None,
    token_type_ids: Int64[Tensor, "seqs length"] | None = None,
) -> PackedBatch:
    """Pack a padded batch; padding may stand on either side.

    Raises:
        InputError: a row has no real token.
    """
    mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    lengths = mask.sum(1)
    if input_ids.shape[0] == 0 or bool((lengths == 0).any()):
        raise InputError("a packed batch needs at least one sequence, each of at least one token")
    types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
    return PackedBatch(
        token_ids=input_ids[mask],
        position_ids=(mask.cumsum(1) - 1)[mask],
        token_type_ids=types[mask],
        cu_seqlens=offsets(lengths),
        sequence_ids=torch.arange(input_ids.shape[0], device=input_ids.device),
    )


def unpack(
    values: Shaped[Tensor, "tokens ..."], batch: PackedBatch, *, length: int | None = None
) -> Shaped[Tensor, "seqs length ..."]:
    """Right-padded form of packed values: zeros where a sequence has ended."""
    width = length if length is not None else int(batch.lengths.max())
    padded = values.new_zeros((batch.num_sequences, width, *values.shape[1:]))
    inside = torch.arange(width, device=values.device)[None, :] < batch.lengths[:, None]
    padded[inside] = values
    return padded

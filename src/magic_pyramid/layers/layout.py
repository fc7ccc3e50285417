"""How the sequences of a packed batch are grouped for attention, so that little or nothing is padded."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from magic_pyramid.packing import PackedBatch

MAX_GROUP_AREA = 1 << 16
"""Largest number of (query, key) pairs per head of one group; a single longer sequence is its own group."""
MAX_WASTE = 1.2
"""A group may hold this many times the pairs that its sequences need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Sequences that attend side by side, right-padded to the longest of them."""

    rows: Int64[Tensor, "seqs length"]
    """Packed row of each token; padding points at row 0."""
    valid: Bool[Tensor, "seqs length"] | None
    """Which entries are tokens; None when all are."""
    entries: Int64[Tensor, " tokens"] | None
    """Places of the tokens among the group's entries; None when all are tokens."""
    start: int | None
    """First packed row, where the entries are consecutive packed rows; None where they are not."""
    sequences: tuple[int, ...]
    """Which of the batch's sequences they are."""

    def entries_of(self, values: Shaped[Tensor, "tokens ..."]) -> Shaped[Tensor, "entries ..."]:
        """Packed values of the group's entries, sequence after sequence, padding included."""
        if self.start is not None:
            return values[self.start : self.start + self.rows.numel()]
        return values.index_select(0, self.rows.flatten())

    def tokens_of(self, values: Shaped[Tensor, "seqs length ..."]) -> Shaped[Tensor, "tokens ..."]:
        """Values of the group's tokens, sequence after sequence, without padding."""
        flat = values.flatten(0, 1)
        # index_select and not a mask: its gradient is many times cheaper on a CPU.
        return flat if self.entries is None else flat.index_select(0, self.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The groups of a batch and how to bring their results back into packed order."""

    groups: tuple[Group, ...]
    inverse: Int64[Tensor, " tokens"] | None
    """Where each packed row stands in the groups' order; None when that is the packed order."""

    def to_packed(self, parts: list[Tensor]) -> Tensor:
        """Per-token results of the groups, joined in packed order."""
        joined = torch.cat(parts) if len(parts) > 1 else parts[0]
        return joined if self.inverse is None else joined.index_select(0, self.inverse)


def plan_layout(batch: PackedBatch) -> Layout:
    """Group sequences of similar length; on a GPU all of them form one group."""
    device = batch.cu_seqlens.device
    if batch.num_sequences == 1:
        rows = torch.arange(batch.num_tokens, device=device)[None]
        only = Group(rows=rows, valid=None, entries=None, start=0, sequences=(0,))
        return Layout(groups=(only,), inverse=None)
    lengths = batch.lengths.tolist()
    starts = batch.cu_seqlens.tolist()
    is_cpu = device.type == "cpu"
    members = _similar_lengths(lengths) if is_cpu else [list(range(len(lengths)))]
    groups = tuple(_group(rows, starts, lengths, device) for rows in members)
    is_packed_order = [i for rows in members for i in rows] == list(range(len(lengths)))
    inverse = (
        None if is_packed_order else _inverse(torch.cat([group.tokens_of(group.rows) for group in groups]))
    )
    return Layout(groups=groups, inverse=inverse)


def _similar_lengths(lengths: list[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    needed = 0
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        pairs = lengths[index] ** 2
        area = pairs * (len(groups[-1]) + 1) if groups else 0
        if groups and area <= MAX_GROUP_AREA and area <= MAX_WASTE * (needed + pairs):
            groups[-1].append(index)
            needed += pairs
        else:
            groups.append([index])
            needed = pairs
    return groups


def _group(members: list[int], all_starts: list[int], all_lengths: list[int], device: torch.device) -> Group:
    starts, lengths = [all_starts[i] for i in members], [all_lengths[i] for i in members]
    width, sequences = max(lengths), tuple(members)
    steps = torch.arange(width, device=device)
    rows = torch.tensor(starts, device=device)[:, None] + steps
    if min(lengths) == width:
        is_consecutive = starts == list(range(starts[0], starts[0] + width * len(starts), width))
        start = starts[0] if is_consecutive else None
        return Group(rows=rows, valid=None, entries=None, start=start, sequences=sequences)
    valid = steps < torch.tensor(lengths, device=device)[:, None]
    entries = valid.flatten().nonzero().flatten()
    rows = rows.masked_fill(~valid, 0)
    return Group(rows=rows, valid=valid, entries=entries, start=None, sequences=sequences)


def _inverse(order: Int64[Tensor, " tokens"]) -> Int64[Tensor, " tokens"]:
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.shape[0], device=order.device)
    return inverse

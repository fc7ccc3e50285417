"""Training batches: sequences of similar length, as many as a token budget holds, split over processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from magic_pyramid.packing import PackedBatch, pack_sequences
from magic_pyramid.tokenization import EncodedTexts
from magic_pyramid.training.processes import Processes
from magic_pyramid.training.teacher import Teacher

EVALUATION_TOKENS = 4096
"""Token budget of a batch that nothing learns from."""
EVALUATION_SEQUENCES = 256
BATCHES_PER_CHUNK = 50
"""Rows are sorted by length inside chunks of about this many batches: little waste, much randomness left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What one process takes of one batch."""

    rows: list[int]
    """Rows of the train split."""
    num_local: int
    """Sequences that count here: the number of rows, or 0 where the batch had none left for this process."""
    num_global: int
    """Sequences of the batch over all processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch:
    """One process's part of one batch."""

    batch: PackedBatch
    targets: Tensor
    """Labels as ``targets_of`` gives them, one row a sequence."""
    teacher: Teacher | None
    """What the fine-tuned model says of these rows, where the stage learns from it."""
    num_local: int
    num_global: int

    def to(self, device: torch.device | str) -> Self:
        """The same part on another device."""
        teacher = self.teacher and self.teacher.to(device)
        return replace(self, batch=self.batch.to(device), targets=self.targets.to(device), teacher=teacher)


def token_batches(
    lengths: np.ndarray, *, order: np.ndarray, tokens_per_batch: int, max_sequences_per_batch: int
) -> list[np.ndarray]:
    """Cut rows, taken in this order, so that each batch stays within both limits.

    A single sequence over the token budget is a batch of its own.
    """
    ends = np.cumsum(lengths[order])
    batches, start = [], 0
    while start < len(order):
        used = ends[start - 1] if start else 0
        fits = int(np.searchsorted(ends, used + tokens_per_batch, side="right"))
        stop = min(max(fits, start + 1), start + max_sequences_per_batch)
        batches.append(order[start:stop])
        start = stop
    return batches


def length_batches(lengths: np.ndarray, processes: Processes) -> list[np.ndarray]:
    """This process's share of all rows, in batches of similar length, for a pass without gradients."""
    batches = token_batches(
        lengths,
        order=np.argsort(lengths, kind="stable"),
        tokens_per_batch=EVALUATION_TOKENS,
        max_sequences_per_batch=EVALUATION_SEQUENCES,
    )
    return batches[processes.rank :: processes.world_size]


class TokenBudgetSampler(Sampler[Cut]):
    """All batches of a stage, epoch after epoch, in an order that only the seed decides.

    The whole stage is one pass, because the number of batches differs a little from epoch to epoch.
    Every process gets every ``world_size``-th sequence of each batch.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        tokens_per_batch: int,
        max_sequences_per_batch: int,
        epochs: float = 1.0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.tokens_per_batch = tokens_per_batch
        self.max_sequences_per_batch = max_sequences_per_batch
        self.rank, self.world_size = rank, world_size
        self.batches: list[np.ndarray] = []
        self.epoch_ends: list[int] = []
        """Number of batches after which each epoch, the cut last one included, is over."""
        epoch = 0
        while epochs - epoch > 1e-9:
            batches = self._epoch(np.random.default_rng([seed, epoch]))
            share = min(1.0, epochs - epoch)
            self.batches += batches[: max(1, round(share * len(batches)))]
            self.epoch_ends.append(len(self.batches))
            epoch += 1

    def _epoch(self, generator: np.random.Generator) -> list[np.ndarray]:
        order = generator.permutation(len(self.lengths))
        by_tokens = self.tokens_per_batch / max(1.0, float(self.lengths.mean()))
        chunk = max(1, int(BATCHES_PER_CHUNK * min(by_tokens, self.max_sequences_per_batch)))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), chunk):
            rows = order[start : start + chunk]
            batches += token_batches(
                self.lengths,
                order=rows[np.argsort(self.lengths[rows], kind="stable")],
                tokens_per_batch=self.tokens_per_batch,
                max_sequences_per_batch=self.max_sequences_per_batch,
            )
        return [batches[index] for index in generator.permutation(len(batches))]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Cut]:
        for batch in self.batches:
            mine = batch[self.rank :: self.world_size]
            # A process without a sequence still takes part in the backward pass, with weight 0.
            rows = mine if len(mine) else batch[:1]
            yield Cut(rows=rows.tolist(), num_local=len(mine), num_global=len(batch))


class TrainRows(Dataset[TrainBatch]):
    """The encoded train split; asked for a cut it gives the packed batch."""

    def __init__(self, encoded: EncodedTexts, targets: Tensor, teacher: Teacher | None = None) -> None:
        self.encoded = encoded
        self.targets = targets
        self.teacher = teacher

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitems__(self, cut: Cut) -> TrainBatch:
        chosen = self.encoded.select(cut.rows)
        return TrainBatch(
            batch=pack_sequences(
                chosen.token_ids, token_type_ids=chosen.token_type_ids, sequence_ids=cut.rows
            ),
            targets=self.targets[cut.rows],
            teacher=self.teacher and self.teacher.select(cut.rows),
            num_local=cut.num_local,
            num_global=cut.num_global,
        )


def loader(rows: TrainRows, sampler: TokenBudgetSampler) -> DataLoader[TrainBatch]:
    """Feed the sampler's cuts to the rows."""
    return DataLoader(rows, batch_sampler=sampler, collate_fn=_as_is)  # type: ignore[arg-type]


def _as_is(batch: TrainBatch) -> TrainBatch:
    return batch

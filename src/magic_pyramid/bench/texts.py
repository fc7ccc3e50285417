"""What every contender answers: token ids for engines, texts for libraries that tokenise themselves."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Int64

from magic_pyramid.engine.scheduler import plan_batches
from magic_pyramid.tokenization import EncodedTexts, Text, places_over_lengths

SWEEP_TOKENS = 1024
"""Tokens of one length of the sweep, spread over 2 to 32 sequences."""


@dataclass(frozen=True, slots=True)
class BenchTexts:
    """Texts, tokenised once."""

    encoded: EncodedTexts
    raw: list[Text] | None
    """The same as words; None for random tokens, which have none."""

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def has_pairs(self) -> bool:
        """Whether an input is a pair of texts."""
        return any(not isinstance(text, str) for text in self.raw or ())

    def select(self, indices: Iterable[int]) -> Self:
        """The texts at these places, in this order."""
        rows = list(indices)
        raw = None if self.raw is None else [self.raw[row] for row in rows]
        return type(self)(self.encoded.select(rows), raw)

    def sample(self, count: int) -> Self:
        """At most so many texts, at even distances over the lengths."""
        return self.select(places_over_lengths(self.encoded.lengths, count))

    def batches(self, batch_size: int) -> list[list[int]]:
        """Places of the texts of each batch, sorted by length: the same for every contender that pads."""
        return plan_batches(self.encoded.lengths, tokens_per_batch=0, batch_size=batch_size)

    def padding_share(self, batch_size: int) -> float:
        """Share of the positions of these batches that holds no token."""
        lengths = self.encoded.lengths
        batches = self.batches(batch_size)
        padded = sum(len(rows) * max(lengths[row] for row in rows) for rows in batches)
        return 1.0 - sum(lengths) / padded

    def write(self, path: Path) -> None:
        """Write a file that ``read`` reads."""
        content = {
            "token_ids": self.encoded.token_ids,
            "token_type_ids": self.encoded.token_type_ids,
            "raw": self.raw,
        }
        path.write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what ``write`` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        raw = content["raw"]
        if raw is not None:
            raw = [text if isinstance(text, str) else tuple(text) for text in raw]
        return cls(EncodedTexts(content["token_ids"], content["token_type_ids"]), raw)


def padded(
    texts: BenchTexts, rows: Sequence[int], *, pad_id: int
) -> dict[str, Int64[np.ndarray, "seqs length"]]:
    """A batch as engines that pad take it: as long as its longest text, padded on the right."""
    ids = [texts.encoded.token_ids[row] for row in rows]
    length = max(map(len, ids))
    batch = {
        "input_ids": np.full((len(ids), length), pad_id, dtype=np.int64),
        "attention_mask": np.zeros((len(ids), length), dtype=np.int64),
        "token_type_ids": np.zeros((len(ids), length), dtype=np.int64),
    }
    for place, row in enumerate(rows):
        count = len(ids[place])
        batch["input_ids"][place, :count] = ids[place]
        batch["attention_mask"][place, :count] = 1
        batch["token_type_ids"][place, :count] = texts.encoded.token_type_ids[row]
    return batch


def random_texts(like: EncodedTexts, *, length: int, seed: int) -> BenchTexts:
    """Sequences of one length: tokens drawn from those of real texts, between their first and last token."""
    generator = random.Random(f"length {length} seed {seed}")
    pool = sorted({token for ids in like.token_ids for token in ids[1:-1]})
    count = max(2, min(32, SWEEP_TOKENS // length))
    first, last = like.token_ids[0][0], like.token_ids[0][-1]
    ids = [[first, *generator.choices(pool, k=length - 2), last] for _ in range(count)]
    return BenchTexts(EncodedTexts(ids, [[0] * length for _ in ids]), None)

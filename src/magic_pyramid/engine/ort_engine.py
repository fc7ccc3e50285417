"""The engine for deployment on a CPU: exported ONNX segments driven with numpy, without PyTorch.

Tokens leave inside the segments; between them the driver asks the exit heads, removes finished sequences and
lets small remainders of several batches wait for each other, so that late segments run on enough rows.
"""

import threading
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Bool, Float32, Int64

from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.array_rule import ArrayExitRule, ArrayState
from magic_pyramid.engine.interface import (
    EngineOutput,
    Setting,
    default_setting,
    layers_tested,
    threshold_pruning,
)
from magic_pyramid.engine.ort_session import OrtGraph
from magic_pyramid.engine.plan_files import Precision, check_sha256
from magic_pyramid.engine.scheduler import cut_batches, plan_batches
from magic_pyramid.engine.segments import PLAN_FILE, Segment, SegmentPlan
from magic_pyramid.tokenization import EncodedTexts

TOKENS_PER_BATCH = 512
"""Default token budget of a batch: enough rows for the matrix kernels, and attention that stays small."""
ENOUGH_TOKENS = 128
"""A batch with fewer tokens waits for others, as long as others may come: more rows gain nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayBatch:
    """Sequences between two segments, packed back to back."""

    rows: Int64[np.ndarray, " seqs"]
    """Which input each sequence is."""
    lengths: Int64[np.ndarray, " seqs"]
    """Tokens alive."""
    input_lengths: Int64[np.ndarray, " seqs"]
    """Tokens before any was removed."""
    hidden: Float32[np.ndarray, "tokens hidden"]
    protected: Bool[np.ndarray, " tokens"]
    """Tokens that are never removed."""
    position_ids: Int64[np.ndarray, " tokens"] | None
    """Where each token stood in its input; None where no segment asks."""
    agreement: ArrayState
    """What the exit rule remembers."""

    def select(self, keep: Bool[np.ndarray, " seqs"]) -> Self:
        """Only the kept sequences, with all their tokens."""
        tokens = np.repeat(keep, self.lengths)
        return replace(
            self,
            rows=self.rows[keep],
            lengths=self.lengths[keep],
            input_lengths=self.input_lengths[keep],
            hidden=self.hidden[tokens],
            protected=self.protected[tokens],
            position_ids=None if self.position_ids is None else self.position_ids[tokens],
            agreement=self.agreement.select(keep),
        )

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """Several batches as one."""
        if len(parts) == 1:
            return parts[0]
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("rows", "lengths", "input_lengths", "hidden", "protected")
        }
        positions = [part.position_ids for part in parts if part.position_ids is not None]
        return cls(
            **arrays,
            position_ids=np.concatenate(positions) if positions else None,
            agreement=ArrayState.joined([part.agreement for part in parts]),
        )


class OrtEngine:
    """Runs an exported folder; one engine may be used from any number of threads."""

    name: ClassVar[str] = "onnx"

    def __init__(
        self, folder: str | Path, *, threads: int | None = None, tokens_per_batch: int = TOKENS_PER_BATCH
    ) -> None:
        """Check and load a folder that ``magic-pyramid export`` wrote.

        Args:
            folder: where it lies.
            threads: size of the thread pool that all engines of the process share; the first engine decides.
                None: as the first engine chose, as preferred, or one thread for each core.
            tokens_per_batch: token budget of a batch.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            CheckpointError: a file is missing, damaged, newer or not the one that was exported.
        """
        folder = Path(folder)
        self.plan = SegmentPlan.read(folder)
        self.tokens_per_batch = tokens_per_batch
        self._embeddings = OrtGraph(folder / self.plan.embeddings, threads=threads)
        self._layers = _LayerGraphs(self.plan, folder, threads)
        for part in self.plan.segments_for(default_setting(self.config)):
            self._layers.graph(part)
        self._exit_heads = {
            layer: OrtGraph(folder / file, threads=threads) for layer, file in self.plan.exit_heads.items()
        }
        self._final_head = OrtGraph(folder / self.plan.final_head, threads=threads)

    @property
    def config(self) -> ModelConfig:
        """What the model is."""
        return self.plan.config

    @property
    def precision(self) -> Precision:
        """Of the weights."""
        return self.plan.precision

    def run(self, encoded: EncodedTexts, *, setting: Setting, batch_size: int | None = None) -> EngineOutput:
        """Answer every input; rows come back in input order.

        Args:
            encoded: token ids, ragged.
            setting: the speed knob.
            batch_size: no more sequences than this ever run together; the token budget always holds.

        Raises:
            ConfigError: ``batch_size`` is not positive.
        """
        lengths, budget = encoded.lengths, self.tokens_per_batch
        batches = plan_batches(lengths, tokens_per_batch=budget, batch_size=batch_size)
        batches = cut_batches(batches, lengths, tokens_per_batch=budget, enough_tokens=ENOUGH_TOKENS)
        return _Run(self, encoded, setting, batch_size).answer(deque(batches))

    def embed(self, encoded: EncodedTexts, rows: list[int], rule: ArrayExitRule) -> ArrayBatch:
        """The batch of some inputs on entry to the first layer."""
        lengths = np.array([len(encoded.token_ids[row]) for row in rows], dtype=np.int64)
        ids = np.concatenate([encoded.token_ids[row] for row in rows]).astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        positions = np.arange(len(ids)) - np.repeat(starts, lengths)
        types = np.concatenate([encoded.token_type_ids[row] for row in rows]).astype(np.int64)
        protected = np.zeros(len(ids), dtype=np.bool_)
        prune = threshold_pruning(self.config, engine="an exported graph")
        if prune and prune.protect_sep and self.config.backbone.sep_token_id is not None:
            protected = ids == self.config.backbone.sep_token_id
        # [CLS] carries the label, so it may never be pruned.
        protected[starts] = True
        values = {"token_ids": ids, "position_ids": positions, "token_type_ids": types}
        return ArrayBatch(
            rows=np.array(rows, dtype=np.int64),
            lengths=lengths,
            input_lengths=lengths,
            hidden=self._embeddings.run(values)["hidden"],
            protected=protected,
            position_ids=positions if self.config.backbone.relative_attention_num_buckets else None,
            agreement=rule.start(len(rows)),
        )

    def run_segment(self, part: Segment, batch: ArrayBatch, *, scale: float) -> tuple[ArrayBatch, np.ndarray]:
        """What a segment leaves of a batch, and the tokens alive after each of its layers."""
        values = {
            "hidden": batch.hidden,
            "lengths": batch.lengths,
            "input_lengths": batch.input_lengths,
            "protected": batch.protected,
            "prune_scale": np.array(scale, dtype=np.float32),
        }
        if batch.position_ids is not None:
            values["position_ids"] = batch.position_ids
        outputs = self._layers.graph(part).run(values)
        counts = [
            outputs.get(f"lengths_{layer}", batch.lengths) for layer in range(part.first, part.last + 1)
        ]
        left = replace(
            batch,
            lengths=counts[-1],
            hidden=outputs["new_hidden"],
            protected=outputs.get("new_protected", batch.protected),
            position_ids=outputs.get("new_position_ids"),
        )
        return left, np.stack(counts, axis=1)

    def ask(self, layer: int | None, batch: ArrayBatch) -> Float32[np.ndarray, "seqs labels"]:
        """Logits of the exit head after a layer, or of the final head."""
        head = self._final_head if layer is None else self._exit_heads[layer]
        return head.run({"hidden": batch.hidden, "lengths": batch.lengths})["logits"]


class _LayerGraphs:
    """The graphs of layers, loaded when they first run: in memory, dense and staged ones share no weight."""

    def __init__(self, plan: SegmentPlan, folder: Path, threads: int | None) -> None:
        self._plan, self._folder, self._threads = plan, folder, threads
        self._graphs: dict[str, OrtGraph] = {}
        self._lock = threading.Lock()

    def graph(self, part: Segment) -> OrtGraph:
        """The graph of a segment."""
        if part.file not in self._graphs:
            with self._lock:
                self._load(part.file)
        return self._graphs[part.file]

    def _load(self, file: str) -> None:
        if file in self._graphs:
            return
        # Another export may have taken the folder's place since the engine was made.
        needed = {name: self._plan.sha256[name] for name in (file, self._plan.weights)}
        check_sha256(self._folder, needed, plan=PLAN_FILE)
        self._graphs[file] = OrtGraph(self._folder / file, threads=self._threads)


class _Run:
    """One call of an engine: its waiting batches and its answers."""

    def __init__(
        self, engine: OrtEngine, encoded: EncodedTexts, setting: Setting, batch_size: int | None
    ) -> None:
        config, count = engine.config, len(encoded)
        self.engine, self.encoded, self.setting, self.batch_size = engine, encoded, setting, batch_size
        self.exit_layers = frozenset(layers_tested(config, setting))
        self.parts = engine.plan.segments_for(setting)
        self.rule = ArrayExitRule(config, setting.exit_threshold or 0.0)
        self.waiting: list[list[ArrayBatch]] = [[] for _ in self.parts]
        self.output = EngineOutput.empty(count, config)

    def answer(self, batches: deque[list[int]]) -> EngineOutput:
        """Run the deepest segment that has enough to do; when no more inputs come, the first that has any.

        So at most one full batch and, before each segment, less than ``ENOUGH_TOKENS`` are in memory.
        """
        while True:
            index = self._fullest()
            if index is None and batches:
                batch = self.engine.embed(self.encoded, batches.popleft(), self.rule)
                self.output.num_tokens[batch.rows, 0] = batch.lengths
                self._advance(0, batch)
                continue
            if index is None:
                index = next((place for place, parts in enumerate(self.waiting) if parts), None)
            if index is None:
                return self.output
            self._advance(index, self._take(index))

    def _fullest(self) -> int | None:
        """The deepest segment whose waiting batches have enough tokens or sequences."""
        for index in reversed(range(len(self.waiting))):
            parts = self.waiting[index]
            if not parts:
                continue
            sequences = sum(len(part.rows) for part in parts)
            is_full = self.batch_size is not None and sequences >= self.batch_size
            if is_full or sum(len(part.hidden) for part in parts) >= ENOUGH_TOKENS:
                return index
        return None

    def _take(self, index: int) -> ArrayBatch:
        """What waits before a segment, the shortest first, as far as it makes one good batch."""
        batch = ArrayBatch.joined(self.waiting[index])
        self.waiting[index] = []
        order = np.argsort(batch.lengths, kind="stable")[: self.batch_size].tolist()
        part, *_ = cut_batches(
            [order],
            batch.lengths.tolist(),
            tokens_per_batch=self.engine.tokens_per_batch,
            enough_tokens=ENOUGH_TOKENS,
        )
        if len(part) == len(batch.rows):
            return batch
        now = np.zeros(len(batch.rows), dtype=np.bool_)
        now[part] = True
        self.waiting[index] = [batch.select(~now)]
        return batch.select(now)

    def _advance(self, index: int, batch: ArrayBatch) -> None:
        """Run one segment and let what is left wait before the next one."""
        engine, output = self.engine, self.output
        part = self.parts[index]
        batch, counts = engine.run_segment(part, batch, scale=self.setting.prune_scale)
        output.num_tokens[batch.rows, part.first + 1 : part.last + 2] = counts
        if part.last in self.exit_layers:
            batch = self._test_exits(part.last, batch)
        if index + 1 < len(self.waiting):
            if len(batch.rows):
                self.waiting[index + 1].append(batch)
            return
        self._write(batch.rows, part.last, engine.ask(None, batch))

    def _test_exits(self, layer: int, batch: ArrayBatch) -> ArrayBatch:
        """Write down the sequences that leave, and give the others."""
        logits = self.engine.ask(layer, batch)
        leaves, agreement = self.rule.test(logits, batch.agreement, layer=layer)
        batch = replace(batch, agreement=agreement)
        if not leaves.any():
            return batch
        self._write(batch.rows[leaves], layer, logits[leaves])
        return batch.select(~leaves)

    def _write(self, rows: np.ndarray, layer: int, logits: np.ndarray) -> None:
        self.output.logits[rows] = logits
        self.output.exit_layer[rows] = layer

"""The engine in C++: packed rows, real removal, fp32 or int8, without a runtime to install."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from magic_pyramid.config import ExitConfig, ModelConfig
from magic_pyramid.engine.interface import (
    AllAnswers,
    EngineOutput,
    Setting,
    layers_tested,
    threshold_pruning,
    thresholds_by_layer,
)
from magic_pyramid.engine.native_folder import WEIGHTS_FILE, NativePlan, read_weights
from magic_pyramid.engine.plan_files import Precision
from magic_pyramid.engine.scheduler import plan_batches
from magic_pyramid.engine.threads import preferred_threads, usable_cores
from magic_pyramid.errors import CheckpointError
from magic_pyramid.native.library import NativeModel, Shape
from magic_pyramid.tokenization import EncodedTexts

TOKENS_PER_BATCH = 2048
"""Default token budget of a batch: enough rows for every layer, few enough to stay in the outer caches."""

_ACTIVATIONS = {"gelu": 0, "gelu_new": 1, "gelu_pytorch_tanh": 1, "relu": 2, "silu": 3, "tanh": 4}
_PROBLEMS = {"single_label": 0, "multi_label": 1, "regression": 2}
_HEADS = {"cls": 0, "fastbert": 1, "block": 2}
_CRITERIA = {"entropy": 0, "max_prob": 1, "margin": 2, "patience": 3}
_DIVISORS = {"kept": 0, "input": 1, "fixed": 2}
"""Codes of ``engine.h``."""


class NativeEngine:
    """Runs a model's weights in compiled code; one engine may be used from any number of threads."""

    name: ClassVar[str] = "native"

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, np.ndarray],
        *,
        precision: Precision = "fp32",
        threads: int | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        instruction_set: str | None = None,
    ) -> None:
        """Prepare the weights.

        Args:
            config: what the model is.
            weights: what ``export.native.native_weights`` gives, fp32.
            precision: of the products; in "int8" weights have one scale an output, activations one a token.
            threads: threads that share a batch; None: as preferred, or one a usable core.
            tokens_per_batch: token budget of a batch.
            instruction_set: one of ``native.library.instruction_sets()``; None: the best.

        Raises:
            MissingExtraError: the engine is not compiled.
            ConfigError: the processor has no such instructions, or the model does not prune by thresholds.
            CheckpointError: a weight is missing or does not fit.
        """
        missing = [
            layer
            for layer in config.exit_layers
            if not any(name.startswith(f"exit_heads.{layer}.") for name in weights)
        ]
        if missing:
            raise CheckpointError(
                f"the exit heads of the layers {missing} are missing; export the model again"
            )
        self._config = config
        self.precision = precision
        self.tokens_per_batch = tokens_per_batch
        self._has_types = config.backbone.type_vocab_size > 0
        self._model = NativeModel(
            _shape(config, int8=precision == "int8"),
            weights,
            threads=threads or preferred_threads() or usable_cores(),
            instruction_set=instruction_set,
        )

    @classmethod
    def from_folder(cls, folder: str | Path, *, threads: int | None = None) -> Self:
        """Load a folder that ``magic-pyramid export --to native`` wrote; needs no PyTorch.

        Raises:
            MissingExtraError: the engine is not compiled.
            CheckpointError: a file is missing, damaged, newer or not the one that was exported.
        """
        folder = Path(folder)
        plan = NativePlan.read(folder)
        weights = read_weights(folder / WEIGHTS_FILE)
        return cls(plan.config, weights, precision=plan.precision, threads=threads)

    @property
    def config(self) -> ModelConfig:
        """What the model is."""
        return self._config

    def run(self, encoded: EncodedTexts, *, setting: Setting, batch_size: int | None = None) -> EngineOutput:
        """Answer every input; rows come back in input order.

        Args:
            encoded: token ids, ragged.
            setting: the speed knob.
            batch_size: sequences per batch; None fills batches up to the token budget.

        Raises:
            ConfigError: ``batch_size`` is not positive, or a layer is asked that has no exit head.
        """
        output = EngineOutput.empty(len(encoded), self._config)
        for rows in plan_batches(
            encoded.lengths, tokens_per_batch=self.tokens_per_batch, batch_size=batch_size
        ):
            part = self._run(encoded, rows, setting)
            output.logits[rows] = part.logits
            output.exit_layer[rows] = part.exit_layer
            output.num_tokens[rows] = part.num_tokens
        return output

    def answer_all_heads(self, encoded: EncodedTexts, *, scale: float) -> AllAnswers:
        """Run every layer, tokens removed at this multiple of the thresholds, and ask every head."""
        config, labels = self._config, self._config.num_labels
        answers = AllAnswers.empty(len(encoded), config)
        for rows in plan_batches(encoded.lengths, tokens_per_batch=self.tokens_per_batch, batch_size=None):
            heads = np.zeros((config.backbone.num_hidden_layers, len(rows), labels), dtype=np.float32)
            part = self._run(encoded, rows, Setting(prune_scale=scale), all_logits=heads)
            answers.num_tokens[rows] = part.num_tokens
            for layer, logits in answers.logits.items():
                logits[rows] = heads[layer]
        return answers

    def _run(
        self,
        encoded: EncodedTexts,
        rows: list[int],
        setting: Setting,
        *,
        all_logits: np.ndarray | None = None,
    ) -> EngineOutput:
        """Answer one batch; into ``all_logits`` goes what every head says."""
        config = self._config
        tests_exit = np.zeros(config.backbone.num_hidden_layers, dtype=np.uint8)
        tests_exit[list(layers_tested(config, setting))] = 1
        part = EngineOutput.empty(len(rows), config)
        starts = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(encoded.token_ids[row]) for row in rows], out=starts[1:])
        self._model.run(
            token_ids=_joined(encoded.token_ids, rows),
            token_types=_joined(encoded.token_type_ids, rows) if self._has_types else None,
            starts=starts,
            prune_scale=setting.prune_scale,
            exit_thresholds=thresholds_by_layer(config, setting, unasked=0.0),
            tests_exit=tests_exit,
            all_logits=all_logits,
            logits=part.logits,
            exit_layer=part.exit_layer,
            num_tokens=part.num_tokens,
        )
        return part


def _joined(values: list[list[int]], rows: list[int]) -> np.ndarray:
    return np.concatenate([np.asarray(values[row], dtype=np.int32) for row in rows])


def _shape(config: ModelConfig, *, int8: bool) -> Shape:
    backbone, prune = config.backbone, threshold_pruning(config, engine="the native engine")
    exits = config.exit or ExitConfig()
    keeps_separator = prune is not None and prune.protect_sep and backbone.sep_token_id is not None
    return Shape(
        vocab_size=backbone.vocab_size,
        hidden_size=backbone.hidden_size,
        num_layers=backbone.num_hidden_layers,
        num_heads=backbone.num_attention_heads,
        intermediate_size=backbone.intermediate_size,
        embedding_size=backbone.embedding_size or backbone.hidden_size,
        num_positions=backbone.max_position_embeddings,
        position_offset=backbone.position_offset,
        num_types=backbone.type_vocab_size,
        num_labels=config.num_labels,
        hidden_act=_ACTIVATIONS[backbone.hidden_act],
        head_act=_ACTIVATIONS[backbone.head_act],
        problem=_PROBLEMS[config.problem_type],
        final_head=_HEADS[config.final_head],
        exit_head=_HEADS[exits.head],
        exit_head_size=exits.head_size,
        exit_head_heads=exits.head_attention_heads,
        criterion=_CRITERIA[exits.criterion],
        prunes=int(prune is not None),
        divisor=_DIVISORS[prune.score_norm if prune else "kept"],
        fixed_length=prune.fixed_length if prune else 0,
        separator=backbone.sep_token_id if keeps_separator else -1,
        max_distance=backbone.max_length - 1 if backbone.relative_attention_num_buckets else 0,
        int8=int(int8),
        layer_norm_eps=backbone.layer_norm_eps,
        patience_tolerance=exits.patience_tolerance,
    )

"""The reference engine: PyTorch on any device, without autograd.

Tokens leave between attention and feed-forward, sequences leave after an exit head, and what is left is
packed again, so that work is removed rather than masked (Magic Pyramid, section 3).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from magic_pyramid.engine.interface import AllAnswers, EngineOutput, Setting, layers_tested
from magic_pyramid.engine.scheduler import plan_batches
from magic_pyramid.exiting.criteria import ExitRule
from magic_pyramid.model import PyramidModel
from magic_pyramid.packing import PackedBatch, pack_sequences
from magic_pyramid.tokenization import EncodedTexts

TOKENS_PER_BATCH = 4096
"""Default token budget on a CPU: enough rows to fill the matrix kernels, few enough to stay in cache."""
GPU_TOKENS_PER_BATCH = 32_768
"""The same on other devices, where starting a kernel costs more than most of them take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedAnswers:
    """Answers to a packed batch; sequences write into them when they leave."""

    logits: Float[Tensor, "seqs *answer"]
    exit_layer: Int64[Tensor, " seqs"]
    num_tokens: Int64[Tensor, "seqs layers_plus_1"]

    def write(self, rows: Tensor, layer: int, logits: Tensor) -> None:
        """Put down what leaves at a layer."""
        self.logits[rows] = logits.float()
        self.exit_layer[rows] = layer


class TorchEngine:
    """Runs a model's own modules in inference mode, dropping tokens and finished sequences as it goes."""

    name: ClassVar[str] = "torch"

    def __init__(self, model: PyramidModel, *, tokens_per_batch: int | None = None) -> None:
        self.model = model.eval()
        is_cpu = model.embeddings.token.weight.device.type == "cpu"
        self.tokens_per_batch = tokens_per_batch or (TOKENS_PER_BATCH if is_cpu else GPU_TOKENS_PER_BATCH)

    def run(self, encoded: EncodedTexts, *, setting: Setting, batch_size: int | None = None) -> EngineOutput:
        """Answer every input; rows come back in input order."""
        config = self.model.config
        output = EngineOutput.empty(len(encoded), config)
        for rows in plan_batches(
            encoded.lengths, tokens_per_batch=self.tokens_per_batch, batch_size=batch_size
        ):
            chosen = encoded.select(rows)
            answers = self.answer(
                pack_sequences(chosen.token_ids, token_type_ids=chosen.token_type_ids), setting=setting
            )
            output.logits[rows] = answers.logits.cpu().numpy()
            output.exit_layer[rows] = answers.exit_layer.cpu().numpy()
            output.num_tokens[rows] = answers.num_tokens.cpu().numpy()
        return output

    @torch.inference_mode()
    def answer_all_heads(self, encoded: EncodedTexts, *, scale: float) -> AllAnswers:
        """Run every layer, tokens removed at this multiple of the thresholds, and ask every head."""
        model = self.model
        config, device = model.config, model.embeddings.token.weight.device
        answers = AllAnswers.empty(len(encoded), config)
        last = config.backbone.num_hidden_layers - 1
        for rows in plan_batches(encoded.lengths, tokens_per_batch=self.tokens_per_batch, batch_size=None):
            chosen = encoded.select(rows)
            batch = pack_sequences(chosen.token_ids, token_type_ids=chosen.token_type_ids).to(device)
            state = model.begin(batch)
            answers.num_tokens[rows, 0] = chosen.lengths
            for layer in range(last + 1):
                state = model.remove_tokens(state, layer, scale=scale)
                answers.num_tokens[rows, layer + 1] = state.batch.lengths.cpu().numpy()
                if layer == last:
                    answers.logits[layer][rows] = model.answer(state).float().cpu().numpy()
                elif layer in answers.logits:
                    logits = model.exit_head(layer)(state.hidden_states, state.batch)
                    answers.logits[layer][rows] = logits.float().cpu().numpy()
        return answers

    @torch.inference_mode()
    def answer(self, batch: PackedBatch, *, setting: Setting) -> PackedAnswers:
        """Answer one packed batch, whose ``sequence_ids`` must count from 0."""
        config, device = self.model.config, self.model.embeddings.token.weight.device
        last, count = config.backbone.num_hidden_layers - 1, batch.num_sequences
        answers = PackedAnswers(
            logits=torch.zeros(count, *config.logits_shape, device=device),
            exit_layer=torch.zeros(count, dtype=torch.int64, device=device),
            num_tokens=torch.zeros(count, last + 2, dtype=torch.int64, device=device),
        )
        rule = ExitRule(config, setting.exit_threshold)
        agreement = rule.start(count, device=device)
        exit_layers = layers_tested(config, setting)
        state = self.model.begin(batch.to(device))
        answers.num_tokens[:, 0] = state.batch.lengths
        for layer in range(last + 1):
            state = self.model.remove_tokens(state, layer, scale=setting.prune_scale)
            answers.num_tokens[state.batch.sequence_ids, layer + 1] = state.batch.lengths
            if layer not in exit_layers:
                continue
            logits = self.model.exit_head(layer)(state.hidden_states, state.batch)
            leaves, agreement = rule.test(logits, agreement, layer=layer)
            if not bool(leaves.any()):
                continue
            answers.write(state.batch.sequence_ids[leaves], layer, logits[leaves])
            if bool(leaves.all()):
                return answers
            state = self.model.regroup(state.select_sequences(~leaves))
            agreement = agreement.select(~leaves)
        answers.write(state.batch.sequence_ids, last, self.model.answer(state))
        return answers

"""The packed encoder where pruning and exits meet: one definition for training and for inference.

A forward pass is ``begin`` and then one step per layer. The step is chosen by the masking:
``none`` keeps every token, ``soft`` weights hidden states so that thresholds can learn,
``hard`` really removes tokens. The engine drives the same steps and also removes finished sequences.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from magic_pyramid.config import ModelConfig
from magic_pyramid.exiting.heads import build_head, init_head
from magic_pyramid.layers.attention import AttentionWeights, Bias
from magic_pyramid.layers.block import Block
from magic_pyramid.layers.embeddings import Embeddings, init_weights
from magic_pyramid.layers.layout import Layout, plan_layout
from magic_pyramid.layers.relative_bias import RelativeBias
from magic_pyramid.packing import PackedBatch
from magic_pyramid.pruning import build_pruner
from magic_pyramid.pruning.history import History
from magic_pyramid.pruning.interface import Attended

Masking = Literal["none", "soft", "hard"]
ParameterGroup = Literal["backbone", "final_head", "thresholds", "exit_heads"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderState:
    """What is alive between two layers."""

    batch: PackedBatch
    hidden_states: Float[Tensor, "tokens hidden"]
    layout: Layout
    bias: Bias | None
    input_lengths: Int64[Tensor, " seqs"]
    """Tokens of each sequence before any was removed."""
    soft_mask: Float[Tensor, " tokens"] | None = None
    """Soft mask of the layer just run."""
    survival: Float[Tensor, " tokens"] | None = None
    """How likely each token is alive by the soft masks of all layers so far; None where there are none."""
    mass: Float[Tensor, " arrived"] | None = None
    """Attention mass each token received in the layer just run, where that layer computed it."""
    kept: Bool[Tensor, " arrived"] | None = None
    """Which of the tokens that arrived at the layer just run were kept; None when nothing was removed."""
    inputs: PackedBatch | None = None
    """The batch before any token was removed, where the final head reads all; None where it does not."""
    left: Float[Tensor, "inputs hidden"] | None = None
    """The state in which each token of ``inputs`` was left, if it was; None until one was."""
    history: History | None = None
    """What tokens and heads amounted to so far, for a pruner that looks back; None for others."""

    def take_tokens(self, kept: Int64[Tensor, " kept"]) -> "EncoderState":
        """Drop the tokens whose packed rows are not named."""
        return replace(
            self,
            batch=self.batch.take_tokens(kept),
            hidden_states=self.hidden_states.index_select(0, kept),
            history=self.history and self.history.take_tokens(kept),
        )

    def select_sequences(self, keep: Bool[Tensor, " seqs"]) -> "EncoderState":
        """Drop finished sequences."""
        tokens = self.batch.per_token(keep).nonzero().flatten()
        return replace(
            self,
            batch=self.batch.select_sequences(keep),
            hidden_states=self.hidden_states.index_select(0, tokens),
            input_lengths=self.input_lengths[keep],
            history=self.history and self.history.select_sequences(keep, tokens),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """What one forward pass over all layers gives."""

    logits: Float[Tensor, "seqs *answer"]
    """Answer of the final head, of ``ModelConfig.logits_shape``."""
    exit_logits: dict[int, Float[Tensor, "seqs labels"]]
    """Answer of each exit head that was asked, by 0-based layer."""
    num_tokens: Int64[Tensor, "seqs layers"]
    """Tokens alive after each layer; in soft masking, those whose weight exceeds one half."""
    penalty: Float[Tensor, " seqs"]
    """What the pruner charges each sequence for its soft masks, summed over the layers; 0 unless soft."""
    expected_tokens: Float[Tensor, "seqs layers"]
    """Tokens alive after each layer when a soft mask is the chance to stay; `num_tokens` unless soft."""
    masses: tuple[Float[Tensor, " tokens"], ...]
    """Attention mass of each token in each layer, while nothing is removed (soft); empty otherwise."""


class PyramidModel(nn.Module):
    """A transformer encoder classifier on packed batches, with optional pruner and exit heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        backbone = config.backbone
        self.config = config
        self.embeddings = Embeddings(backbone)
        if backbone.relative_attention_num_buckets:
            self.relative_bias = RelativeBias(
                backbone.relative_attention_num_buckets, backbone.num_attention_heads
            )
        self.layers = nn.ModuleList(Block(backbone) for _ in range(backbone.num_hidden_layers))
        self.pruner = build_pruner(config)
        self.exit_heads = nn.ModuleDict(
            {str(layer): build_head(config, config.exit.head) for layer in config.exit_layers}
            if config.exit
            else {}
        )
        self.final_head = build_head(config, config.final_head_kind)
        init_weights(self)
        for head in (self.final_head, *self.exit_heads.values()):
            init_head(head)
        self._steps: dict[Masking, Callable[[EncoderState, int], EncoderState]] = {
            "none": self.keep_all,
            "soft": self.mask_softly,
            "hard": self.remove_tokens,
        }

    def forward(
        self,
        batch: PackedBatch,
        *,
        masking: Masking = "none",
        exits: bool = False,
        scale: float | None = None,
    ) -> ModelOutput:
        """Run every layer.

        Args:
            batch: the packed inputs.
            masking: what happens to unimportant tokens; without a pruner all three are the same.
            exits: also ask the exit heads, after each layer's pruning.
            scale: in hard masking, the multiplier of the token thresholds; None: the model's own.
        """
        step = self._steps[masking if self.pruner else "none"]
        if masking == "hard":
            step = partial(self.remove_tokens, scale=scale)
        state = self.begin(batch)
        exit_logits: dict[int, Tensor] = {}
        num_tokens, penalty = [], torch.zeros(batch.num_sequences, device=batch.token_ids.device)
        expected: list[Tensor] = []
        masses: list[Tensor] = []
        for layer in range(len(self.layers)):
            state = step(state, layer)
            num_tokens.append(_count_alive(state))
            if state.soft_mask is None or self.pruner is None:
                expected.append(num_tokens[-1].float())
            else:
                assert state.mass is not None
                assert state.survival is not None
                masses.append(state.mass)
                penalty = penalty + self.pruner.penalty(layer, state.soft_mask, state.batch)
                arrived = expected[-1] if expected else batch.lengths.float()
                expected.append(self.pruner.expected_tokens(layer, state.survival, batch, arrived))
            if exits and str(layer) in self.exit_heads:
                exit_logits[layer] = self.exit_head(layer)(state.hidden_states, state.batch)
        return ModelOutput(
            logits=self.answer(state),
            exit_logits=exit_logits,
            num_tokens=torch.stack(num_tokens, dim=1),
            penalty=penalty,
            expected_tokens=torch.stack(expected, dim=1),
            masses=tuple(masses),
        )

    def begin(self, batch: PackedBatch) -> EncoderState:
        """The state on entry to the first layer."""
        layout = plan_layout(batch)
        looks_back = self.pruner is not None and self.pruner.looks_back
        num_heads = self.config.backbone.num_attention_heads
        return EncoderState(
            batch=batch,
            hidden_states=self.embeddings(batch),
            layout=layout,
            bias=self._bias(batch, layout),
            input_lengths=batch.lengths,
            inputs=batch if self.reads_all_tokens else None,
            history=History.begin(batch, num_heads=num_heads) if looks_back else None,
        )

    @property
    def reads_all_tokens(self) -> bool:
        """Whether the final head reads tokens that were removed, in the state in which they were left."""
        return self.config.span is not None

    def answer(self, state: EncoderState) -> Float[Tensor, "seqs *answer"]:
        """Logits of the final head, after the last layer."""
        batch, hidden = state.batch, state.hidden_states
        if state.left is not None:
            assert state.inputs is not None
            batch = state.inputs
            is_soft = state.soft_mask is not None
            hidden = state.left if is_soft else state.left.index_copy(0, _input_rows(state), hidden)
        logits: Tensor = self.final_head(hidden, batch)
        return logits

    def keep_all(self, state: EncoderState, layer: int) -> EncoderState:
        """One layer of the plain encoder, with fused attention."""
        block = self.block(layer)
        context = block.attention(state.hidden_states, state.layout, state.bias)
        return replace(
            state,
            hidden_states=block.finish(context, state.hidden_states),
            soft_mask=None,
            mass=None,
            kept=None,
        )

    def mask_softly(self, state: EncoderState, layer: int) -> EncoderState:
        """One layer whose output is weighted token by token; nothing is removed."""
        assert self.pruner is not None
        block = self.block(layer)
        earlier = state.survival
        weights = block.attention.weigh(
            state.hidden_states, state.layout, state.bias, with_own_mass=self.pruner.sees_own_mass
        )
        seen = attended(state, weights)
        soft = self.pruner.soft_mask(layer, seen)
        survival = self.pruner.survival(soft, torch.ones_like(soft) if earlier is None else earlier)
        hidden = block.finish(weights.context(), state.hidden_states)
        left = None
        if self.reads_all_tokens:
            left = hidden
            if state.left is not None and earlier is not None:
                # What arrived here only in part is read in part as it was left, as where tokens are removed.
                left = torch.lerp(state.left, hidden, earlier[:, None].to(hidden.dtype))
        return replace(
            state,
            hidden_states=hidden * soft[:, None].to(hidden.dtype),
            left=left,
            soft_mask=soft,
            survival=survival,
            mass=weights.mass,
            history=seen.history,
        )

    def remove_tokens(self, state: EncoderState, layer: int, *, scale: float | None = None) -> EncoderState:
        """One layer that drops unimportant tokens between attention and what follows it.

        Where the final head reads all tokens, the feed-forward still runs for those dropped here, and what it
        gives is the state in which they are left.

        Args:
            state: what arrives.
            layer: 0-based layer.
            scale: strength of the pruning, 0 removes nothing; None: the model's own.
        """
        if self.pruner is None:
            return self.keep_all(state, layer)
        scale = self.pruner.config.scale if scale is None else scale
        prunes = self.pruner.prunes_at(layer, scale=scale)
        if not prunes and not (self.pruner.looks_back and scale > 0):
            return self.keep_all(state, layer)
        weights = self.weigh(state, layer, scale=scale)
        seen = attended(state, weights)
        keep = self.pruner.keep_mask(layer, seen, scale=scale) if prunes else None
        kept = None if keep is None else keep.nonzero().flatten()
        state = replace(state, history=seen.history)
        if keep is None or kept is None or len(kept) == state.batch.num_tokens:
            context, keep = weights.context(), None
        elif self.reads_all_tokens:
            whole = weights.context()
            state = self._leave(state, layer, whole, (~keep).nonzero().flatten())
            context, state = whole.index_select(0, kept), self.regroup(state.take_tokens(kept))
        else:
            context, state = weights.context_of(kept), self.regroup(state.take_tokens(kept))
        return replace(
            state,
            hidden_states=self.block(layer).finish(context, state.hidden_states),
            mass=weights.mass,
            kept=keep,
            history=state.history and state.history.with_output(context, state.batch),
        )

    def weigh(self, state: EncoderState, layer: int, *, scale: float) -> AttentionWeights:
        """Who looks at whom in a layer, by the heads that run at a strength of the pruning."""
        pruner = self.pruner
        return self.block(layer).attention.weigh(
            state.hidden_states,
            state.layout,
            state.bias,
            heads=pruner.heads(layer, state.history, scale=scale) if pruner and scale > 0 else None,
            with_own_mass=pruner is not None and pruner.sees_own_mass,
        )

    def regroup(self, state: EncoderState) -> EncoderState:
        """Plan attention again after tokens or sequences left."""
        layout = plan_layout(state.batch)
        return replace(state, layout=layout, bias=self._bias(state.batch, layout))

    def configure(self, config: ModelConfig) -> None:
        """Take over run-time settings, such as a new exit threshold; the parts of the model stay."""
        self.config = config
        if self.pruner is not None and config.prune is not None:
            self.pruner.configure(config.prune)

    def keep_layers(self, layers: Sequence[int]) -> None:
        """Drop all other encoder layers for good; the model has no pruner and no exit heads."""
        assert self.pruner is None
        assert not self.exit_heads
        self.layers = nn.ModuleList(self.block(layer) for layer in layers)
        backbone = self.config.backbone.replace(num_hidden_layers=len(layers))
        self.config = self.config.replace(backbone=backbone)

    def block(self, layer: int) -> Block:
        """The encoder layer at a 0-based index."""
        block = self.layers[layer]
        assert isinstance(block, Block)
        return block

    def exit_head(self, layer: int) -> nn.Module:
        """The exit head after a 0-based layer."""
        return self.exit_heads[str(layer)]

    def parameter_group(self, name: ParameterGroup) -> list[nn.Parameter]:
        """The parameters that a training stage may train or freeze together."""
        owners: dict[str, list[nn.Module]] = {
            "final_head": [self.final_head],
            "exit_heads": [self.exit_heads],
            "thresholds": [self.pruner] if self.pruner else [],
        }
        owned = {
            key: [p for module in modules for p in module.parameters()] for key, modules in owners.items()
        }
        elsewhere = {id(p) for group in owned.values() for p in group}
        owned["backbone"] = [p for p in self.parameters() if id(p) not in elsewhere]
        return owned[name]

    def _leave(
        self,
        state: EncoderState,
        layer: int,
        context: Float[Tensor, "tokens hidden"],
        removed: Int64[Tensor, " removed"],
    ) -> EncoderState:
        """Run a layer to its end for the tokens at these packed rows, and put down what it gives."""
        assert state.inputs is not None
        hidden = self.block(layer).finish(
            context.index_select(0, removed), state.hidden_states.index_select(0, removed)
        )
        left = state.left
        if left is None:
            left = hidden.new_zeros(state.inputs.num_tokens, hidden.shape[1])
        return replace(state, left=left.index_copy(0, _input_rows(state)[removed], hidden))

    def _bias(self, batch: PackedBatch, layout: Layout) -> Bias | None:
        if not self.config.backbone.relative_attention_num_buckets:
            return None
        return self.relative_bias.for_layout(batch, layout)


def attended(state: EncoderState, weights: AttentionWeights) -> Attended:
    """What a pruner sees of a layer at which this state arrived."""
    return Attended(
        batch=state.batch,
        mass=weights.mass,
        input_lengths=state.input_lengths,
        soft_mask=state.soft_mask,
        own_mass=weights.own_mass,
        history=state.history and state.history.with_mass(weights.mass),
    )


def _input_rows(state: EncoderState) -> Int64[Tensor, " tokens"]:
    """Row of each token alive in the batch before any was removed."""
    assert state.inputs is not None
    return state.batch.per_token(state.inputs.first_tokens) + state.batch.position_ids


def _count_alive(state: EncoderState) -> Int64[Tensor, " seqs"]:
    if state.soft_mask is None:
        return state.batch.lengths
    return state.batch.sum_tokens((state.soft_mask > 0.5).long())

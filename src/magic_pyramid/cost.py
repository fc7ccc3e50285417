"""FLOPs of an answer, as pure arithmetic on token counts.

A multiply-add is two FLOPs. Layers and classifiers are counted; embeddings, softmax, norms, biases and
activations are not. Symbols: n tokens that arrive at a layer, k that its pruning keeps, h the share of its
attention heads that run, d ``hidden_size``, f ``intermediate_size``, s ``head_size`` of the ``fastbert``
head, C labels. The formulas count multiply-adds. A head that does not run saves its scores and its context,
not its part of the projections, which all tokens of a batch share.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from magic_pyramid.config import BackboneConfig, ExitConfig, ModelConfig
from magic_pyramid.errors import ConfigError, InputError, nearest

Convention = Literal["ltp", "actual", "top", "fastbert"]
"""How to count.

- ``ltp``: LTP's program, which Magic Pyramid follows; heads by their formula for one query per sequence.
- ``actual``: what an answer needs: dropped queries skip the context, heads apply keys and values once.
- ``top``: ToP's formula, which adds the softmax and lets the last layer keep all its tokens.
- ``fastbert``: linear layers only, every input padded to ``max_length``, label layers left out; removed
  tokens are not padding and are not charged.
"""

Counts = Any
"""Numbers of tokens or of MACs, one per layer and input: arrays, or whatever else computes elementwise."""


@dataclass(frozen=True, slots=True)
class CostModel:
    """What inputs cost on one model."""

    config: ModelConfig
    """The model; only its sizes and its heads matter."""

    def flops(
        self,
        num_tokens: Int[np.ndarray, "inputs layers_plus_1"],
        exit_layer: Int[np.ndarray, " inputs"],
        *,
        convention: Convention = "ltp",
        tested_layers: Collection[int] | None = None,
        prune_scale: float | None = None,
    ) -> Float[np.ndarray, " inputs"]:
        """FLOPs of each input.

        Args:
            num_tokens: column 0 the tokens of the input, column l + 1 those alive after layer l.
            exit_layer: layer whose head answered, 0-based; the last layer has the final head.
            convention: how to count.
            tested_layers: layers whose exit head was asked, as far as an input got; None: all with a head.
            prune_scale: strength of the pruning, which may decide the attention heads that ran; None: the
                stored one.

        Raises:
            InputError: the columns do not fit the layers of the model.
        """
        counting = _counting(convention)
        reach = _has_run(exit_layer, layers=self.config.backbone.num_hidden_layers)
        tested = self.config.exit_layers if tested_layers is None else tested_layers
        counts = self._padded(num_tokens, counting)
        heads = self._heads_run(prune_scale)
        total: NDArray[np.float64] = 2.0 * self._expected_macs(counts, reach, counting, tested, heads)
        return total

    def expected_flops(self, num_tokens: Counts, reach: Counts | None = None) -> Counts:
        """FLOPs of each input when token counts are expectations and layers are reached with a probability.

        Nothing but arithmetic is done, so tensors pass, and gradients with them.

        Args:
            num_tokens: ``[inputs, layers + 1]`` as in ``flops``, any numbers.
            reach: ``[inputs, layers]``, how likely a layer runs, in [0, 1]; None: all run, no exit is asked.
        """
        counting = _counting("ltp")
        tested = () if reach is None else self.config.exit_layers
        run = num_tokens[:, 1:] * 0 + 1 if reach is None else reach
        return 2.0 * self._expected_macs(num_tokens, run, counting, tested, 1.0)

    def layer_flops(
        self, num_tokens: Int[np.ndarray, "inputs layers_plus_1"], *, convention: Convention = "ltp"
    ) -> Float[np.ndarray, "inputs layers"]:
        """FLOPs of each layer, without heads, as if every layer ran, at the stored strength of pruning.

        Raises:
            InputError: the columns do not fit the layers of the model.
        """
        counting = _counting(convention)
        counts = self._padded(num_tokens, counting)
        macs = self._layer_macs(counts, counting, self._heads_run(None))
        flops: NDArray[np.float64] = 2.0 * macs
        return flops

    def dense_flops(
        self, lengths: Int[np.ndarray, " inputs"], *, convention: Convention = "ltp"
    ) -> Float[np.ndarray, " inputs"]:
        """FLOPs of each input on the same model with pruning and exits off."""
        num_layers = self.config.backbone.num_hidden_layers
        num_tokens = np.repeat(np.asarray(lengths)[:, None], num_layers + 1, axis=1)
        exit_layer = np.full(len(num_tokens), num_layers - 1)
        return self.flops(num_tokens, exit_layer, convention=convention, tested_layers=(), prune_scale=0.0)

    def padded_dense_flops(
        self, lengths: Int[np.ndarray, " inputs"], padded_length: int, *, convention: Convention = "ltp"
    ) -> Float[np.ndarray, " inputs"]:
        """``dense_flops`` when every input is padded to this length, or is longer: the usual way to batch."""
        return self.dense_flops(np.maximum(lengths, padded_length), convention=convention)

    def least_flops(self, lengths: Int[np.ndarray, " inputs"]) -> Float[np.ndarray, " inputs"]:
        """FLOPs of each input when as much is pruned as the settings can, and the first exit head answers.

        A layer's attention sees all that arrives, so the first one always pays for the whole input.
        """
        num_layers = self.config.backbone.num_hidden_layers
        num_tokens = np.repeat(np.asarray(lengths)[:, None], num_layers + 1, axis=1)
        if self.config.prune is not None:
            shares = np.array(self.config.prune.least_kept(num_layers))
            num_tokens[:, 1:] = np.maximum(1, (num_tokens[:, 1:] * shares).round())
        first = min(self.config.exit_layers, default=num_layers - 1)
        return self.flops(num_tokens, np.full(len(num_tokens), first))

    def _heads_run(self, prune_scale: float | None) -> Any:
        """Share of the attention heads that each layer runs."""
        if self.config.prune is None:
            return 1.0
        layers, heads = self.config.backbone.num_hidden_layers, self.config.backbone.num_attention_heads
        scale = self.config.prune.scale if prune_scale is None else prune_scale
        return np.array(self.config.prune.heads_run(layers, heads, scale=scale)) / heads

    def _expected_macs(
        self, counts: Counts, reach: Counts, counting: "_Counting", tested: Collection[int], heads_run: Any
    ) -> Counts:
        """The one sum behind all totals; a head is met by whoever ran its layer."""
        kept = counts[:, 1:]
        macs = (self._layer_macs(counts, counting, heads_run) * reach).sum(1)
        for layer in tested if self.config.exit else ():
            head = counting.heads[_head_settings(self.config).head]
            macs = macs + head(self.config, kept[:, layer]) * reach[:, layer]
        read = kept[:, -1] if self.config.span is None else counts[:, 0]
        final = counting.heads[self.config.final_head_kind](self.config, read)
        return macs + final * reach[:, -1]

    def _layer_macs(self, counts: Counts, counting: "_Counting", heads_run: Any) -> Counts:
        """MACs of each layer; where removed tokens are read as they were left, their last layer is whole."""
        arrived = counts[:, :-1]
        fed = counts[:, 1:] if self.config.span is None else arrived
        return counting.layers(self.config.backbone, arrived, fed, heads_run)

    def _padded(
        self, num_tokens: Int[np.ndarray, "inputs layers_plus_1"], counting: "_Counting"
    ) -> NDArray[np.float64]:
        expected = self.config.backbone.num_hidden_layers + 1
        if num_tokens.ndim != 2 or num_tokens.shape[1] != expected:
            raise InputError(
                f"num_tokens has the shape {num_tokens.shape}; this model needs (inputs, {expected}): "
                "the tokens of the input, then those alive after each layer"
            )
        counts: NDArray[np.float64] = num_tokens.astype(np.float64)
        padding = np.maximum(self.config.max_length - counts[:, :1], 0.0)
        return counts + padding if counting.counts_padding else counts


def flops_speedup(dense: Float[np.ndarray, " inputs"], ours: Float[np.ndarray, " inputs"]) -> float:
    """Mean FLOPs of the dense model over mean FLOPs of ours, on the same inputs."""
    return float(np.mean(dense) / np.mean(ours))


def _has_run(exit_layer: Int[np.ndarray, " inputs"], *, layers: int) -> NDArray[np.bool_]:
    runs: NDArray[np.bool_] = np.arange(layers) <= np.asarray(exit_layer)[:, None]
    return runs


def _ltp_layers(backbone: BackboneConfig, arrived: Counts, kept: Counts, heads_run: Any = 1.0) -> Counts:
    """2dhn² + 4d²n + 2dfk."""
    d, f = backbone.hidden_size, backbone.intermediate_size
    return 2 * d * heads_run * arrived**2 + 4 * d * d * arrived + 2 * d * f * kept


def _actual_layers(backbone: BackboneConfig, arrived: Counts, kept: Counts, heads_run: Any = 1.0) -> Counts:
    """dh(n² + nk) + 3d²n + d²k + 2dfk: context and output projection of the kept queries only."""
    d, f = backbone.hidden_size, backbone.intermediate_size
    return d * heads_run * arrived * (arrived + kept) + d * d * (3 * arrived + kept) + 2 * d * f * kept


def _top_layers(backbone: BackboneConfig, arrived: Counts, kept: Counts, heads_run: Any = 1.0) -> Counts:
    """(2d + heads)hn² + 4d²n + 2dfk, and k = n in the last layer."""
    d, f = backbone.hidden_size, backbone.intermediate_size
    fed = np.concatenate([kept[:, :-1], arrived[:, -1:]], axis=1)
    attention = (2 * d + backbone.num_attention_heads) * heads_run * arrived**2
    return attention + 4 * d * d * arrived + 2 * d * f * fed


def _linear_layers(backbone: BackboneConfig, arrived: Counts, kept: Counts, heads_run: Any = 1.0) -> Counts:
    """4d²n + 2dfk, however many heads run."""
    d, f = backbone.hidden_size, backbone.intermediate_size
    return 4 * d * d * arrived + 2 * d * f * kept


def _cls_head(config: ModelConfig, tokens: Counts) -> Counts:
    """d² + dC."""
    d = config.backbone.hidden_size
    return 0 * tokens + (d * d + d * config.num_labels)


def _cls_head_unlabelled(config: ModelConfig, tokens: Counts) -> Counts:
    """d²."""
    return 0 * tokens + config.backbone.hidden_size**2


def _span_head(config: ModelConfig, tokens: Counts) -> Counts:
    """dCn: every token of the input."""
    return config.backbone.hidden_size * config.num_labels * tokens


def _no_head(config: ModelConfig, tokens: Counts) -> Counts:
    """Nothing: a label layer alone."""
    return 0 * tokens


def _fastbert_head(config: ModelConfig, tokens: Counts) -> Counts:
    """(ds + 2s² + 2s)n + 3s² + sC: keys and values of every token, one query."""
    d, s = config.backbone.hidden_size, _head_settings(config).head_size
    return (d * s + 2 * s * s + 2 * s) * tokens + 3 * s * s + s * config.num_labels


def _fastbert_head_folded(config: ModelConfig, tokens: Counts) -> Counts:
    """(ds + 2·heads·s)n + 5s² + sC: key and value matrices once per sequence."""
    settings = _head_settings(config)
    d, s = config.backbone.hidden_size, settings.head_size
    per_token = d * s + 2 * settings.head_attention_heads * s
    return per_token * tokens + 5 * s * s + s * config.num_labels


def _fastbert_head_linear(config: ModelConfig, tokens: Counts) -> Counts:
    """(ds + 4s²)n + s²: all queries, as FastBERT's program runs it."""
    d, s = config.backbone.hidden_size, _head_settings(config).head_size
    return (d * s + 4 * s * s) * tokens + s * s


def _block_head(config: ModelConfig, tokens: Counts) -> Counts:
    """A whole layer, then the [CLS] classifier."""
    return _ltp_layers(config.backbone, tokens, tokens) + _cls_head(config, tokens)


def _block_head_folded(config: ModelConfig, tokens: Counts) -> Counts:
    """2·heads·d·n + 4d² + 2df, then the [CLS] classifier: one query, and only its feed-forward."""
    d, f = config.backbone.hidden_size, config.backbone.intermediate_size
    attention = 2 * config.backbone.num_attention_heads * d * tokens + 4 * d * d
    return attention + 2 * d * f + _cls_head(config, tokens)


def _block_head_linear(config: ModelConfig, tokens: Counts) -> Counts:
    """The linear part of a whole layer, then the [CLS] classifier."""
    return _linear_layers(config.backbone, tokens, tokens) + _cls_head_unlabelled(config, tokens)


def _head_settings(config: ModelConfig) -> ExitConfig:
    return config.exit or ExitConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counting:
    """One convention: formulas of the layers and of each kind of head."""

    layers: Callable[[BackboneConfig, Counts, Counts, Any], Counts]
    heads: Mapping[str, Callable[[ModelConfig, Counts], Counts]]
    counts_padding: bool = False


_ONE_QUERY_HEADS = {
    "cls": _cls_head,
    "fastbert": _fastbert_head,
    "block": _block_head,
    "span": _span_head,
}
_FOLDED_HEADS = {
    "cls": _cls_head,
    "fastbert": _fastbert_head_folded,
    "block": _block_head_folded,
    "span": _span_head,
}
_LINEAR_HEADS = {
    "cls": _cls_head_unlabelled,
    "fastbert": _fastbert_head_linear,
    "block": _block_head_linear,
    "span": _no_head,
}
_COUNTINGS: dict[Any, _Counting] = {
    "ltp": _Counting(layers=_ltp_layers, heads=_ONE_QUERY_HEADS),
    "actual": _Counting(layers=_actual_layers, heads=_FOLDED_HEADS),
    "top": _Counting(layers=_top_layers, heads=_ONE_QUERY_HEADS),
    "fastbert": _Counting(layers=_linear_layers, heads=_LINEAR_HEADS, counts_padding=True),
}


def _counting(convention: str) -> _Counting:
    if convention not in _COUNTINGS:
        raise ConfigError(
            f"there is no FLOPs convention {convention!r}; {nearest(convention, get_args(Convention))}"
        )
    return _COUNTINGS[convention]

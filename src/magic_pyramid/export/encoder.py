"""The encoder as graphs: embeddings, and groups of layers that remove tokens as they go."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch

from magic_pyramid.config import ModelConfig, PruneConfig
from magic_pyramid.engine.interface import threshold_pruning
from magic_pyramid.export.activations import BIASED_ACTIVATIONS
from magic_pyramid.export.graph import BOOL, FLOAT, INT64, MICROSOFT, GraphBuilder, Kind, Port
from magic_pyramid.export.layout import Layout, plan_layout
from magic_pyramid.export.linear import PRODUCTS
from magic_pyramid.export.weights import WeightsFile
from magic_pyramid.layers.relative_bias import bias_by_distance
from magic_pyramid.pruning.threshold import SMALLEST_THRESHOLD

Weights = Mapping[str, np.ndarray]
"""The model's state by our names, in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """Names of what is known about the tokens alive."""

    hidden: str
    lengths: str
    layout: Layout | None = None
    """None after tokens left, until a layer needs it."""
    bias: str = ""
    """What is added to the scores of this layout, if anything but its mask."""
    protected: str = ""
    """Which tokens may not be removed; empty where nothing is ever removed."""
    positions: str = ""
    """Where each token stood in its input; empty where no layer asks."""


def embeddings_graph(
    config: ModelConfig, weights: Weights, *, precision: str, file: WeightsFile | None = None
) -> onnx.ModelProto:
    """Token, position and type ids to the hidden states that enter the first layer."""
    graph = GraphBuilder(file)
    ports = [Port("token_ids", INT64, ("tokens",)), Port("position_ids", INT64, ("tokens",))]
    if config.backbone.type_vocab_size:
        ports.append(Port("token_type_ids", INT64, ("tokens",)))
    graph.rename(embed(graph, config, weights, precision=precision), "hidden")
    hidden = Port("hidden", FLOAT, ("tokens", config.backbone.hidden_size))
    return graph.model("embeddings", ports, [hidden])


def embed(
    graph: GraphBuilder,
    config: ModelConfig,
    weights: Weights,
    *,
    precision: str,
    position_ids: str = "position_ids",
) -> str:
    """Add the embeddings of the inputs ``token_ids`` and, where there are types, ``token_type_ids``."""
    backbone = config.backbone
    positions = graph.constant(weights["embeddings.position.weight"][backbone.position_offset :])
    embedded = graph.op("Gather", positions, position_ids, axis=0)
    if backbone.type_vocab_size:
        types = graph.constant(weights["embeddings.token_type.weight"])
        embedded = graph.op("Add", embedded, graph.op("Gather", types, "token_type_ids", axis=0))
    words = _TOKEN_TABLES[precision](graph, weights["embeddings.token.weight"])
    hidden = _normalised_sum(graph, config, weights, words, embedded, norm="embeddings.norm")
    if "embeddings.projection.weight" not in weights:
        return hidden
    product = PRODUCTS[precision](graph, hidden, weights["embeddings.projection.weight"].T)
    return graph.op("Add", product, graph.constant(weights["embeddings.projection.bias"]))


def layers_graph(
    config: ModelConfig,
    weights: Weights,
    *,
    first: int,
    last: int,
    precision: str,
    file: WeightsFile | None = None,
) -> onnx.ModelProto:
    """Layers ``first`` to ``last``: hidden states in, those of the tokens that are kept out."""
    graph, width = GraphBuilder(file), config.backbone.hidden_size
    prune = threshold_pruning(config, engine="an exported graph")
    layers = Layers(graph, config, weights, precision=precision)
    inputs = [Port("hidden", FLOAT, ("tokens", width)), Port("lengths", INT64, ("seqs",))]
    outputs = [Port("new_hidden", FLOAT, ("kept", width))]
    if prune:
        inputs += [Port("protected", BOOL, ("tokens",)), Port("prune_scale", FLOAT, ())]
        inputs += [Port("input_lengths", INT64, ("seqs",))] if prune.score_norm == "input" else []
        outputs += [Port("new_protected", BOOL, ("kept",))]
        outputs += [Port(f"lengths_{layer}", INT64, ("seqs",)) for layer in range(first, last + 1)]
    if layers.has_positions:
        inputs.append(Port("position_ids", INT64, ("tokens",)))
        outputs.append(Port("new_position_ids", INT64, ("kept",)))
    alive = Alive(
        hidden="hidden",
        lengths="lengths",
        protected="protected" if prune else "",
        positions="position_ids" if layers.has_positions else "",
    )
    for layer in range(first, last + 1):
        alive = layers.append(alive, layer)
        if prune:
            graph.rename(alive.lengths, f"lengths_{layer}")
    graph.rename(alive.hidden, "new_hidden")
    if prune:
        graph.rename(alive.protected, "new_protected")
    if layers.has_positions:
        graph.rename(alive.positions, "new_position_ids")
    return graph.model(f"layers_{first}_{last}", inputs, outputs)


def dense_graph(
    config: ModelConfig, weights: Weights, *, precision: str, file: WeightsFile | None = None
) -> onnx.ModelProto:
    """Every layer in one graph that removes nothing."""
    last = config.backbone.num_hidden_layers - 1
    return layers_graph(
        config.replace(prune=None), weights, first=0, last=last, precision=precision, file=file
    )


class Layers:
    """Adds layers to a graph that has the inputs ``prune_scale`` and ``input_lengths`` where they ask."""

    def __init__(
        self,
        graph: GraphBuilder,
        config: ModelConfig,
        weights: Weights,
        *,
        precision: str,
        plan: Callable[[str], Layout] | None = None,
    ) -> None:
        """Prepare the thresholds.

        Args:
            graph: what the layers are added to.
            config: of the model.
            weights: of the model.
            precision: of the products.
            plan: the layout of sequences of these lengths; None: right-padded.
        """
        heads = config.backbone.num_attention_heads
        self.graph, self.config, self.weights = graph, config, weights
        self.prune = threshold_pruning(config, engine="an exported graph")
        self.multiply = PRODUCTS[precision]
        self.plan = plan or (lambda lengths: plan_layout(graph, lengths, heads=heads))
        self.has_positions = bool(config.backbone.relative_attention_num_buckets)
        self.thresholds = (
            np.maximum(weights["pruner.initial"] + weights["pruner.delta"], 0)
            if self.prune
            else np.zeros(config.backbone.num_hidden_layers, np.float32)
        )

    def append(self, alive: Alive, layer: int) -> Alive:
        """Add one layer."""
        graph, name = self.graph, f"layers.{layer}."
        alive = self._planned(alive)
        assert alive.layout is not None
        probs, context = self._attend(alive, layer)
        kept, residual = alive, alive.hidden
        if self.prune and self.thresholds[layer] > 0:
            kept, residual, context = self._remove(alive, probs, context, layer)
        else:
            context = alive.layout.packed(context)
        projected = self._product(context, name + "attention.output.weight")
        attended = _normalised_sum(
            graph,
            self.config,
            self.weights,
            projected,
            residual,
            norm=name + "attention_norm",
            bias=name + "attention.output.bias",
        )
        widened = self._product(attended, name + "feedforward.up.weight")
        activate = BIASED_ACTIVATIONS[self.config.backbone.hidden_act]
        widened = activate(graph, widened, graph.constant(self.weights[name + "feedforward.up.bias"]))
        narrowed = self._product(widened, name + "feedforward.down.weight")
        hidden = _normalised_sum(
            graph,
            self.config,
            self.weights,
            narrowed,
            attended,
            norm=name + "output_norm",
            bias=name + "feedforward.down.bias",
        )
        return replace(kept, hidden=hidden)

    def _planned(self, alive: Alive) -> Alive:
        """With a layout, made anew where tokens left."""
        if alive.layout is not None:
            return alive
        graph, layout, bias = self.graph, self.plan(alive.lengths), ""
        if self.has_positions:
            table, middle = self._bias_by_distance()
            positions = layout.padded(alive.positions)
            distance = graph.op(
                "Sub",
                graph.op("Unsqueeze", positions, graph.integers(1)),
                graph.op("Unsqueeze", positions, graph.integers(2)),
            )
            place = graph.op("Add", distance, graph.constant(np.int64(middle), np.int64))
            by_head = graph.op("Transpose", graph.op("Gather", table, place, axis=0), perm=[0, 3, 1, 2])
            bias = layout.masked_bias(by_head)
        return replace(alive, layout=layout, bias=bias)

    def _bias_by_distance(self) -> tuple[str, int]:
        """Bias ``[distances, heads]`` by key position minus query position, and the row of distance 0."""
        farthest = self.config.backbone.max_length - 1
        table = torch.from_numpy(self.weights["relative_bias.weight"])
        return self.graph.constant(bias_by_distance(table, farthest=farthest).numpy()), farthest

    def _attend(self, alive: Alive, layer: int) -> tuple[str, str]:
        """Attention probabilities ``[S, heads, W, W]``, and what every entry sees, ``[W * S, hidden]``."""
        assert alive.layout is not None
        graph, backbone = self.graph, self.config.backbone
        heads, width = backbone.num_attention_heads, backbone.hidden_size
        size = width // heads
        weight = self.weights[f"layers.{layer}.attention.qkv.weight"].copy()
        bias = self.weights[f"layers.{layer}.attention.qkv.bias"].copy()
        # The scale inside the softmax is part of the queries.
        weight[:width] /= np.sqrt(np.float32(size))
        bias[:width] /= np.sqrt(np.float32(size))
        product = self.multiply(graph, alive.hidden, weight.T)
        qkv = graph.op("Add", product, graph.constant(bias))
        padded = alive.layout.padded_by_step(qkv)
        query, key, value = (
            graph.op("Reshape", part, graph.integers(0, 0, heads, size)) for part in graph.split(padded, 3)
        )
        # Batch dimensions are read where they lie, [W, S, heads, size]: no transposed copies.
        scores = graph.op("FusedMatMul", query, key, domain=MICROSOFT, transB=1, transBatchA=1, transBatchB=1)
        probs = alive.layout.softmax(scores, alive.bias)
        seen = graph.op("FusedMatMul", probs, value, domain=MICROSOFT, transBatchB=1)
        context = graph.op("Transpose", seen, perm=[2, 0, 1, 3])
        return probs, graph.op("Reshape", context, graph.integers(-1, width))

    def _remove(self, alive: Alive, probs: str, context: str, layer: int) -> tuple[Alive, str, str]:
        """What stays, its part of the layer's input, and its part of what every entry sees."""
        graph, prune, layout = self.graph, self.prune, alive.layout
        assert prune is not None
        assert layout is not None
        token_values = [alive.protected, *([alive.positions] if alive.positions else [])]

        def chosen() -> list[str]:
            keep = self._keep(alive, layout, prune, probs, layer)
            kept = graph.op("Squeeze", graph.op("NonZero", keep), graph.integers(0))
            values = [graph.op("Gather", value, kept, axis=0) for value in (alive.hidden, *token_values)]
            return [layout.count(keep, kept), layout.packed(context, kept), *values]

        def everything() -> list[str]:
            return [alive.lengths, layout.packed(context), alive.hidden, *token_values]

        states: Kind = (FLOAT, (f"kept_{layer}", self.config.backbone.hidden_size))
        kinds: list[Kind] = [
            (INT64, ("seqs",)),
            states,
            states,
            (BOOL, (f"kept_{layer}",)),
            *([(INT64, (f"kept_{layer}",))] if alive.positions else []),
        ]
        prunes = graph.op("Greater", "prune_scale", graph.constant(np.float32(0)))
        names = graph.choose(prunes, yes=chosen, no=everything, outputs=kinds)
        lengths, context, residual, protected = names[:4]
        positions = names[4] if alive.positions else ""
        kept = Alive(hidden="", lengths=lengths, protected=protected, positions=positions)
        return kept, residual, context

    def _keep(self, alive: Alive, layout: Layout, prune: PruneConfig, probs: str, layer: int) -> str:
        """``[T]``, bool: protected tokens, and those whose attention mass reaches their sequence's bar."""
        graph = self.graph
        mass = layout.received(probs)
        scaled = graph.op("Mul", graph.constant(np.float32(self.thresholds[layer])), "prune_scale")
        bar = graph.op("Max", scaled, graph.constant(np.float32(SMALLEST_THRESHOLD)))
        counts = {"kept": alive.lengths, "input": "input_lengths"}
        if prune.score_norm in counts:
            divisor = graph.op("Cast", counts[prune.score_norm], to=FLOAT)
            bars = layout.per_token(graph.op("Mul", bar, divisor))
        else:
            bars = graph.op("Mul", bar, graph.constant(np.float32(prune.fixed_length)))
        return graph.op("Or", graph.op("GreaterOrEqual", mass, bars), alive.protected)

    def _product(self, value: str, name: str) -> str:
        return self.multiply(self.graph, value, self.weights[name].T)


def _normalised_sum(
    graph: GraphBuilder,
    config: ModelConfig,
    weights: Weights,
    one: str,
    other: str,
    *,
    norm: str,
    bias: str | None = None,
) -> str:
    """LayerNorm of two values and a bias."""
    biased = graph.op("Add", one, graph.constant(weights[bias])) if bias else one
    return graph.layer_norm(
        graph.op("Add", biased, other),
        weights[norm + ".weight"],
        weights[norm + ".bias"],
        epsilon=config.backbone.layer_norm_eps,
    )


def _table_fp32(graph: GraphBuilder, table: np.ndarray) -> str:
    return graph.op("Gather", graph.constant(table), "token_ids", axis=0)


def _table_int8(graph: GraphBuilder, table: np.ndarray) -> str:
    """One scale a token, so that the table takes a quarter of the space."""
    largest = np.maximum(np.abs(table).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    codes = np.rint(table / largest * 127).astype(np.int8)
    gathered = graph.op("Gather", graph.constant(codes, np.int8), "token_ids", axis=0)
    scale = graph.op("Gather", graph.constant(largest / np.float32(127)), "token_ids", axis=0)
    return graph.op("Mul", graph.op("Cast", gathered, to=FLOAT), scale)


_TOKEN_TABLES = {"fp32": _table_fp32, "int8": _table_int8}

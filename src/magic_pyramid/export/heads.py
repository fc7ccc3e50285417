"""Exit heads and the final head as graphs: hidden states and lengths in, logits out; always fp32."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from magic_pyramid.config import ExitConfig, ModelConfig
from magic_pyramid.export.activations import BIASED_ACTIVATIONS
from magic_pyramid.export.encoder import Weights
from magic_pyramid.export.graph import FLOAT, INT64, GraphBuilder, Port
from magic_pyramid.export.layout import Layout, plan_layout
from magic_pyramid.export.weights import WeightsFile


def head_graph(
    config: ModelConfig, weights: Weights, *, kind: str, prefix: str, file: WeightsFile | None = None
) -> onnx.ModelProto:
    """The classifier of this kind whose weights begin with a prefix."""
    graph = GraphBuilder(file)
    layout = plan_layout(graph, "lengths", heads=config.backbone.num_attention_heads)
    logits = append_head(graph, config, weights, kind=kind, prefix=prefix, hidden="hidden", layout=layout)
    graph.rename(logits, "logits")
    return graph.model(
        prefix.rstrip(".").replace(".", "_"),
        [Port("hidden", FLOAT, ("tokens", config.backbone.hidden_size)), Port("lengths", INT64, ("seqs",))],
        [Port("logits", FLOAT, ("seqs", config.num_labels))],
    )


def append_head(
    graph: GraphBuilder,
    config: ModelConfig,
    weights: Weights,
    *,
    kind: str,
    prefix: str,
    hidden: str,
    layout: Layout,
) -> str:
    """Add such a classifier to a graph, and give its logits ``[seqs, labels]``."""
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return _HEADS[kind](_Head(graph=graph, config=config, weights=own, hidden=hidden, layout=layout))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """Where one head is added, and what the three kinds share."""

    graph: GraphBuilder
    config: ModelConfig
    weights: Weights
    """Its own, without their prefix."""
    hidden: str
    layout: Layout

    def linear(self, value: str, name: str) -> str:
        """``value @ weight.T + bias``."""
        bias = self.graph.constant(self.weights[name + ".bias"])
        return self.graph.op("Add", self.product(value, name), bias)

    def activated(self, value: str, name: str, activation: str) -> str:
        """A linear layer and an activation."""
        bias = self.graph.constant(self.weights[name + ".bias"])
        return BIASED_ACTIVATIONS[activation](self.graph, self.product(value, name), bias)

    def product(self, value: str, name: str) -> str:
        """``value @ weight.T``."""
        return self.graph.op("MatMul", value, self.graph.constant(self.weights[name + ".weight"].T))

    def first_tokens(self, value: str) -> str:
        """The rows of the sequences' first tokens."""
        return self.layout.first_tokens(value)

    def norm(self, one: str, other: str, name: str) -> str:
        """LayerNorm of a sum."""
        return self.graph.layer_norm(
            self.graph.op("Add", one, other),
            self.weights[name + ".weight"],
            self.weights[name + ".bias"],
            epsilon=self.config.backbone.layer_norm_eps,
        )

    def attend(self, states: str, *, num_heads: int) -> str:
        """What each first token sees, its key and value matrices folded into its query as in the model."""
        graph = self.graph
        size = self.weights["attention.query.weight"].shape[0]
        depth = size // num_heads
        keys = self.weights["attention.key.weight"].reshape(num_heads, depth, size) / np.sqrt(
            np.float32(depth)
        )
        values = self.weights["attention.value.weight"].reshape(num_heads, depth, size).transpose(0, 2, 1)
        query = self.linear(self.first_tokens(states), "attention.query")
        query = graph.op("Reshape", query, graph.integers(0, num_heads, depth))
        by_head = graph.op("Transpose", query, perm=[1, 0, 2])
        folded = graph.op("Transpose", graph.op("MatMul", by_head, graph.constant(keys)), perm=[1, 2, 0])
        padded = self.layout.padded(states)
        scores = self.layout.masked(graph.op("MatMul", padded, folded))
        probs = graph.op("Softmax", scores, axis=1)
        seen = graph.op("MatMul", graph.op("Transpose", probs, perm=[0, 2, 1]), padded)
        seen = graph.op("MatMul", graph.op("Transpose", seen, perm=[1, 0, 2]), graph.constant(values))
        joined = graph.op("Reshape", graph.op("Transpose", seen, perm=[1, 0, 2]), graph.integers(0, size))
        joined = graph.op("Add", joined, graph.constant(self.weights["attention.value.bias"]))
        return self.linear(joined, "attention.output")


def _fastbert(head: _Head) -> str:
    settings = head.config.exit or ExitConfig()
    narrowed = head.activated(head.hidden, "narrow", "tanh")
    seen = head.attend(narrowed, num_heads=settings.head_attention_heads)
    return head.linear(head.activated(seen, "dense", "tanh"), "output")


def _cls(head: _Head) -> str:
    return _classify(head, head.first_tokens(head.hidden), prefix="")


def _block(head: _Head) -> str:
    backbone = head.config.backbone
    seen = head.attend(head.hidden, num_heads=backbone.num_attention_heads)
    first = head.norm(seen, head.first_tokens(head.hidden), "attention_norm")
    widened = head.linear(head.activated(first, "up", backbone.hidden_act), "down")
    return _classify(head, head.norm(widened, first, "output_norm"), prefix="classifier.")


def _classify(head: _Head, first_states: str, *, prefix: str) -> str:
    pooled = head.activated(first_states, prefix + "dense", head.config.backbone.head_act)
    return head.linear(pooled, prefix + "output")


_HEADS: Mapping[str, Callable[[_Head], str]] = {"fastbert": _fastbert, "cls": _cls, "block": _block}

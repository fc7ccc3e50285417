"""The whole model as one graph for one sequence: layers that are skipped once the sequence has left.

Every group of layers up to an exit head, and every exit head, is an ``If`` of its own, one behind the other
("is it still running?"). They are not nested, because onnxruntime prepares a weight for its matrix product
only where the product lies at most one ``If`` below the graph that holds the weight.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.graph_interface import Value, exit_thresholds, inputs_of, outputs_of
from magic_pyramid.engine.interface import default_setting
from magic_pyramid.engine.segments import Segment
from magic_pyramid.errors import ConfigError
from magic_pyramid.export.encoder import Alive, Layers, Weights, embed
from magic_pyramid.export.exit_rule import GraphExitRule, Memory, sigmoid
from magic_pyramid.export.folder import segments_of
from magic_pyramid.export.graph import BOOL, FLOAT, INT64, GraphBuilder, Kind, Port
from magic_pyramid.export.heads import append_head
from magic_pyramid.export.layout import OneSequence

LARGEST_BYTES = 2**31 - 2**24
"""Constants that fit into one file: protobuf's limit of 2 GB, less ample room for the nodes."""


def single_graph(config: ModelConfig, weights: Weights, *, precision: str) -> onnx.ModelProto:
    """Token ids of one sequence to its answer, with the speed knob as inputs.

    Raises:
        ConfigError: the weights exceed what one file can hold.
    """
    return _SingleGraph(config, weights, precision).build()


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """Names of what is known between two exits."""

    alive: Alive
    running: str
    """``[1]``, bool: whether no exit head has answered for good."""
    logits: str
    """``[1, labels]`` of the exit head asked last, zeros before."""
    memory: Memory
    """What the exit rule remembers."""


class _SingleGraph:
    def __init__(self, config: ModelConfig, weights: Weights, precision: str) -> None:
        self.config, self.weights, self.precision = config, weights, precision
        self.graph = GraphBuilder()
        self.layout = OneSequence(self.graph, config.backbone.num_attention_heads)
        self.layers = Layers(self.graph, config, weights, precision=precision, plan=lambda _: self.layout)
        self.rule = GraphExitRule(self.graph, config, "exit_threshold")

    def build(self) -> onnx.ModelProto:
        """Begin, run and ask part by part, answer."""
        graph, config = self.graph, self.config
        state = self._begin()
        counts = [state.alive.lengths]
        thresholds: dict[int, str] = {}
        if config.exit_layers:
            own = graph.default("exit_thresholds", exit_thresholds(config, default_setting(config)))
            thresholds = dict(zip(config.exit_layers, self.rule.thresholds(own), strict=True))
        for part in segments_of(config.backbone.num_hidden_layers, config.exit_layers):
            alive, alive_after = self._run(part, state)
            state = replace(state, alive=alive)
            counts += alive_after
            if part.last in config.exit_layers:
                state = self._ask(part.last, state, thresholds[part.last])
        self._finish(self._answer(state), graph.op("Concat", *counts, axis=0))
        if graph.constant_bytes > LARGEST_BYTES:
            raise ConfigError(
                f"the weights take {graph.constant_bytes / 1e9:.2f} GB in {self.precision}; one ONNX file "
                f"holds {LARGEST_BYTES / 1e9:.2f} GB: export int8, or segments (--to onnx)"
            )
        return graph.model("magic_pyramid", _ports(inputs_of(config)), _ports(outputs_of(config)))

    def _begin(self) -> _State:
        graph, zero = self.graph, self.graph.constant(np.int64(0), np.int64)
        lengths = graph.op("Shape", "token_ids")
        graph.rename(lengths, "input_lengths")
        count = graph.op("Squeeze", lengths, graph.integers(0))
        positions = graph.op("Range", zero, count, graph.constant(np.int64(1), np.int64))
        hidden = embed(graph, self.config, self.weights, precision=self.precision, position_ids=positions)
        alive = Alive(
            hidden=hidden,
            lengths=lengths,
            protected=self._protected(positions) if self.config.prune else "",
            positions=positions if self.layers.has_positions else "",
        )
        return _State(
            alive=alive,
            running=graph.constant([True], np.bool_),
            logits=graph.constant(np.zeros((1, self.config.num_labels))),
            memory=self.rule.start(),
        )

    def _protected(self, positions: str) -> str:
        # [CLS] carries the label, so it may never be pruned.
        graph, prune, separator = self.graph, self.layers.prune, self.config.backbone.sep_token_id
        first = graph.op("Equal", positions, graph.constant(np.int64(0), np.int64))
        if prune is None or not prune.protect_sep or separator is None:
            return first
        is_separator = graph.op("Equal", "token_ids", graph.constant(np.int64(separator), np.int64))
        return graph.op("Or", first, is_separator)

    def _run(self, part: Segment, state: _State) -> tuple[Alive, list[str]]:
        """The layers of a part if the sequence is still running: what stays, and the counts behind each."""
        graph, before = self.graph, state.alive
        layers = range(part.first, part.last + 1)

        def run() -> list[str]:
            alive, counts = before, []
            for layer in layers:
                alive = self.layers.append(alive, layer)
                counts.append(alive.lengths)
            values = (alive.hidden, alive.protected, alive.positions)
            return [*counts, *filter(None, values)]

        def skip() -> list[str]:
            return [
                *(graph.integers(0) for _ in layers),
                *(graph.empty(kind) for kind in kinds),
            ]

        kept = f"kept_{part.last}"
        kinds: list[Kind] = [
            (FLOAT, (kept, self.config.backbone.hidden_size)),
            *([(BOOL, (kept,))] if before.protected else []),
            *([(INT64, (kept,))] if before.positions else []),
        ]
        if part.first == 0:
            names = run()
        else:
            outputs: list[Kind] = [*((INT64, (1,)) for _ in layers), *kinds]
            names = graph.choose(state.running, yes=run, no=skip, outputs=outputs)
        counts, (hidden, *others) = names[: len(layers)], names[len(layers) :]
        alive = Alive(
            hidden=hidden,
            lengths=counts[-1],
            protected=others[0] if before.protected else "",
            positions=others[-1] if before.positions else "",
        )
        return alive, counts

    def _ask(self, layer: int, state: _State, threshold: str) -> _State:
        """The exit head behind a layer, if it is asked."""
        graph, settings = self.graph, self.rule.settings
        is_on = graph.op("GreaterOrEqual", threshold, graph.constant(np.float32(0)))
        asked = graph.op("And", state.running, is_on)

        def ask() -> list[str]:
            logits = self._head(state, kind=settings.head, prefix=f"exit_heads.{layer}.")
            leaves, memory = self.rule.test(logits, state.memory, threshold=threshold)
            return [graph.op("Not", leaves), logits, *memory]

        def go_on() -> list[str]:
            return [state.running, state.logits, *state.memory]

        outputs = [(BOOL, (1,)), self._logits_kind, *self.rule.memory_kinds()]
        running, logits, *memory = graph.choose(asked, yes=ask, no=go_on, outputs=outputs)
        return replace(state, running=running, logits=logits, memory=tuple(memory))

    def _answer(self, state: _State) -> str:
        """Logits of the final head, or of the exit head that let the sequence leave."""

        def final() -> list[str]:
            return [self._head(state, kind=self.config.final_head, prefix="final_head.")]

        if not self.config.exit_layers:
            return final()[0]
        outputs = [self._logits_kind]
        return self.graph.choose(state.running, yes=final, no=lambda: [state.logits], outputs=outputs)[0]

    def _head(self, state: _State, *, kind: str, prefix: str) -> str:
        return append_head(
            self.graph,
            self.config,
            self.weights,
            kind=kind,
            prefix=prefix,
            hidden=state.alive.hidden,
            layout=self.layout,
        )

    @property
    def _logits_kind(self) -> Kind:
        return FLOAT, (1, self.config.num_labels)

    def _finish(self, logits: str, num_tokens: str) -> None:
        """Name the outputs; a layer has run where a token, at least [CLS], came out of it."""
        graph, problem = self.graph, self.config.problem_type
        logits = graph.op("Squeeze", logits, graph.integers(0))
        graph.rename(logits, "logits")
        graph.rename(_PROBABILITIES[problem](graph, logits), "probabilities")
        has_run = graph.op("Cast", graph.op("Greater", num_tokens, graph.integers(0)), to=INT64)
        # The input counts as well, and layers count from 0.
        count = graph.op("ReduceSum", has_run, keepdims=0)
        graph.rename(graph.op("Sub", count, graph.constant(np.int64(2), np.int64)), "exit_layer")
        graph.rename(num_tokens, "num_tokens")


def _softmax(graph: GraphBuilder, logits: str) -> str:
    return graph.op("Softmax", logits, axis=-1)


def _number(_: GraphBuilder, logits: str) -> str:
    return logits


_PROBABILITIES: Mapping[str, Callable[[GraphBuilder, str], str]] = {
    "single_label": _softmax,
    "multi_label": sigmoid,
    "regression": _number,
}


def _ports(values: Sequence[Value]) -> list[Port]:
    return [
        Port(value.name, helper.np_dtype_to_tensor_dtype(np.dtype(value.type)), value.shape)
        for value in values
    ]

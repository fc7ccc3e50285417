"""When a sequence may leave, as operators: the decisions of ``engine.array_rule`` inside a graph."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from magic_pyramid.config import ExitConfig, ModelConfig
from magic_pyramid.export.graph import FLOAT, INT64, GraphBuilder, Kind

Memory = tuple[str, ...]
"""What the rule remembers: the previous answer and its streak, or nothing."""


@dataclass(frozen=True, slots=True)
class GraphExitRule:
    """Says after each exit head whether the one sequence of a graph leaves."""

    graph: GraphBuilder
    config: ModelConfig
    """The model, which has exits."""
    threshold: str
    """Leave when the uncertainty is at most this, never when it is below 0; above 1, each has its own."""

    @property
    def settings(self) -> ExitConfig:
        """How the model exits."""
        return self.config.exit or ExitConfig()

    def thresholds(self, own: str) -> list[str]:
        """What each exit head compares with, each ``[1]``, in the order of the exit layers."""
        graph = self.graph
        is_own = graph.op("Greater", self.threshold, graph.constant(np.float32(1)))
        used = graph.op("Where", is_own, own, self.threshold)
        places = range(len(self.config.exit_layers))
        return [graph.op("Gather", used, graph.integers(place)) for place in places]

    def start(self) -> Memory:
        """The memory before the first exit head: NaN, which agrees with nothing."""
        if self.settings.criterion != "patience":
            return ()
        answer = np.full((1, self._answers), np.nan, np.float32)
        return self.graph.constant(answer), self.graph.constant(np.zeros(1, np.int64), np.int64)

    def memory_kinds(self) -> list[Kind]:
        """Types and shapes of the memory."""
        remembers = self.settings.criterion == "patience"
        return [(FLOAT, (1, self._answers)), (INT64, (1,))] if remembers else []

    def test(self, logits: str, memory: Memory, *, threshold: str) -> tuple[str, Memory]:
        """Whether the sequence leaves, ``[1]``, bool, and the memory for the next exit head."""
        if memory:
            unsure, memory = self._count_agreement(logits, *memory)
        else:
            unsure = uncertainty(self.graph, logits, config=self.config)
        return self.graph.op("LessOrEqual", unsure, threshold), memory

    def _count_agreement(self, logits: str, previous: str, streak: str) -> tuple[str, Memory]:
        graph, problem = self.graph, self.config.problem_type
        tolerance = self.settings.patience_tolerance if problem == "regression" else 0.0
        answer = _ANSWERS[problem](graph, logits)
        distance = graph.op("Abs", graph.op("Sub", answer, previous))
        close = graph.op("LessOrEqual", distance, graph.constant(np.float32(tolerance)))
        agrees = graph.op("ReduceMin", graph.op("Cast", close, to=INT64), axes=[-1], keepdims=0)
        streak = graph.op("Add", graph.op("Mul", agrees, streak), graph.integers(1))
        longer = graph.op("Add", graph.op("Cast", streak, to=FLOAT), graph.constant(np.float32(0.5)))
        return graph.op("Div", graph.constant(np.float32(1)), longer), (answer, streak)

    @property
    def _answers(self) -> int:
        return 1 if self.config.problem_type == "single_label" else self.config.num_labels


def uncertainty(graph: GraphBuilder, logits: str, *, config: ModelConfig) -> str:
    """From logits ``[1, labels]``, ``[1]``: 0 is one-hot, 1 is uniform; of many labels, the least sure."""
    measure = _UNCERTAINTIES[(config.exit or ExitConfig()).criterion]
    if config.problem_type == "multi_label":
        last_axis = graph.integers(-1)
        signed = [graph.op("Unsqueeze", value, last_axis) for value in (logits, graph.op("Neg", logits))]
        probs = sigmoid(graph, graph.op("Concat", *signed, axis=-1))
        unsure = graph.op("ReduceMax", measure(graph, probs, 2), axes=[-1], keepdims=0)
    elif config.num_labels == 1:
        return graph.constant(np.zeros(1, np.float32))
    else:
        unsure = measure(graph, graph.op("Softmax", logits, axis=-1), config.num_labels)
    return graph.op("Clip", unsure, graph.constant(np.float32(0)), graph.constant(np.float32(1)))


def sigmoid(graph: GraphBuilder, value: str) -> str:
    """The exact one: onnxruntime's operator is an approximation that reaches 0 too early."""
    one = graph.constant(np.float32(1))
    # The power of a number that is never positive cannot overflow.
    power = graph.op("Exp", graph.op("Neg", graph.op("Abs", value)))
    is_positive = graph.op("GreaterOrEqual", value, graph.constant(np.float32(0)))
    return graph.op("Div", graph.op("Where", is_positive, one, power), graph.op("Add", one, power))


def _entropy(graph: GraphBuilder, probs: str, labels: int) -> str:
    zero, one = graph.constant(np.float32(0)), graph.constant(np.float32(1))
    logs = graph.op("Log", graph.op("Where", graph.op("Greater", probs, zero), probs, one))
    total = graph.op("ReduceSum", graph.op("Mul", probs, logs), graph.integers(-1), keepdims=0)
    return graph.op("Div", graph.op("Neg", total), graph.constant(np.float32(math.log(labels))))


def _max_prob(graph: GraphBuilder, probs: str, labels: int) -> str:
    rest = graph.op("Sub", graph.constant(np.float32(1)), graph.op("ReduceMax", probs, axes=[-1], keepdims=0))
    product = graph.op("Mul", rest, graph.constant(np.float32(labels)))
    return graph.op("Div", product, graph.constant(np.float32(labels - 1)))


def _margin(graph: GraphBuilder, probs: str, labels: int) -> str:
    largest, second = graph.split(graph.largest(probs, 2), 2)
    margin = graph.op("Squeeze", graph.op("Sub", largest, second), graph.integers(-1))
    return graph.op("Sub", graph.constant(np.float32(1)), margin)


def _largest(graph: GraphBuilder, logits: str) -> str:
    return graph.op("Cast", graph.op("ArgMax", logits, axis=-1, keepdims=1), to=FLOAT)


def _signs(graph: GraphBuilder, logits: str) -> str:
    return graph.op("Cast", graph.op("Greater", logits, graph.constant(np.float32(0))), to=FLOAT)


def _number(_: GraphBuilder, logits: str) -> str:
    return logits


_UNCERTAINTIES: Mapping[str, Callable[[GraphBuilder, str, int], str]] = {
    "entropy": _entropy,
    "max_prob": _max_prob,
    "margin": _margin,
}
_ANSWERS: Mapping[str, Callable[[GraphBuilder, str], str]] = {
    "single_label": _largest,
    "multi_label": _signs,
    "regression": _number,
}

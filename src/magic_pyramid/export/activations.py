"""Activations by their Hugging Face names, as ONNX operators that add the bias as well."""

from collections.abc import Callable, Mapping

from magic_pyramid.export.graph import MICROSOFT, GraphBuilder

BiasedActivation = Callable[[GraphBuilder, str, str], str]
"""Adds ``activation(value + bias)`` to a graph and gives its name."""


def _gelu(graph: GraphBuilder, value: str, bias: str) -> str:
    return graph.op("BiasGelu", value, bias, domain=MICROSOFT)


def _gelu_by_tanh(graph: GraphBuilder, value: str, bias: str) -> str:
    return graph.op("FastGelu", value, bias, domain=MICROSOFT)


def _relu(graph: GraphBuilder, value: str, bias: str) -> str:
    return graph.op("Relu", graph.op("Add", value, bias))


def _silu(graph: GraphBuilder, value: str, bias: str) -> str:
    added = graph.op("Add", value, bias)
    return graph.op("Mul", added, graph.op("Sigmoid", added))


def _tanh(graph: GraphBuilder, value: str, bias: str) -> str:
    return graph.op("Tanh", graph.op("Add", value, bias))


BIASED_ACTIVATIONS: Mapping[str, BiasedActivation] = {
    "gelu": _gelu,
    "gelu_new": _gelu_by_tanh,
    "gelu_pytorch_tanh": _gelu_by_tanh,
    "relu": _relu,
    "silu": _silu,
    "tanh": _tanh,
}

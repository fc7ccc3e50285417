"""Products with weight matrices, in fp32 or in int8 with one scale a row on both sides."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int8
from onnx import TensorProto, helper

from magic_pyramid.export.graph import MICROSOFT, GraphBuilder

LARGEST_CODE = 64
"""Largest weight code: 2 * 255 * 64 fits into 16 bits, so the pairwise sums of AVX2 cannot saturate."""
ZERO_CODE = 128
"""Activation code of 0.0: activations are coded without sign, symmetrically around it."""
LARGEST_STEP = 127
"""Activation codes reach this far from ``ZERO_CODE``."""
SMALLEST_SCALE = np.float32(1e-30)
"""Scale of a row of zeros."""


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """A weight matrix ``[inputs, outputs]`` in 7 bits, one scale an output."""

    codes: Int8[np.ndarray, "inputs outputs"]
    scale: Float32[np.ndarray, " outputs"]


def quantize_matrix(matrix: Float32[np.ndarray, "inputs outputs"]) -> QuantizedMatrix:
    """Round each column to codes from -64 to 64, symmetrically."""
    scale = np.maximum(np.abs(matrix).max(axis=0), np.finfo(np.float32).tiny) / LARGEST_CODE
    codes = np.clip(np.rint(matrix / scale), -LARGEST_CODE, LARGEST_CODE)
    return QuantizedMatrix(codes.astype(np.int8), scale.astype(np.float32))


Product = Callable[[GraphBuilder, str, Float32[np.ndarray, "inputs outputs"]], str]
"""Adds ``value @ matrix`` to a graph and gives its name."""


def _product_fp32(graph: GraphBuilder, value: str, matrix: np.ndarray) -> str:
    return graph.op("MatMul", value, graph.constant(matrix))


def _product_int8(graph: GraphBuilder, value: str, matrix: np.ndarray) -> str:
    """Each row is scaled by its own largest entry, so a row's result does not depend on its batch mates."""
    quantized = quantize_matrix(matrix)
    largest = graph.op("ReduceMax", graph.op("Abs", value), axes=[-1], keepdims=0)
    step = graph.op("Mul", largest, graph.constant(np.float32(1 / LARGEST_STEP)))
    scale = graph.op("Max", step, graph.constant(SMALLEST_SCALE))
    zero_code = helper.make_tensor("zero_code", TensorProto.UINT8, [1], [ZERO_CODE])
    zeros = graph.op("ConstantOfShape", graph.op("Shape", scale), value=zero_code)
    product = graph.op(
        "MatMulIntegerToFloat",
        graph.op("QuantizeLinear", value, scale, zeros, axis=0),
        graph.constant(quantized.codes, np.int8),
        graph.constant(np.float32(1)),
        graph.constant(quantized.scale),
        graph.constant(np.uint8(ZERO_CODE), np.uint8),
        domain=MICROSOFT,
    )
    return graph.op("Mul", product, graph.op("Unsqueeze", scale, graph.integers(1)))


PRODUCTS: Mapping[str, Product] = {"fp32": _product_fp32, "int8": _product_int8}
"""How to multiply, by precision."""

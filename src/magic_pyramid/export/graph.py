"""Build an ONNX graph node by node: constants, operators, and two-way branches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from magic_pyramid.export.weights import INLINE_BYTES, WeightsFile

OPSET = 17
"""Version of the standard operators used; onnxruntime has read it since 1.12."""
IR_VERSION = 8
"""Version of the file format that came with that opset."""
MICROSOFT = "com.microsoft"
"""Domain of the fused operators that every build of onnxruntime has."""

FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64
BOOL = TensorProto.BOOL

Kind = tuple[int, tuple[int | str, ...]]
"""Element type and shape of a value; a text is a size that varies."""


@dataclass(frozen=True, slots=True)
class Port:
    """A named input or output of a graph; a text in the shape is a size that varies."""

    name: str
    element: int
    shape: tuple[int | str, ...]

    def info(self) -> onnx.ValueInfoProto:
        """The port in ONNX's own words."""
        return helper.make_tensor_value_info(self.name, self.element, self.shape)


class GraphBuilder:
    """Collects nodes and constants; values are handled by their names."""

    def __init__(self, weights: WeightsFile | None = None) -> None:
        """Start empty; large constants go into the file of weights, if there is one."""
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[Any, onnx.TensorProto] = {}
        self._constant_bytes = 0
        self._count = 0

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Name of a constant; equal ones are stored once."""
        array = np.ascontiguousarray(values, dtype=dtype)
        # ascontiguousarray makes a vector of a number.
        array = array.reshape(np.shape(values))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._name("constant")
            self._constant_bytes += array.nbytes
            if self._weights is None or array.nbytes < INLINE_BYTES:
                self._constants[key] = numpy_helper.from_array(array, name)
            else:
                self._constants[key] = self._weights.tensor(name, array)
        return str(self._constants[key].name)

    def integers(self, *values: int) -> str:
        """Name of a vector of whole numbers: axes, shapes, indices."""
        return self.constant(np.array(values, dtype=np.int64), np.int64)

    def empty(self, kind: Kind) -> str:
        """Name of a constant of this kind whose varying sizes are 0."""
        element, shape = kind
        sizes = [0 if isinstance(size, str) else size for size in shape]
        return self.constant(np.zeros(sizes), helper.tensor_dtype_to_np_dtype(element))

    @property
    def constant_bytes(self) -> int:
        """Size of all constants so far."""
        return self._constant_bytes

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and give that output's name."""
        output = self._name(kind)
        self._nodes.append(
            helper.make_node(kind, list(inputs), [output], name=output, domain=domain, **attributes)
        )
        return output

    def split(self, value: str, parts: int) -> list[str]:
        """Equal parts of a value along its last axis."""
        names = [self._name("part") for _ in range(parts)]
        self._nodes.append(helper.make_node("Split", [value], names, name=self._name("Split"), axis=-1))
        return names

    def largest(self, value: str, count: int) -> str:
        """The largest entries along the last axis, in falling order."""
        names = [self._name("largest"), self._name("place")]
        node = helper.make_node(
            "TopK", [value, self.integers(count)], names, name=self._name("TopK"), axis=-1
        )
        self._nodes.append(node)
        return names[0]

    def default(self, name: str, values: Any) -> str:
        """Give an input of the graph, fp32, the value that counts where a program gives none."""
        self._constants[name] = numpy_helper.from_array(np.asarray(values, dtype=np.float32), name)
        return name

    def layer_norm(self, value: str, weight: np.ndarray, bias: np.ndarray, *, epsilon: float) -> str:
        """Normalise each row.

        The fused SkipLayerNormalization also adds, but is four times slower in onnxruntime 1.32.
        """
        constants = (self.constant(weight), self.constant(bias))
        return self.op("LayerNormalization", value, *constants, axis=-1, epsilon=epsilon)

    def rename(self, value: str, name: str) -> None:
        """Give a value the name of an output of the graph."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))

    def choose(
        self,
        condition: str,
        *,
        yes: Callable[[], Sequence[str]],
        no: Callable[[], Sequence[str]],
        outputs: Sequence[Kind],
    ) -> list[str]:
        """Run one of two branches; both see every value made so far and give the same kinds of outputs."""
        names = [self._name("chosen") for _ in outputs]
        node = helper.make_node(
            "If",
            [condition],
            names,
            name=self._name("If"),
            then_branch=self._branch(yes, outputs),
            else_branch=self._branch(no, outputs),
        )
        self._nodes.append(node)
        return names

    def model(self, name: str, inputs: Sequence[Port], outputs: Sequence[Port]) -> onnx.ModelProto:
        """The finished model."""
        graph = helper.make_graph(
            self._nodes,
            name,
            [port.info() for port in inputs],
            [port.info() for port in outputs],
            list(self._constants.values()),
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
            ir_version=IR_VERSION,
            producer_name="magic-pyramid",
        )

    def _branch(self, build: Callable[[], Sequence[str]], outputs: Sequence[Kind]) -> onnx.GraphProto:
        outer, self._nodes = self._nodes, []
        values: list[str] = []
        for value in build():
            made = {name for node in self._nodes for name in node.output}
            # A branch can give an outer value back, or one value twice, only by a node of its own.
            is_free = value in made and value not in values
            values.append(value if is_free else self.op("Identity", value))
        ports = [
            helper.make_tensor_value_info(value, element, shape)
            for value, (element, shape) in zip(values, outputs, strict=True)
        ]
        graph = helper.make_graph(self._nodes, self._name("branch"), [], ports)
        self._nodes = outer
        return graph

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"

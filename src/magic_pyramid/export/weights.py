"""One file for the large constants of all graphs of a folder; what several graphs use is stored once."""

import hashlib
from pathlib import Path
from typing import Self

import numpy as np
import onnx
from onnx import TensorProto, helper

WEIGHTS_FILE = "weights.bin"
INLINE_BYTES = 1024
"""Smaller constants stay inside their graph."""
ALIGNMENT = 64
"""Bytes; a multiple of the width of every vector register."""


class WeightsFile:
    """Appends arrays, and gives the tensors that point at them."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / WEIGHTS_FILE).open("wb")
        self._places: dict[bytes, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def tensor(self, name: str, array: np.ndarray) -> TensorProto:
        """A tensor of this name whose content lies in the file."""
        data = array.tobytes()
        key = hashlib.sha256(data).digest()
        if key not in self._places:
            self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
            self._places[key] = self._file.tell()
            self._file.write(data)
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )
        entries = {"location": WEIGHTS_FILE, "offset": str(self._places[key]), "length": str(len(data))}
        for entry, value in entries.items():
            tensor.external_data.add(key=entry, value=value)
        return tensor

    def write_graph(self, path: Path, graph: onnx.ModelProto) -> None:
        """Write a graph beside the file, and check it with the weights it points at.

        Raises:
            onnx.checker.ValidationError: the graph is no valid ONNX, which is a mistake of the exporter.
        """
        self._file.flush()
        path.write_bytes(graph.SerializeToString())
        onnx.checker.check_model(str(path), full_check=True)

"""The engine of a model exported as one graph: one input after the other, without PyTorch."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.graph_interface import (
    EACH_ITS_OWN,
    GRAPH_FILE,
    GraphInterface,
    exit_thresholds,
    inputs_of,
)
from magic_pyramid.engine.interface import EngineOutput, Setting
from magic_pyramid.engine.ort_session import OrtGraph
from magic_pyramid.engine.plan_files import Precision
from magic_pyramid.errors import CheckpointError
from magic_pyramid.tokenization import EncodedTexts


class SingleGraphEngine:
    """Runs the graph as any other program would; for many texts at once the segments are faster."""

    name: ClassVar[str] = "onnx-single"

    def __init__(self, folder: str | Path, *, threads: int | None = None) -> None:
        """Check and load a folder that ``magic-pyramid export --to onnx-single`` wrote.

        Args:
            folder: where it lies.
            threads: as for ``OrtEngine``.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            CheckpointError: a file is missing, damaged, newer or not the one that was exported.
        """
        self.interface = GraphInterface.read(Path(folder))
        self.path = Path(folder) / GRAPH_FILE
        self._graph = OrtGraph(self.path, threads=threads)
        if missing := {value.name for value in inputs_of(self.config)} - set(self._graph.inputs):
            raise CheckpointError(f"{self.path} has no input {', '.join(missing)}; export the model again")

    @property
    def config(self) -> ModelConfig:
        """What the model is."""
        return self.interface.config

    @property
    def precision(self) -> Precision:
        """Of the weights."""
        return self.interface.precision

    def run(self, encoded: EncodedTexts, *, setting: Setting, batch_size: int | None = None) -> EngineOutput:
        """Answer every input, each alone; ``batch_size`` changes nothing.

        Raises:
            ConfigError: a layer is asked that has no exit head, or the number of thresholds is another.
        """
        output = EngineOutput.empty(len(encoded), self.config)
        knobs = {
            "prune_scale": np.array(setting.prune_scale, dtype=np.float32),
            "exit_threshold": np.array(EACH_ITS_OWN, dtype=np.float32),
            "exit_thresholds": np.array(exit_thresholds(self.config, setting), dtype=np.float32),
        }
        for row, (ids, types) in enumerate(zip(encoded.token_ids, encoded.token_type_ids, strict=True)):
            tokens = {"token_ids": np.array(ids, np.int64), "token_type_ids": np.array(types, np.int64)}
            answer = self._graph.run({**tokens, **knobs})
            output.logits[row] = answer["logits"]
            output.exit_layer[row] = answer["exit_layer"]
            output.num_tokens[row] = answer["num_tokens"]
        return output

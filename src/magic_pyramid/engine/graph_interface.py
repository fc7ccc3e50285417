"""A model exported as one graph: what goes in, what comes out, and whether the file is whole."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.interface import Setting, default_setting, thresholds_by_layer
from magic_pyramid.engine.plan_files import PRECISIONS, Precision, check_sha256, reading_plan
from magic_pyramid.engine.segments import NEWEST_OPSET
from magic_pyramid.errors import CheckpointError

INTERFACE_FILE = "interface.json"
INTERFACE_VERSION = 1
"""Version of the description; a folder with a larger one was written by a newer release."""
GRAPH_FILE = "model.onnx"
NEVER_LEAVE = -1.0
"""Value of the input ``exit_threshold`` that switches exits off, as any negative number does."""
EACH_ITS_OWN = 2.0
"""Value of that input, as any number above 1, that gives each exit head its own of ``exit_thresholds``."""


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of the graph."""

    name: str
    type: str
    shape: tuple[int | str, ...]
    """Sizes; a text is one that varies, an empty shape is a single number."""
    meaning: str
    is_optional: bool = False
    """Whether the graph holds a value for a program that gives none."""


def inputs_of(config: ModelConfig) -> tuple[Value, ...]:
    """What a graph of this model takes."""
    ids = Value(
        "token_ids",
        "int64",
        ("tokens",),
        f"Vocabulary ids of one input, special tokens included: 1 to {config.max_length}.",
    )
    types = Value(
        "token_type_ids",
        "int64",
        ("tokens",),
        "0, or 1 in the second text of a pair; as the tokenizer gives them.",
    )
    scale = Value(
        "prune_scale",
        "float32",
        (),
        "Multiplier of the token thresholds, >= 0: larger removes more, 0 removes nothing.",
    )
    by_patience = config.exit is not None and config.exit.criterion == "patience"
    streak = "Leave once t exit heads in a row agree, for 1 / t, in [0, 1]"
    bar = "Leave at the first layer whose uncertainty is at most this, in [0, 1]"
    leaves = f"{streak if by_patience else bar}: larger leaves earlier; a negative number never leaves"
    threshold = Value(
        "exit_threshold", "float32", (), f"{leaves}, one above 1 takes `exit_thresholds` instead."
    )
    own = Value(
        "exit_thresholds",
        "float32",
        (len(config.exit_layers),),
        "Optional: a threshold for each exit head; the graph holds those of the model.",
        is_optional=True,
    )
    has_types, has_exits = config.backbone.type_vocab_size > 0, bool(config.exit_layers)
    return (ids, *((types,) if has_types else ()), scale, threshold, *((own,) if has_exits else ()))


def outputs_of(config: ModelConfig) -> tuple[Value, ...]:
    """What a graph of this model gives."""
    labels = config.num_labels
    return (
        Value("logits", "float32", (labels,), "Of the head that answered, in the order of the labels."),
        Value(
            "probabilities",
            "float32",
            (labels,),
            "Softmax of the logits, a sigmoid per label (multi_label), or the number itself (regression).",
        ),
        Value("exit_layer", "int64", (), "0-based layer whose head answered; the last is the final head."),
        Value(
            "num_tokens",
            "int64",
            (config.backbone.num_hidden_layers + 1,),
            "First the tokens of the input, then those alive after each layer; 0 where it did not run.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInterface:
    """Everything a program must know about such a folder; ``interface.json``."""

    config: ModelConfig
    precision: Precision
    opset: int
    sha256: str
    """Checksum of the graph."""

    @property
    def defaults(self) -> dict[str, float]:
        """The knobs as they are stored in the model; what is optional has its value in the graph."""
        stored = default_setting(self.config)
        own = exit_thresholds(self.config, stored)
        threshold = EACH_ITS_OWN if len(set(own)) > 1 else (own or [NEVER_LEAVE])[0]
        return {"prune_scale": stored.prune_scale, "exit_threshold": threshold}

    def to_json(self) -> str:
        """Content of ``interface.json``."""
        data = {
            "plan_version": INTERFACE_VERSION,
            "file": GRAPH_FILE,
            "sha256": self.sha256,
            "precision": self.precision,
            "opset": self.opset,
            "inputs": [_described(value) for value in inputs_of(self.config)],
            "outputs": [_described(value) for value in outputs_of(self.config)],
            "labels": list(self.config.labels),
            "defaults": self.defaults,
            "model": self.config.to_dict(),
        }
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The description of a folder, the graph checked against it.

        Raises:
            CheckpointError: a file is missing, damaged, newer, or not the one that was exported.
        """
        path = folder / INTERFACE_FILE
        with reading_plan(path, newest=INTERFACE_VERSION) as data:
            interface = cls(
                config=ModelConfig.from_dict(data["model"]),
                precision=data["precision"],
                opset=int(data["opset"]),
                sha256=str(data["sha256"]),
            )
        if interface.precision not in PRECISIONS or interface.opset > NEWEST_OPSET:
            raise CheckpointError(
                f"{path}: precision is {interface.precision!r} and opset {interface.opset}; this release "
                f"runs {', '.join(PRECISIONS)} up to opset {NEWEST_OPSET}: export the model again"
            )
        check_sha256(folder, {GRAPH_FILE: interface.sha256}, plan=INTERFACE_FILE)
        return interface


def exit_thresholds(config: ModelConfig, setting: Setting) -> list[float]:
    """The input ``exit_thresholds`` of a setting: one an exit head, ``NEVER_LEAVE`` where none is asked.

    Raises:
        ConfigError: a layer is asked that has no exit head, or the number of thresholds is another.
    """
    by_layer = thresholds_by_layer(config, setting, unasked=NEVER_LEAVE)
    # Through its decimal form, so that 0.1 stays 0.1.
    return [float(str(by_layer[layer])) for layer in config.exit_layers]


def _described(value: Value) -> dict[str, Any]:
    return {"name": value.name, "type": value.type, "shape": list(value.shape), "meaning": value.meaning}

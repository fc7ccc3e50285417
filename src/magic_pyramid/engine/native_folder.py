"""A model folder for the native engine: weights in fp32 or 8 bits, read without PyTorch."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.plan_files import PRECISIONS, Precision, check_sha256, reading_plan
from magic_pyramid.errors import CheckpointError

PLAN_FILE = "native.json"
WEIGHTS_FILE = "weights.safetensors"
PLAN_VERSION = 1
"""Version of the plan; a folder with a larger one was written by a newer release."""
CODES, SCALE = ".int8", ".scale"
"""Endings of the two tensors of a matrix in 8 bits: codes from -127 to 127, and one scale a row."""
LARGEST_CODE = 127
IN_8_BITS = re.compile(r"(layers\..*|embeddings\.(token|projection)|.*\.narrow)\.weight")
"""Matrices that the int8 engine multiplies in 8 bits; heads behind their first layer stay fp32."""

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class NativePlan:
    """What a folder for the native engine says about itself."""

    config: ModelConfig
    precision: Precision
    sha256: Mapping[str, str]
    """Checksum of every file of the folder but the plan."""

    def to_json(self) -> str:
        """Content of ``native.json``."""
        data = {
            "plan_version": PLAN_VERSION,
            "precision": self.precision,
            "sha256": dict(self.sha256),
            "model": self.config.to_dict(),
        }
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The plan of a folder, every file checked against it.

        Raises:
            CheckpointError: a file is missing, damaged, newer, or not the one that was exported.
        """
        path = folder / PLAN_FILE
        with reading_plan(path, newest=PLAN_VERSION) as data:
            plan = cls(
                config=ModelConfig.from_dict(data["model"]),
                precision=data["precision"],
                sha256={str(file): str(code) for file, code in data["sha256"].items()},
            )
        if plan.precision not in PRECISIONS or WEIGHTS_FILE not in plan.sha256:
            raise CheckpointError(
                f"{path}: precision is {plan.precision!r} and the files are {', '.join(plan.sha256)}; wanted "
                f"are {' or '.join(PRECISIONS)}, and {WEIGHTS_FILE} among the files: export the model again"
            )
        check_sha256(folder, plan.sha256, plan=PLAN_FILE)
        return plan


def write_weights(weights: Weights, path: Path, *, precision: Precision) -> None:
    """Write weights; in int8 the matrices that the engine multiplies in 8 bits are stored so."""
    from safetensors.numpy import save_file

    stored: dict[str, np.ndarray] = {}
    for name, value in weights.items():
        is_coded = precision == "int8" and value.ndim == 2 and IN_8_BITS.fullmatch(name)
        stored |= _coded(name, value) if is_coded else {name: value}
    save_file({name: np.ascontiguousarray(value) for name, value in stored.items()}, path)


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The weights of a file, in fp32.

    Raises:
        CheckpointError: it is no safetensors file, or codes have no scale.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        stored = load_file(path)
        scales = {name + SCALE for name in _matrices(stored)}
        plain = {
            name: value for name, value in stored.items() if name not in scales and not name.endswith(CODES)
        }
        decoded = {
            name: stored[name + CODES].astype(np.float32) * stored[name + SCALE][:, None]
            for name in _matrices(stored)
        }
    except (OSError, SafetensorError, LookupError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); export the model again") from None
    return plain | decoded


def _matrices(stored: Weights) -> list[str]:
    return [name.removesuffix(CODES) for name in stored if name.endswith(CODES)]


def _coded(name: str, matrix: np.ndarray) -> dict[str, np.ndarray]:
    largest = np.abs(matrix).max(axis=1)
    scale = (np.maximum(largest, np.finfo(np.float32).tiny) / LARGEST_CODE).astype(np.float32)
    codes = np.clip(np.rint(matrix / scale[:, None]), -LARGEST_CODE, LARGEST_CODE)
    return {name + CODES: codes.astype(np.int8), name + SCALE: scale}

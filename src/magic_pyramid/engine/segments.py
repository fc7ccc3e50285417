"""The exported folder: which graphs there are, which layers they run, and whether the files are whole."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.interface import Setting, layers_tested
from magic_pyramid.engine.plan_files import PRECISIONS, Precision, check_sha256, reading_plan
from magic_pyramid.errors import CheckpointError

PLAN_FILE = "plan.json"
PLAN_VERSION = 1
"""Version of the plan; a folder with a larger one was written by a newer release."""
NEWEST_OPSET = 17
"""Newest version of the standard operators that this release drives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One graph of consecutive layers; exits are tested behind it."""

    file: str
    first: int
    """0-based first layer."""
    last: int
    """0-based last layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentPlan:
    """Everything a driver must know about an exported folder."""

    config: ModelConfig
    precision: Precision
    opset: int
    weights: str
    """File of the large constants that the graphs share."""
    embeddings: str
    """File of the graph that turns ids into hidden states."""
    dense: Segment
    """Every layer in one graph that removes nothing: what runs while pruning and exits are off."""
    segments: tuple[Segment, ...]
    """In the order of their layers, without a gap."""
    exit_heads: Mapping[int, str]
    """File of the exit head after each layer that has one; such a layer is the last of its segment."""
    final_head: str
    sha256: Mapping[str, str]
    """Checksum of every file of the folder but the plan."""

    def to_json(self) -> str:
        """Content of ``plan.json``."""
        data = {
            "plan_version": PLAN_VERSION,
            "precision": self.precision,
            "opset": self.opset,
            "weights": self.weights,
            "embeddings": self.embeddings,
            "dense": self.dense.file,
            "segments": [
                {
                    "file": part.file,
                    "first_layer": part.first,
                    "last_layer": part.last,
                    "tests_exits": part.last in self.exit_heads,
                }
                for part in self.segments
            ],
            "exit_heads": {str(layer): file for layer, file in self.exit_heads.items()},
            "final_head": self.final_head,
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
                opset=int(data["opset"]),
                weights=str(data["weights"]),
                embeddings=str(data["embeddings"]),
                dense=Segment(
                    file=str(data["dense"]),
                    first=0,
                    last=int(data["model"]["backbone"]["num_hidden_layers"]) - 1,
                ),
                segments=tuple(
                    Segment(
                        file=str(part["file"]), first=int(part["first_layer"]), last=int(part["last_layer"])
                    )
                    for part in data["segments"]
                ),
                exit_heads={int(layer): str(file) for layer, file in data["exit_heads"].items()},
                final_head=str(data["final_head"]),
                sha256={str(file): str(code) for file, code in data["sha256"].items()},
            )
        plan._check(path)
        check_sha256(folder, plan.sha256, plan=PLAN_FILE)
        return plan

    def segments_for(self, setting: Setting) -> tuple[Segment, ...]:
        """What runs under a setting: the dense graph where nothing may be removed and nobody may leave."""
        prunes = self.config.prune is not None and setting.prune_scale > 0
        return self.segments if prunes or layers_tested(self.config, setting) else (self.dense,)

    def _check(self, path: Path) -> None:
        """Whether the parts fit each other."""
        layers = [layer for part in self.segments for layer in range(part.first, part.last + 1)]
        graphs = [
            self.weights,
            self.embeddings,
            self.dense.file,
            *(part.file for part in self.segments),
            *self.exit_heads.values(),
        ]
        ends = {part.last for part in self.segments}
        problems = {
            f"precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}": (
                self.precision not in PRECISIONS
            ),
            f"opset is {self.opset}; this release drives up to {NEWEST_OPSET}": self.opset > NEWEST_OPSET,
            f"the segments run the layers {layers}; the model has {self.config.backbone.num_hidden_layers}": (
                layers != list(range(self.config.backbone.num_hidden_layers))
            ),
            "an exit head stands inside a segment": not set(self.exit_heads) <= ends,
            f"exit heads stand after {sorted(self.exit_heads)}; the model has them after "
            f"{list(self.config.exit_layers)}": (sorted(self.exit_heads) != list(self.config.exit_layers)),
            "a graph has no checksum": not {*graphs, self.final_head} <= set(self.sha256),
            "a file lies outside the folder": any(Path(file).name != file for file in self.sha256),
        }
        wrong = [problem for problem, holds in problems.items() if holds]
        if wrong:
            raise CheckpointError(f"{path}: {'; '.join(wrong)}; export the model again")

"""One row of the bench: an engine, its precision, and how it is prepared, loaded and asked."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

import numpy as np

from magic_pyramid.bench.texts import BenchTexts
from magic_pyramid.config import ModelConfig

OURS = "magic_pyramid"
"""Engines of this library begin with it."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Logits in input order, and receipts where the engine gives them."""

    logits: np.ndarray
    exit_layer: np.ndarray | None = None
    num_tokens: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Material:
    """The folder that all contenders share; each keeps what it made of the weights in it."""

    folder: Path
    config: ModelConfig

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The material in a folder."""
        content = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
        return cls(folder, ModelConfig.from_dict(content))

    def write(self) -> None:
        """Write what ``read`` needs."""
        content = json.dumps(self.config.to_dict())
        (self.folder / "bench.json").write_text(content, encoding="utf-8")

    @property
    def model(self) -> Path:
        """Our model folder."""
        return self.folder / "model"

    @property
    def huggingface(self) -> Path:
        """The dense model as an ordinary checkpoint of its family."""
        return self.folder / "huggingface"

    def texts(self, name: str = "texts") -> BenchTexts:
        """Texts of this name."""
        return BenchTexts.read(self.folder / f"{name}.json")


Answer = Callable[[BenchTexts, int], Answers]
"""Answers texts in batches of at most so many."""
Reason = str | None
"""Why something cannot be; None: it can."""


def nothing(_: Material) -> None:
    """No preparation."""


def always(_: ModelConfig, __: BenchTexts) -> Reason:
    """Applies to every model and text."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """An engine at a precision, dense or adaptive."""

    engine: str
    load: Callable[[Material, int], Answer]
    """Get ready to answer, on so many threads."""
    precision: Literal["fp32", "int8"] = "fp32"
    adaptive: bool = False
    prepare: Callable[[Material], object] = nothing
    """Convert the weights; runs in a process of its own, before anything is timed."""
    unsuited: Callable[[ModelConfig, BenchTexts], Reason] = always
    """Why the engine cannot run this model or these texts."""
    libraries: tuple[str, ...] = ()
    """What must be installed."""
    needs_torch: bool = False
    """False: PyTorch is hidden from its process, as in an installation without it."""
    takes: Literal["tokens", "texts"] = "tokens"
    """Whether tokenising is part of its time."""
    pads: bool = True
    """Whether its batches hold padding."""
    note: str = ""
    """How it is tuned."""

    @property
    def name(self) -> str:
        """Engine, precision and kind in one word; unique."""
        int8, adaptive = "_int8" * (self.precision == "int8"), "_adaptive" * self.adaptive
        return f"{self.engine}{int8}{adaptive}"

    @property
    def is_ours(self) -> bool:
        """Whether this library runs it."""
        return self.engine.startswith(OURS)

    def obstacle(self, config: ModelConfig, texts: BenchTexts) -> Reason:
        """Why it cannot take part."""
        if missing := [library for library in self.libraries if find_spec(library) is None]:
            return f"{', '.join(missing)} not installed: pip install 'magic-pyramid[bench]'"
        return self.unsuited(config, texts)


def needs_family_head(config: ModelConfig, _: BenchTexts) -> Reason:
    """An ordinary checkpoint has the family's own head."""
    if config.final_head == "cls":
        return None
    return f"final_head is {config.final_head!r}, which an ordinary checkpoint cannot hold"


def in_batches(material: Material, logits_of: Callable[[BenchTexts, list[int]], np.ndarray]) -> Answer:
    """Ask batch by batch, sorted by length, and put the logits back in input order.

    Args:
        material: of the model.
        logits_of: logits of the texts at some places, which are one batch.
    """

    def answer(texts: BenchTexts, batch_size: int) -> Answers:
        logits = np.zeros((len(texts), material.config.num_labels), dtype=np.float32)
        for rows in texts.batches(batch_size):
            logits[rows] = logits_of(texts, rows)
        return Answers(logits)

    return answer

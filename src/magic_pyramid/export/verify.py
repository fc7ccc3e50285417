"""Compare an exported folder with the model it came from, before anybody relies on it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.exported import ExportedEngine, open_exported
from magic_pyramid.engine.interface import DENSE, EngineOutput, default_setting
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import CheckpointError
from magic_pyramid.metrics import Label, quality
from magic_pyramid.model import PyramidModel
from magic_pyramid.tokenization import EncodedTexts

LARGEST_DIFFERENCE = 1e-3
"""Rounding moves a logit by 1e-6 to 1e-4; more is a mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """How the export's answers differ from the model's, on the same inputs."""

    num_examples: int
    logit_difference: float
    """Largest difference of a logit, every token and layer run; a share of the largest one where that is
    above 1."""
    changed_decisions: int
    """Inputs with another exit layer or token count at the stored setting."""
    changed_answers: int
    """Inputs whose label differs at the stored setting."""
    accuracy: float | None = None
    """Of the model at the stored setting; None without labels."""
    exported_accuracy: float | None = None

    @property
    def drop(self) -> float:
        """Points of accuracy that the export loses; without labels, points of answers that changed."""
        if self.accuracy is None or self.exported_accuracy is None:
            return 100.0 * self.changed_answers / max(self.num_examples, 1)
        return 100.0 * (self.accuracy - self.exported_accuracy)


def accept_export(
    model: PyramidModel,
    folder: Path,
    *,
    encoded: EncodedTexts | None = None,
    labels: Sequence[Label] | None = None,
    max_drop: float | None = 0.5,
) -> dict[str, Any]:
    """Run an exported folder next to its model, and refuse it when the two do not agree.

    Args:
        model: what was exported.
        folder: the export.
        encoded: texts to compare on, besides random inputs.
        labels: their labels.
        max_drop: points of accuracy that the export may lose on them; None: any number.

    Returns:
        ``random`` and ``texts``: the ``Differences`` as plain data, None where nothing was compared.

    Raises:
        CheckpointError: logits are no numbers, fp32 logits differ, or too much accuracy is lost.
    """
    engine = open_exported(folder)
    on_random = differences(model, engine, random_inputs(model.config))
    if not np.isfinite(on_random.logit_difference):
        raise CheckpointError("the export gives logits that are no numbers; nothing was written: export fp32")
    if engine.precision == "fp32" and on_random.logit_difference > LARGEST_DIFFERENCE:
        raise CheckpointError(
            f"the exported logits differ from the model's by {on_random.logit_difference:.3g} "
            f"(at most {LARGEST_DIFFERENCE:g} is rounding); nothing was written: please report it"
        )
    on_texts = None if encoded is None else differences(model, engine, encoded, labels)
    if on_texts is not None and max_drop is not None and not on_texts.drop <= max_drop:
        raise CheckpointError(
            f"the export loses {on_texts.drop:.2f} points on {on_texts.num_examples} texts; at most "
            f"{max_drop:g} may be lost: raise --max-drop, keep it with --force, or export fp32"
        )
    return {"random": asdict(on_random), "texts": None if on_texts is None else asdict(on_texts)}


def differences(
    model: PyramidModel, engine: ExportedEngine, encoded: EncodedTexts, labels: Sequence[Label] | None = None
) -> Differences:
    """Run both on the same inputs, densely and at the stored setting."""
    reference = TorchEngine(model)
    dense = [side.run(encoded, setting=DENSE).logits for side in (reference, engine)]
    # One graph has fewer heads than the model, and a threshold for each.
    ours = reference.run(encoded, setting=default_setting(model.config))
    theirs = engine.run(encoded, setting=default_setting(engine.config))
    problem = model.config.problem_type
    measured = {}
    if labels is not None:
        measured = {
            "accuracy": quality(ours.logits, labels, model.config),
            "exported_accuracy": quality(theirs.logits, labels, model.config),
        }
    decisions = (ours.num_tokens != theirs.num_tokens).any(axis=1) | (ours.exit_layer != theirs.exit_layer)
    return Differences(
        num_examples=len(encoded),
        logit_difference=float(
            np.abs(dense[0] - dense[1]).max(initial=0.0) / np.abs(dense[0]).max(initial=1.0)
        ),
        changed_decisions=int(decisions.sum()),
        changed_answers=int((_answers(ours, problem) != _answers(theirs, problem)).any(axis=1).sum()),
        **measured,
    )


def random_inputs(config: ModelConfig, *, count: int = 16, seed: int = 0) -> EncodedTexts:
    """Random token ids of many lengths, the longest as long as the model allows."""
    generator = np.random.default_rng(seed)
    lengths = np.linspace(1, config.max_length, count).astype(int)
    ids = [generator.integers(0, config.backbone.vocab_size, length).tolist() for length in lengths]
    return EncodedTexts(ids, [[0] * len(row) for row in ids])


def _answers(output: EngineOutput, problem: str) -> np.ndarray:
    if problem == "regression":
        return np.zeros_like(output.logits)
    if problem == "multi_label":
        return np.asarray(output.logits > 0)
    return np.asarray(output.logits.argmax(axis=1)[:, None])

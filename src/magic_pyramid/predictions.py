"""Answers with their receipts: what was said, where it was said, and what it cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.interface import EngineOutput, Setting, flops_of
from magic_pyramid.metrics import probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """One row per input, in input order."""

    labels: list[Any]
    """Label name; a list of names (multi-label); a number (regression)."""
    probabilities: Float[np.ndarray, "inputs labels"]
    """Softmax, or a sigmoid per label (multi-label); the number itself (regression)."""
    exit_layer: Int64[np.ndarray, " inputs"]
    """0-based layer whose head answered."""
    num_tokens: Int64[np.ndarray, "inputs layers_plus_1"]
    """Column 0: tokens of the input; column l + 1: tokens alive after layer l, 0 where it did not run."""
    gflops: Float[np.ndarray, " inputs"]
    """Cost of each input, exit heads charged."""

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Rows as plain JSON data."""
        for row, label in enumerate(self.labels):
            yield {
                "label": label,
                "probabilities": [float(p) for p in self.probabilities[row]],
                "exit_layer": int(self.exit_layer[row]),
                "num_tokens": [int(n) for n in self.num_tokens[row]],
                "gflops": float(self.gflops[row]),
            }

    @property
    def kept_tokens(self) -> Int64[np.ndarray, " inputs"]:
        """Tokens of each input that were alive after the layer that answered."""
        return np.asarray(self.num_tokens[np.arange(len(self)), self.exit_layer + 1])

    def summary(self) -> dict[str, Any]:
        """Means over the inputs, and how many were answered after each layer."""
        if not self.labels:
            return {"num_examples": 0}
        layers = self.num_tokens.shape[1] - 1
        return {
            "num_examples": len(self),
            "mean_layers": float((self.exit_layer + 1).mean()),
            "mean_input_tokens": float(self.num_tokens[:, 0].mean()),
            "mean_kept_tokens": float(self.kept_tokens.mean()),
            "gflops": float(self.gflops.mean()),
            "exit_distribution": np.bincount(self.exit_layer, minlength=layers).tolist(),
        }


def joined_predictions(parts: Sequence[tuple[Sequence[int], Predictions]]) -> Predictions:
    """Predictions of parts of the inputs as one; each comes with the rows that it is of."""
    if len(parts) == 1:
        return parts[0][1]
    order = np.argsort([row for rows, _ in parts for row in rows], kind="stable")
    labels = [label for _, part in parts for label in part.labels]
    arrays = {
        name: np.concatenate([getattr(part, name) for _, part in parts])[order]
        for name in ("probabilities", "exit_layer", "num_tokens", "gflops")
    }
    return Predictions(labels=[labels[place] for place in order], **arrays)


def predictions_of(config: ModelConfig, output: EngineOutput, setting: Setting) -> Predictions:
    """Read an engine's output in the words of the model's labels."""
    probs = probabilities(output.logits, config.problem_type)
    return Predictions(
        labels=_labels(config, probs),
        probabilities=probs,
        exit_layer=output.exit_layer,
        num_tokens=output.num_tokens,
        gflops=flops_of(config, output, setting) / 1e9,
    )


def _labels(config: ModelConfig, probs: np.ndarray) -> list[Any]:
    if config.problem_type == "regression":
        return [float(value) for value in probs[:, 0]]
    if config.problem_type == "multi_label":
        return [[name for name, p in zip(config.labels, row, strict=True) if p > 0.5] for row in probs]
    return [config.labels[index] for index in probs.argmax(axis=1)]

"""What a trained model answers at every setting, and what that costs against the dense teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from magic_pyramid.classifier import Classifier
from magic_pyramid.config import ModelConfig
from magic_pyramid.cost import CostModel, flops_speedup
from magic_pyramid.data import Example
from magic_pyramid.engine.interface import DENSE, AllAnswers, EngineOutput, Setting, default_setting
from magic_pyramid.evaluation import Buckets
from magic_pyramid.labelled_rows import label_rows
from magic_pyramid.metrics import METRIC_NAMES, Label, examples_of
from magic_pyramid.reproduce.scores import scores_of
from magic_pyramid.sweep import PRUNE_SCALES, simulate, thresholds_of
from magic_pyramid.tokenization import EncodedTexts

AS_TRAINED, CALIBRATED, OWN_DENSE = "as trained", "calibrated", "dense"
"""Names of settings; ``tau=X`` and those of ``within`` are the others."""


def within(drop: float) -> str:
    """Name of the fastest setting that lost at most so many points on validation."""
    return f"within {drop:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Texts and what the dense teacher pays for each example, which for a question are all its windows."""

    encoded: EncodedTexts
    labels: list[Label]
    example: Int64[np.ndarray, " inputs"]
    """Which example each input belongs to."""
    dense_flops: Float[np.ndarray, " examples"]
    """Padding-free."""
    padded_flops: Float[np.ndarray, " examples"]
    """Every input padded to the longest that the teacher takes."""
    lengths: Float[np.ndarray, " examples"]
    """Tokens, as far as the teacher reads them."""

    @classmethod
    def of(cls, classifier: Classifier, examples: Sequence[Example], *, teacher: ModelConfig) -> "Split":
        """Encode labelled examples."""
        rows = label_rows(classifier.encoder, examples, classifier.config)
        full = label_rows(classifier.encoder, examples, teacher)
        lengths, cost = np.asarray(full.encoded.lengths), CostModel(teacher)
        full_example = examples_of(full.labels)
        return cls(
            encoded=rows.encoded,
            labels=rows.labels,
            example=examples_of(rows.labels),
            dense_flops=np.bincount(full_example, weights=cost.dense_flops(lengths)),
            padded_flops=np.bincount(
                full_example, weights=cost.padded_dense_flops(lengths, teacher.max_length)
            ),
            lengths=np.bincount(full_example, weights=lengths),
        )


class Measured:
    """One model on one split: what every head answers at each prune scale, asked once."""

    def __init__(self, classifier: Classifier, split: Split) -> None:
        self.config, self.engine = classifier.config, classifier.all_heads_engine
        self.split = split
        self._answers: dict[float, AllAnswers] = {}

    def outcome(self, setting: Setting) -> tuple[EngineOutput, Float[np.ndarray, " examples"]]:
        """Answers to every input and FLOPs of every example at a setting."""
        scale = setting.prune_scale if self.config.prune else 0.0
        if scale not in self._answers:
            self._answers[scale] = self.engine.answer_all_heads(self.split.encoded, scale=scale)
        output, flops = simulate(self.config, self._answers[scale], setting)
        return output, np.bincount(self.split.example, weights=flops)

    def point(self, setting: Setting) -> dict[str, Any]:
        """Quality and padding-free speed-up."""
        output, flops = self.outcome(setting)
        scores = scores_of(output.logits, self.split.labels, self.config)
        return {
            "quality": next(iter(scores.values())),
            "flops_speedup": flops_speedup(self.split.dense_flops, flops),
        }

    def row(self, setting: Setting, buckets: Buckets) -> dict[str, Any]:
        """Everything that a table may want to say about a setting."""
        output, flops = self.outcome(setting)
        split, lengths = self.split, self.split.lengths
        return {
            "prune_scale": setting.prune_scale if self.config.prune else 0.0,
            "exit_threshold": setting.exit_threshold if self.config.exit else None,
            **self._numbers(output, flops, lengths > 0),
            "flops_speedup_padded": flops_speedup(split.padded_flops, flops),
            "mean_layers": float((output.exit_layer + 1).mean()),
            "tokens_alive": output.num_tokens.mean(axis=0).tolist(),
            "exit_distribution": np.bincount(
                output.exit_layer, minlength=self.config.backbone.num_hidden_layers
            ).tolist(),
            "by_length": {
                name: self._numbers(output, flops, (lengths >= low) & (lengths <= high))
                for name, (low, high) in buckets.items()
            },
        }

    def _numbers(self, output: EngineOutput, flops: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
        rows = np.flatnonzero(chosen[self.split.example])
        if not len(rows):
            return {"num_examples": 0}
        labels = [self.split.labels[int(row)] for row in rows]
        scores = scores_of(output.logits[rows], labels, self.config)
        dense = self.split.dense_flops[chosen]
        return {
            "num_examples": int(chosen.sum()),
            "quality": next(iter(scores.values())),
            "scores": scores,
            "gflops": float(flops[chosen].mean()) / 1e9,
            "dense_gflops": float(dense.mean()) / 1e9,
            "flops_speedup": flops_speedup(dense, flops[chosen]),
        }


def measure(
    classifier: Classifier,
    *,
    validation: Sequence[Example],
    test: Sequence[Example],
    buckets: Buckets,
    planned: ModelConfig,
    dense: ModelConfig,
    teacher_quality: float | None,
    thresholds: Sequence[float],
    max_drops: Sequence[float],
) -> dict[str, Any]:
    """Every setting on validation and test, and the rows that have a name.

    Args:
        classifier: the trained model.
        validation: rows that choose settings.
        test: rows that no setting was chosen on.
        buckets: lengths by which the test is split.
        planned: what was to be trained, before a setting was chosen.
        dense: the dense model that FLOPs are compared with.
        teacher_quality: of the fine-tuned dense model on ``validation``; None: this model is it.
        thresholds: exit thresholds that get a row.
        max_drops: points that the fastest setting may lose against the teacher on ``validation``.
    """
    config = classifier.config
    chosen_by, tested = (
        Measured(classifier, Split.of(classifier, rows, teacher=dense)) for rows in (validation, test)
    )
    curve = [
        {
            "prune_scale": setting.prune_scale,
            "exit_threshold": setting.exit_threshold,
            "validation": chosen_by.point(setting),
            "test": tested.point(setting),
        }
        for setting in settings_of(config)
    ]
    own_quality = chosen_by.point(DENSE)["quality"]
    wanted = own_quality if teacher_quality is None else teacher_quality
    named: dict[str, Setting | None] = {OWN_DENSE: DENSE, **_as_trained(planned, thresholds)}
    if config.prune or config.exit:
        named[CALIBRATED] = default_setting(config)
    for drop in max_drops:
        named[within(drop)] = fastest(curve, floor=wanted - drop / 100)
    return {
        "metric": METRIC_NAMES[config.problem_type],
        "num_layers": config.backbone.num_hidden_layers,
        "engine": classifier.engine.name,
        "validation_quality": own_quality,
        "num_validation": len(validation),
        "curve": curve,
        "rows": [
            {
                "setting": name,
                "validation_quality": chosen_by.point(setting)["quality"],
                **tested.row(setting, buckets),
            }
            for name, setting in named.items()
            if setting is not None
        ],
        "unreached": [name for name, setting in named.items() if setting is None],
    }


def settings_of(config: ModelConfig) -> list[Setting]:
    """Every setting that is tried of a model."""
    return [
        Setting(prune_scale=scale, exit_threshold=threshold)
        for scale in (PRUNE_SCALES if config.prune else (0.0,))
        for threshold in thresholds_of(config)
    ]


def fastest(curve: Sequence[Mapping[str, Any]], *, floor: float) -> Setting | None:
    """The setting of fewest FLOPs whose quality on validation reaches the floor; None where none does."""
    # Shares of counted rows are no round numbers: a loss of exactly what is allowed must pass.
    good = [point for point in curve if point["validation"]["quality"] >= floor - 1e-9]
    if not good:
        return None
    best = max(good, key=lambda point: (point["validation"]["flops_speedup"], point["validation"]["quality"]))
    return Setting(prune_scale=best["prune_scale"], exit_threshold=best["exit_threshold"])


def _as_trained(config: ModelConfig, thresholds: Sequence[float]) -> dict[str, Setting]:
    """Pruning as trained, at every exit threshold that is asked for; patience has one of its own."""
    if config.exit is not None and config.exit.criterion != "patience":
        scale = 1.0 if config.prune else 0.0
        return {f"tau={value:g}": Setting(prune_scale=scale, exit_threshold=value) for value in thresholds}
    return {AS_TRAINED: default_setting(config)} if config.prune or config.exit else {}

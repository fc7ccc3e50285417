"""From a model folder and held-out texts to a certified setting, written into the folder."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, cast

import numpy as np
from safetensors.torch import save_file

from magic_pyramid.certify import (
    Certificate,
    Goal,
    answers_of,
    certify,
    fit_temperatures,
    outcomes_of,
    wanted_answers,
)
from magic_pyramid.certify.certificate import INFO_KEY, setting_of
from magic_pyramid.certify.certificate import asked_thresholds as asked
from magic_pyramid.certify.frontier import Candidate
from magic_pyramid.certify.search import check_rows, halves
from magic_pyramid.checkpoint import fold_stored, fold_temperatures, read_seen_rows, read_tensors
from magic_pyramid.checkpoint.save import WEIGHTS_FILE
from magic_pyramid.classifier import Classifier, EngineName
from magic_pyramid.config import ModelConfig
from magic_pyramid.data import Example, row_fingerprints
from magic_pyramid.engine.exported import exported_for
from magic_pyramid.engine.interface import AllAnswers, Setting, check_classifies
from magic_pyramid.errors import ConfigError, InputError
from magic_pyramid.fitting import machine
from magic_pyramid.metrics import Label
from magic_pyramid.report.card import with_calibration
from magic_pyramid.sweep import PRUNE_SCALES, exit_statistics
from magic_pyramid.tokenization import EncodedTexts
from magic_pyramid.tuning.folder import open_folder, rewrite_config

TIMED_TEXTS = 64
"""Calibration texts whose latency is measured, each alone."""
_WARM_UP = 8


def certify_folder(
    folder: str | Path,
    examples: Sequence[Example],
    *,
    goal: Goal,
    engine: EngineName = "auto",
    allow_overlap: bool = False,
    provenance: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Certificate:
    """Find a setting that keeps a promise, and make it the folder's default.

    All heads answer all texts once for each prune scale. On half of the texts a temperature is fitted to
    each head and folded into its weights, and settings are searched; the other half tests them. An export for
    the native engine keeps its weights as they are.

    Args:
        folder: a model folder, or an export for the native engine.
        examples: held-out texts, not seen in training; labelled if the goal is.
        goal: what to find.
        engine: what answers, and is timed where latency is the goal.
        allow_overlap: go on even if some texts were seen in training; the certificate says so.
        provenance: what else the certificate is to say: data, split, fingerprint, command.
        say: told what happens.

    Raises:
        InputError: it is no folder, or the texts are too few, seen in training, of one class, or with other
            labels than the model's.
        ConfigError: the model has nothing to choose, or no setting reaches the target.
        CheckpointError: the folder cannot be read or written.
    """
    classifier = open_folder(folder, engine, "calibrate")
    config, path = classifier.config, Path(folder)
    _check_model(config, goal)
    labels = _labels(examples, config) if goal.is_labelled else []
    check_rows(len(examples), goal)
    rows = row_fingerprints(examples)
    overlap = _check_overlap(path, examples, rows, allow_overlap=allow_overlap)
    repeated = len(rows) - len(np.unique(rows))
    if repeated:
        say(
            f"{repeated:,} of {len(rows):,} rows repeat another; the promise counts each as drawn by itself, "
            "so leave out copies that the traffic does not have"
        )
    encoded = classifier.encode([example.inputs for example in examples])
    search, _ = halves(len(examples), goal.seed)
    temperatures: dict[int, float] = {}
    if exported_for(path) is None:
        # An earlier calibration fitted them, and chose the stored scale, on rows that this one may test.
        fold_temperatures(classifier.model, _undone(classifier.info))
        as_trained = 1.0 if config.prune else 0.0
        answers = classifier.all_heads_engine.answer_all_heads(
            encoded.select(search.tolist()), scale=as_trained
        )
        temperatures = _temperatures(config, answers, [labels[row] for row in search] if labels else None)
        fold_temperatures(classifier.model, temperatures)
        classifier.renew_engine()

    def answer(scale: float) -> AllAnswers:
        say(f"all heads answer {len(examples):,} texts at prune scale {scale:g}")
        return classifier.all_heads_engine.answer_all_heads(encoded, scale=scale)

    answered = {0.0: answer(0.0)}
    dense = answers_of(answered[0.0].logits[config.backbone.num_hidden_layers - 1], config.problem_type)
    wanted = wanted_answers(labels, config) if goal.is_labelled else dense
    dense_right = (dense == wanted).all(axis=1)
    _check_labels(dense_right, config)
    if config.prune:
        answered |= {scale: answer(scale) for scale in PRUNE_SCALES if scale > 0.0}
    certificate = certify(
        config,
        {
            scale: outcomes_of(config, answers, wanted, prune_scale=scale)
            for scale, answers in answered.items()
        },
        dense_right,
        goal,
        latency=_latency(classifier, encoded.select(search.tolist()).over_lengths(TIMED_TEXTS)),
    ).replace(
        provenance={
            **(provenance or {}),
            "overlap_with_training": overlap,
            "repeated_rows": repeated,
            "engine": classifier.engine.name,
            "precision": getattr(classifier.engine, "precision", "fp32"),
            "machine": machine(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        },
    )
    _write(path, classifier, certificate, answered, temperatures, float(dense_right.mean()))
    return certificate


def _check_model(config: ModelConfig, goal: Goal) -> None:
    check_classifies(config, what="calibrate")
    if config.problem_type == "regression":
        answers_of(np.zeros((1, 1), np.float32), config.problem_type)
    if not config.prune and not config.exit_layers:
        raise ConfigError(
            "the model has neither pruning nor exits, so there is nothing to calibrate; train it with "
            "another preset"
        )
    if goal.per_layer and config.exit is not None and config.exit.criterion == "patience":
        raise ConfigError(
            "exit.criterion is 'patience', which counts heads in a row: one threshold holds for all of them; "
            "leave thresholds by layer out"
        )


def _labels(examples: Sequence[Example], config: ModelConfig) -> list[Label]:
    labels = [example.label for example in examples if example.label is not None]
    if len(labels) < len(examples) or not labels:
        raise InputError(
            f"{len(examples) - len(labels)} of {len(examples)} calibration rows have no label; label them, "
            "or use --unlabelled"
        )
    if config.problem_type == "single_label" and len(set(labels)) == 1:
        name = config.labels[int(labels[0])]  # type: ignore[arg-type]
        raise InputError(
            f"every calibration row has the label {name!r}, so they are not like what the model will see; "
            "give rows of all classes, in their usual proportion"
        )
    return cast("list[Label]", labels)


def _check_labels(dense_right: np.ndarray, config: ModelConfig) -> None:
    chance = 1 / config.num_labels if config.problem_type == "single_label" else 0.0
    if dense_right.mean() < chance:
        raise InputError(
            f"the dense model is right on {100 * dense_right.mean():.1f} % of the calibration rows, which "
            f"guessing beats ({100 * chance:.1f} %): the labels are not those the model learned; check their "
            "names and order"
        )


def _check_overlap(
    folder: Path, examples: Sequence[Example], rows: np.ndarray, *, allow_overlap: bool
) -> int | None:
    """Rows that were seen in training; None where the folder does not say."""
    seen = read_seen_rows(folder)
    if seen is None:
        return None
    found = {split: np.flatnonzero(np.isin(rows, names)) for split, names in seen.items()}
    both = np.unique(np.concatenate([*found.values(), np.zeros(0, np.int64)]))
    if len(both) and not allow_overlap:
        counts = ", ".join(f"{len(places):,} in its {split} rows" for split, places in found.items())
        first = int(both[0])
        raise InputError(
            f"{len(both):,} of {len(rows):,} calibration rows were seen in training ({counts}), for example "
            f"row {first + 1}: {examples[first].text[:60]!r}; a promise needs rows that trained nothing and "
            "chose no weights: give other rows, or --allow-overlap, and the certificate says so"
        )
    return len(both)


def _temperatures(
    config: ModelConfig, answers: AllAnswers, labels: Sequence[Label] | None
) -> dict[int, float]:
    """Of every head, from labels; without them, of the exit heads, from the final head's answers."""
    last = config.backbone.num_hidden_layers - 1
    if labels is not None:
        return fit_temperatures(answers.logits, wanted_answers(labels, config), config.problem_type)
    exits = {layer: logits for layer, logits in answers.logits.items() if layer != last}
    return fit_temperatures(exits, answers_of(answers.logits[last], config.problem_type), config.problem_type)


def _undone(info: Mapping[str, Any]) -> dict[int, float]:
    """Temperatures that take back those in the folder's weights."""
    return {int(layer): 1.0 / value for layer, value in info.get("temperatures", {}).items()}


def _latency(classifier: Classifier, texts: EncodedTexts) -> Callable[[Candidate], float]:
    def measure(candidate: Candidate) -> float:
        config = classifier.config
        setting = setting_of(config, candidate.prune_scale, asked(config, candidate.thresholds))
        times = []
        for row in [*range(min(_WARM_UP, len(texts))), *range(len(texts))]:
            started_s = perf_counter()
            classifier.engine.run(texts.select([row]), setting=setting, batch_size=1)
            times.append(1000 * (perf_counter() - started_s))
        return median(times[min(_WARM_UP, len(texts)) :])

    return measure


def _write(
    folder: Path,
    classifier: Classifier,
    certificate: Certificate,
    answered: Mapping[float, AllAnswers],
    temperatures: Mapping[int, float],
    dense_quality: float,
) -> None:
    """The certified setting as default, the certificate, the weights with their temperatures, the card."""
    config, certified = classifier.config, certificate.speed("certified")
    is_exported = exported_for(folder) is not None
    setting = certified.setting(config)
    exits, prune = config.exit, config.prune
    changed = config.replace(
        exit=exits and exits.replace(threshold=setting.exit_threshold, tested_layers=setting.exit_layers),
        prune=prune and prune.replace(scale=certified.prune_scale),
    )
    calibration: dict[str, Any] = {
        "kind": "certified",
        "exit_threshold": list(setting.exit_threshold)
        if isinstance(setting.exit_threshold, tuple)
        else setting.exit_threshold,
        "prune_scale": certified.prune_scale,
        "flops_speedup": certified.flops_speedup,
        "num_examples": certificate.num_rows,
        "exit_statistics": _statistics(config, setting, answered[certified.prune_scale]),
        INFO_KEY: certificate.to_dict(),
    }
    if certificate.is_labelled:
        calibration |= {"dense_quality": dense_quality, "quality": dense_quality - certified.drop / 100}

    def also(staging: Path) -> None:
        undone = _undone(classifier.info)
        if not is_exported and (undone or temperatures):
            tensors = fold_stored(config, read_tensors(folder / WEIGHTS_FILE), undone)
            tensors = fold_stored(config, tensors, temperatures)
            save_file(tensors, staging / WEIGHTS_FILE, {"format": "pt"})
        if (folder / "README.md").is_file():
            card = (folder / "README.md").read_text(encoding="utf-8")
            (staging / "README.md").write_text(with_calibration(card, calibration), encoding="utf-8")

    info = {**classifier.info, "calibration": calibration, "tuning": {}}
    if not is_exported:
        info["temperatures"] = {str(layer): value for layer, value in temperatures.items()}
    rewrite_config(folder, changed, info=info, also=also)


def _statistics(config: ModelConfig, setting: Setting, answers: AllAnswers) -> dict[str, Any] | None:
    """For tune-engine, which chooses among heads of one threshold."""
    exits = config.exit
    if exits is None or exits.criterion == "patience" or not isinstance(setting.exit_threshold, float):
        return None
    every = Setting(prune_scale=setting.prune_scale, exit_threshold=setting.exit_threshold)
    return exit_statistics(config, answers, every).to_dict()

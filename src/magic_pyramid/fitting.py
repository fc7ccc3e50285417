"""From an encoder and labelled texts to a finished model folder: train, calibrate, measure, save."""

import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from magic_pyramid.calibration import MAX_ROWS
from magic_pyramid.checkpoint import LoadedModel, load_model, read_seen_rows, with_config, write_seen_rows
from magic_pyramid.classifier import Classifier
from magic_pyramid.config import STAGE_NAMES, ModelConfig, PruneConfig, SpanConfig, TrainConfig
from magic_pyramid.data import LabelledData, row_fingerprints
from magic_pyramid.errors import ConfigError, InputError, nearest
from magic_pyramid.presets import apply_preset, find_preset, find_recipe
from magic_pyramid.report.card import CardContent, model_card
from magic_pyramid.tokenization import TextEncoder
from magic_pyramid.training import TrainEvent, TrainReport, train
from magic_pyramid.training.processes import Processes, uses_cpu
from magic_pyramid.training.stages import stages_of
from magic_pyramid.training.student import meet_by_depth

LONGEST_BY_DEFAULT = 256
"""Where no `max_length` is given, texts are cut here at the latest."""
LONGEST_WINDOW = 384
"""The same for the windows in which contexts of questions are read."""
AGREEMENT_SHARE = 0.05
"""Two numbers agree that differ by at most this share of the range of the train labels (regression)."""
COVERED_SHARE = 0.98
"""Share of the train texts that the default `max_length` leaves whole, as far as the limit allows."""
FINAL_SHARE = 0.75
"""Of an average token's importance: no ramp of thresholds ends above it unless its end is given."""
_PARTS = ("prune", "exit", "span", "backbone")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPlan:
    """What will be trained, and how."""

    model: ModelConfig
    train: TrainConfig
    lengths: Int64[np.ndarray, " rows"]
    """Tokens of each train text, as far as the model reads it."""


def plan_fit(
    base: ModelConfig,
    encoder: TextEncoder,
    data: LabelledData,
    *,
    preset: str = "magic_pyramid",
    config: TrainConfig | None = None,
    model_changes: Mapping[str, Any] | None = None,
    lengths: Int64[np.ndarray, " rows"] | None = None,
) -> FitPlan:
    """What ``fit`` would train from an encoder of this config; ``lengths`` are ``train_lengths``, if known.

    Raises:
        ConfigError: a setting is unknown or impossible.
        InputError: there are no training rows.
    """
    chosen = find_preset(preset)
    if not data.splits.get("train"):
        raise InputError(f"{data.name} has no training rows; give a train split")
    config = config or find_recipe(chosen.recipe)
    if lengths is None:
        lengths = train_lengths(base, encoder, data)
    longest = LONGEST_WINDOW if data.problem_type == "span" else LONGEST_BY_DEFAULT
    limit = min(longest, base.backbone.max_length)
    as_preset = apply_preset(_model_config(base, encoder, data, dropout=config.dropout), chosen)
    defaults = {"max_length": _default_length(lengths, limit=limit), **_tolerance(as_preset, data)}
    given = model_changes or {}
    model = _changed(as_preset, {**defaults, **given})
    read = lengths.clip(max=model.max_length)
    model = _changed(model, {**_final_threshold(model, read), **given})
    train = meet_by_depth(_enough_steps(config, read), model, read)
    return FitPlan(model=model, train=train, lengths=read)


def fit(
    *,
    model: str,
    data: LabelledData,
    output: Path,
    preset: str = "magic_pyramid",
    config: TrainConfig | None = None,
    model_changes: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_event: Callable[[TrainEvent], None] | None = None,
    command: str = "",
    device: str | None = None,
    shared: Path | None = None,
) -> dict[str, Any]:
    """Train a classifier and save it, calibrated and with its model card, in ``output``.

    Gives the report; under ``torchrun`` only the main process saves, and the others give an empty one.

    Args:
        model: folder or hub name of an encoder, ours or Hugging Face's; of ours, finished stages can be
            skipped with 0 epochs.
        data: labelled texts; test splits are never looked at.
        output: the model folder; work in progress lies in its ``.training``.
        preset: the method, a key of ``PRESETS``.
        config: how to train; None: the preset's recipe.
        model_changes: fields over the preset's, such as ``{"prune.temperature": 1e-3, "max_length": 64}``.
        resume: go on where an interrupted run of the same settings stopped.
        on_event: called as training goes.
        command: what the user typed, for the model card.
        device: "cpu"; None, and any other name, for the best there is.
        shared: folder of stages that several trainings have in common; each is trained once.

    Raises:
        ConfigError: a setting is unknown, impossible, or not what the interrupted run had.
        InputError: the data does not fit.
        CheckpointError: the encoder cannot be loaded.
    """
    config = config or find_recipe(find_preset(preset).recipe)
    loaded = load_model(model, seed=config.seed)
    encoder = TextEncoder.from_pretrained(loaded.folder)
    plan = plan_fit(
        loaded.model.config, encoder, data, preset=preset, config=config, model_changes=model_changes
    )
    config = plan.train
    # A checkout may move on while a model trains.
    started, source = datetime.now(UTC), commit()
    reconfigured = with_config(loaded.model, plan.model, seed=config.seed)
    new_names = (*loaded.info["new_parameters"], *reconfigured.fresh)
    if config.epochs_of("finetune") == 0 and any(name.startswith("final_head.") for name in new_names):
        _check_final_head_learns(config, plan.model, loaded)
        # There is no fine-tuned model that could teach.
        config = config.replace(distill_weight=0.0, rank_weight=0.0)
    new = reconfigured.model
    report = train(
        model=new, encoder=encoder, data=data, output=output, config=config, resume=resume, on_event=on_event,
        device=device, shared=shared,
        has_new_exit_heads=any(name.startswith("exit_heads.") for name in reconfigured.fresh),
    )  # fmt: skip
    if not Processes.join(use_cpu=uses_cpu(device)).is_main:
        return {}
    earlier = loaded.info.get("provenance") or {}
    provenance = {
        **_cut_from(earlier.get("base_layers", plan.model.backbone.num_hidden_layers), new.config),
        "command": command,
        "preset": preset,
        "base_model": Path(model).name,
        "date": started.strftime("%Y-%m-%d"),
        "commit": source,
        **_provenance(data, config, report, device=next(new.parameters()).device.type),
    }
    classifier = Classifier(new, encoder, info={"provenance": provenance, "calibration": {}})
    return _finish(classifier, data, output=output, base=loaded.folder, config=config, report=report)


def _check_final_head_learns(config: TrainConfig, model: ModelConfig, given: LoadedModel) -> None:
    """Raise ConfigError where a final head that `finetune` skips would stay at random, or teach a student."""
    if config.epochs_of("distill_student") > 0 and config.distill_weight > 0:
        problem = "distill_student would learn from a final head that starts at random"
    elif not any("final_head" in stage.trains for stage in stages_of(model, config)):
        problem = "the final head would stay at random"
    else:
        return
    old = given.model.config
    has = "has no classifier"
    if not given.info["new_parameters"]:
        has = f"ends in a {old.final_head_kind!r} head for the labels {', '.join(old.labels)}"
    raise ConfigError(
        f"{problem}: finetune has 0 epochs, and the model given {has}, while a {model.final_head_kind!r} "
        f"head for {', '.join(model.labels)} is needed; finetune some epochs, or give a model that is "
        "fine-tuned for these labels in this order (--labels names those of whole-number labels) and keep "
        "its kind of head (--set model.final_head=cls)"
    )


def _cut_from(base_layers: int, model: ModelConfig) -> dict[str, int]:
    """What a student's folder says about the depth of the encoder it is a part of."""
    return {"base_layers": base_layers} if base_layers > model.backbone.num_hidden_layers else {}


def _provenance(
    data: LabelledData, config: TrainConfig, report: TrainReport, *, device: str
) -> dict[str, Any]:
    """What a result of this training must be able to say about itself."""
    return {
        "data": data.name,
        "train_rows": len(data.splits["train"]),
        "fingerprints": {
            name: data.fingerprint(name) for name in ("train", "validation") if data.splits.get(name)
        },
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "dtype": arithmetic(device, precision=config.precision),
        "seed": config.seed,
        "train_config": config.to_dict(),
        "stages": [_stage_row(stage) for stage in report.to_dict()["stages"]],
    }


def _finish(
    classifier: Classifier,
    data: LabelledData,
    *,
    output: Path,
    base: Path,
    config: TrainConfig,
    report: TrainReport,
) -> dict[str, Any]:
    """Calibrate on validation, measure there, write the folder and which rows were seen."""
    validation = data.splits.get("validation") or []
    rows = []
    if validation:
        # Whoever asked for a speed-up and has no exits got it in training: nothing is left to choose.
        if classifier.config.exit or (classifier.config.prune and config.target_speedup is None):
            classifier.calibrate(validation, max_drop=config.max_drop, target_speedup=config.target_speedup)
            classifier.info["calibration"]["split"] = "held out of train" if data.held_out else "validation"
        # At even distances: a file may be sorted by label.
        measured = validation[:: -(-len(validation) // MAX_ROWS)]
        rows = [{"setting": "validation", **classifier.evaluate(measured, repeats=0)}]
    provenance = classifier.info["provenance"]
    content = CardContent(
        name=output.name,
        base_model=provenance["base_model"],
        datasets=(data.name,),
        is_pair=any(example.text_pair is not None for example in data.splits["train"][:10]),
        rows=rows,
        provenance={
            key: provenance[key] for key in ("command", "commit", "machine", "threads", "dtype", "seed")
        },
        calibration=classifier.info["calibration"],
        stages=provenance["stages"],
    )
    seen = {
        split: row_fingerprints(data.splits[split])
        for split in ("train", "validation")
        if data.splits.get(split)
    }
    # Before the model: a model without its rows would be certified on rows that it was trained on.
    write_seen_rows(output, seen, earlier=read_seen_rows(base))
    classifier.model.to("cpu")
    classifier.save_pretrained(output, readme=model_card(classifier.config, content))
    return {
        "output": str(output),
        "preset": provenance["preset"],
        "calibration": classifier.info["calibration"],
        "validation": rows[0] if rows else None,
        "training": report.to_dict(),
    }


def _model_config(
    base: ModelConfig, encoder: TextEncoder, data: LabelledData, *, dropout: float | None
) -> ModelConfig:
    """The encoder with the data's task on it; pruning and exits come from the preset."""
    backbone = base.backbone
    if backbone.sep_token_id is None and encoder.sep_token_id is not None:
        backbone = backbone.replace(sep_token_id=encoder.sep_token_id)
    if dropout is not None:
        backbone = backbone.replace(hidden_dropout=dropout, attention_dropout=dropout)
    span = (base.span or SpanConfig()) if data.problem_type == "span" else None
    return ModelConfig(
        backbone=backbone,
        labels=data.labels,
        problem_type=data.problem_type,
        max_length=base.max_length,
        span=span and span.replace(no_answer_threshold=_no_answer_threshold(data)),
    )


def _no_answer_threshold(data: LabelledData) -> float | None:
    """0 where train has questions without an answer: the likelier of the two counts; None elsewhere."""
    return None if all(example.label for example in data.splits["train"]) else 0.0


def train_lengths(base: ModelConfig, encoder: TextEncoder, data: LabelledData) -> Int64[np.ndarray, " rows"]:
    """Tokens of each train text, as far as the backbone can read."""
    texts = [example.inputs for example in data.splits["train"]]
    return np.asarray(encoder.encode(texts, max_length=base.backbone.max_length).lengths)


def _default_length(lengths: Int64[np.ndarray, " rows"], *, limit: int) -> int:
    return min(limit, max(16, int(np.ceil(np.quantile(lengths, COVERED_SHARE) / 8)) * 8))


def _tolerance(config: ModelConfig, data: LabelledData) -> dict[str, float]:
    """How near two numbers must be to agree, where heads that agree let a text leave."""
    if config.exit is None or config.problem_type != "regression":
        return {}
    numbers = [float(example.label) for example in data.splits["train"]]  # type: ignore[arg-type]
    return {"exit.patience_tolerance": AGREEMENT_SHARE * (max(numbers) - min(numbers))}


def _final_threshold(config: ModelConfig, lengths: Int64[np.ndarray, " rows"]) -> dict[str, float]:
    """Where the ramp of thresholds ends: among many tokens each is less important, 1 / n on average."""
    prune = config.prune
    if not isinstance(prune, PruneConfig) or prune.score_norm not in ("kept", "input"):
        return {}
    return {
        "prune.final_threshold": min(prune.final_threshold, round(FINAL_SHARE / float(lengths.mean()), 6))
    }


def _changed(config: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """The config with dotted fields replaced.

    Raises:
        ConfigError: a part or field does not exist, or the method does not have that part.
    """
    nested = config.to_dict()
    for key, value in changes.items():
        owner, _, name = key.rpartition(".")
        if owner and owner not in _PARTS:
            raise ConfigError(f"there is no part {owner!r} of a model; {nearest(owner, _PARTS)}")
        part = nested[owner] if owner else nested
        if part is None and owner == "span":
            raise ConfigError(f"{key} is set, but this data asks for no spans; leave it out")
        if part is None:
            raise ConfigError(f"{key} is set, but this preset has no {owner}; choose a preset that has it")
        part[name] = value
    return ModelConfig.from_dict(nested)


def _enough_steps(config: TrainConfig, lengths: Int64[np.ndarray, " rows"]) -> TrainConfig:
    """Repeat a small train split until each stage makes about ``min_steps`` steps."""
    batches = max(len(lengths) / config.max_sequences_per_batch, lengths.sum() / config.tokens_per_batch)
    per_epoch = max(1.0, batches / config.gradient_accumulation)
    epochs = {
        name: max(config.epochs_of(name), round(config.min_steps / per_epoch))
        if config.epochs_of(name)
        else 0.0
        for name in STAGE_NAMES
    }
    return config.replace(
        epochs={name: min(value, max(10.0, config.epochs_of(name))) for name, value in epochs.items()}
    )


def _stage_row(stage: Mapping[str, Any]) -> dict[str, Any]:
    kept = stage["kept"] or {}
    numbers = {key: kept[key] for key in ("quality", "loss", "gflops", "kept_tokens") if key in kept}
    return {
        "stage": stage["name"],
        "steps": stage["num_steps"],
        "seconds": round(stage["seconds"], 1),
        **numbers,
    }


def machine() -> str:
    """Processor, accelerator and system, for provenance."""
    names = [line for line in _cpu_info() if line]
    parts = [names[0] if names else platform.processor() or platform.machine()]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, platform.system()])


def arithmetic(device: str, *, precision: str = "fp32") -> str:
    """What PyTorch computes in on a device, for provenance."""
    rounds = device.startswith("cuda") and torch.get_float32_matmul_precision() != "highest"
    return "fp32, matrix products in TF32" if rounds and precision == "fp32" else precision


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]


@cache
def commit() -> str | None:
    """Commit of the source tree this runs from, when it was first asked; None where it is installed."""
    # Installed, the library may lie in the folder of another project, whose commit is not meant.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=12")


def _git(*words: str) -> str | None:
    """What git says about this folder; None where it fails."""
    try:
        found = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()

"""Read a model folder or a hub name: ours as it was saved, a Hugging Face encoder as a dense model."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from torch import Tensor

from magic_pyramid.backbones import SPAN_SUFFIX, backbone_config, backbone_problems, from_huggingface
from magic_pyramid.checkpoint.folder import finish_save
from magic_pyramid.checkpoint.save import MODEL_TYPE, PROBLEM_TYPES, WEIGHTS_FILE
from magic_pyramid.checkpoint.storage import expand, read_tensors
from magic_pyramid.checkpoint.typed import type_problems
from magic_pyramid.config import FORMAT_VERSION, SPAN_LABELS, ModelConfig, SpanConfig
from magic_pyramid.errors import CheckpointError, ConfigError, nearest
from magic_pyramid.folder_info import CONFIG_FILE, info_of, info_problems, read_object
from magic_pyramid.model import PyramidModel

INDEX_FILE = "model.safetensors.index.json"
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "README.md")
HEAD = "final_head."
LONGEST_WINDOW = 384
"""Tokens of a window of a Hugging Face checkpoint, as those are usually trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model and what its folder says about it."""

    model: PyramidModel
    info: dict[str, Any]
    """``calibration``, ``provenance`` and ``tuning`` as saved; ``new_parameters``: names the checkpoint did
    not have; ``ignored``: names of its weights that a classifier does not need."""
    folder: Path
    """Where the files lie, the tokenizer's among them."""


def load_model(source: str | Path, *, seed: int = 0) -> LoadedModel:
    """Load a model folder or a hub name, ours or Hugging Face's; the model is in evaluation mode.

    A checkpoint without a classifier gets a head initialised from ``seed``.

    Raises:
        CheckpointError: the folder is missing, damaged, foreign, newer, or does not fit its config.
    """
    folder = _find(source)
    finish_save(folder)
    config = read_object(folder / CONFIG_FILE)
    read = _load_ours if config.get("model_type") == MODEL_TYPE else _load_huggingface
    model, info = read(folder, config, seed)
    return LoadedModel(model=model.eval(), info=info, folder=folder)


def _load_ours(folder: Path, config: Mapping[str, Any], seed: int) -> tuple[PyramidModel, dict[str, Any]]:
    """``seed`` is not used: a folder of ours has every parameter."""
    where = folder / CONFIG_FILE
    _check_version(config.get("format_version"), where)
    wrong = [*type_problems(ModelConfig, config.get(MODEL_TYPE), MODEL_TYPE)]
    wrong += info_problems(config)
    if wrong:
        raise CheckpointError(f"{where}: {'; '.join(wrong)}")
    model_config = _building(lambda: ModelConfig.from_dict(config[MODEL_TYPE]), where)
    wrong = backbone_problems(model_config.backbone)
    if wrong:
        raise CheckpointError(
            f"{where}: {'; '.join(f'{MODEL_TYPE}.backbone.{problem}' for problem in wrong)}"
        )
    tensors = _read_weights(folder)
    model = _outline(model_config)
    _check_tensors(model, tensors, where=folder, may_miss=())
    model.load_state_dict(tensors, assign=True)
    return model, {**info_of(config), "new_parameters": [], "ignored": []}


def _load_huggingface(
    folder: Path, config: Mapping[str, Any], seed: int
) -> tuple[PyramidModel, dict[str, Any]]:
    where = folder / CONFIG_FILE
    model_config = _building(lambda: _dense_config(config), where)
    translated = from_huggingface(
        model_config.backbone, _read_weights(folder), finds_spans=model_config.span is not None
    )
    problems = [f"{name} is unexpected" for name in translated.unknown]
    problems += [f"{name} is missing or does not fit its neighbours" for name in translated.incomplete]
    _check_tensors(
        _outline(model_config), translated.tensors, where=folder, may_miss=(HEAD,), more_problems=problems
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PyramidModel(model_config)
    model.load_state_dict(translated.tensors, strict=False)
    new = [name for name in model.state_dict() if name not in translated.tensors]
    provenance = {"checkpoint": folder.name, "model_type": model_config.backbone.model_type}
    return model, {
        "calibration": {},
        "provenance": provenance,
        "tuning": {},
        "new_parameters": new,
        "ignored": list(translated.ignored),
    }


def _dense_config(config: Mapping[str, Any]) -> ModelConfig:
    backbone = backbone_config(config)
    if str((config.get("architectures") or [""])[0]).endswith(SPAN_SUFFIX):
        return ModelConfig(
            backbone=backbone,
            labels=SPAN_LABELS,
            problem_type="span",
            max_length=min(backbone.max_length, LONGEST_WINDOW),
            span=SpanConfig(),
        )
    labels = _labels(config)
    words = config.get("problem_type") or PROBLEM_TYPES["regression" if len(labels) == 1 else "single_label"]
    ours = {theirs: name for name, theirs in PROBLEM_TYPES.items()}
    if words not in ours:
        raise CheckpointError(f"problem_type is {words!r}; {nearest(str(words), ours)}")
    return ModelConfig.from_dict(
        {
            "backbone": backbone.to_dict(),
            "labels": labels,
            "problem_type": ours[words],
            "max_length": backbone.max_length,
        }
    )


def _labels(config: Mapping[str, Any]) -> list[str]:
    names = config.get("id2label")
    if names is None:
        count = config.get("num_labels", 2)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise CheckpointError(f"num_labels is {count!r}; it must be a whole number of at least 1")
        return [f"LABEL_{index}" for index in range(count)]
    if not isinstance(names, dict) or not names or set(names) != {str(index) for index in range(len(names))}:
        raise CheckpointError(f"id2label is {names!r}; it must give a name to each number from 0 up")
    return [str(names[str(index)]) for index in range(len(names))]


def _building(build: Callable[[], ModelConfig], where: Path) -> ModelConfig:
    try:
        return build()
    except (ConfigError, CheckpointError) as error:
        raise CheckpointError(f"{where}: {error}") from None


def _outline(config: ModelConfig) -> PyramidModel:
    """The model without memory for its weights: names and shapes only."""
    with torch.device("meta"):
        return PyramidModel(config)


def _check_tensors(
    model: PyramidModel,
    tensors: Mapping[str, Tensor],
    *,
    where: Path,
    may_miss: tuple[str, ...],
    more_problems: list[str] | None = None,
) -> None:
    """Raise one CheckpointError that lists every tensor that does not fit."""
    expected = model.state_dict()
    problems = list(more_problems or ())
    for name, wanted in expected.items():
        if name not in tensors:
            problems += [] if may_miss and name.startswith(may_miss) else [f"{name} is missing"]
        elif tensors[name].shape != wanted.shape:
            got, want = tuple(tensors[name].shape), tuple(wanted.shape)
            problems.append(f"{name} has shape {got}, its config wants {want}")
        elif not tensors[name].is_floating_point():
            problems.append(f"{name} is {tensors[name].dtype}; it must be a floating-point tensor")
    problems += [f"{name} is unexpected" for name in tensors if name not in expected]
    if problems:
        raise CheckpointError(f"{where}: the weights do not fit {CONFIG_FILE}: {'; '.join(problems)}")


def _check_version(version: object, where: Path) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CheckpointError(
            f"{where}: format_version is {version!r}; it must be a whole number of at least 1"
        )
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{where}: format_version is {version}, written by a newer release; this one reads up to "
            f"{FORMAT_VERSION}: pip install --upgrade magic-pyramid"
        )


def _read_weights(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS_FILE).is_file():
        files = [WEIGHTS_FILE]
    elif (folder / INDEX_FILE).is_file():
        files = _shards(folder / INDEX_FILE)
    else:
        raise CheckpointError(
            f"{folder} has no {WEIGHTS_FILE}; weights in other formats (pytorch_model.bin) are never "
            "unpickled: convert them with transformers (model.save_pretrained), or ask for safetensors"
        )
    stored: dict[str, Tensor] = {}
    for name in files:
        stored |= read_tensors(folder / name)
    try:
        return expand(stored)
    except CheckpointError as error:
        raise CheckpointError(f"{folder / files[0]}: {error}") from None


def _shards(index: Path) -> list[str]:
    names = read_object(index).get("weight_map")
    files = list(names.values()) if isinstance(names, dict) else []
    if not files or not all(isinstance(name, str) and Path(name).name == name for name in files):
        raise CheckpointError(f"{index}: weight_map must map tensor names to file names in the same folder")
    return sorted(set(files))


def _find(source: str | Path) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    name = str(source)
    if isinstance(source, Path) or folder.exists() or not HUB_NAME.fullmatch(name):
        raise CheckpointError(
            f"{name} is not a folder; give a model folder or a hub name such as 'user/model'"
        )
    try:
        return Path(
            huggingface_hub.snapshot_download(name, allow_patterns=list(HUB_FILES), ignore_patterns=["*/*"])
        )
    # The client raises many unrelated classes (names, network, access, disk); all mean the same here.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(
            f"{name} is neither a folder nor a model the hub gives ({reason}); "
            "check the name, the network, HF_TOKEN and HF_HUB_OFFLINE"
        ) from error

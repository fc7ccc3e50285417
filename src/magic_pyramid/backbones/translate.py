"""Walk a family's row: config and weights of Hugging Face to ours, and back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from magic_pyramid.activations import ACTIVATIONS
from magic_pyramid.backbones.families import (
    FAMILIES,
    IGNORED,
    LEGACY_SUFFIXES,
    REFUSED,
    SPAN_HEAD,
    Family,
)
from magic_pyramid.config import BackboneConfig
from magic_pyramid.errors import CheckpointError, nearest

SPAN_SUFFIX = "ForQuestionAnswering"
"""End of the names of the classes that find spans."""
_FLOATS = ("layer_norm_eps", "hidden_dropout", "attention_dropout")
_MAY_BE_ZERO = ("type_vocab_size", "pad_token_id", "sep_token_id")


def family(model_type: object) -> Family:
    """The row of a model type.

    Raises:
        CheckpointError: there is none; the supported types are listed.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = nearest(str(model_type), FAMILIES)
        raise CheckpointError(f"model_type is {model_type!r}, which is not supported; {known}")
    return FAMILIES[model_type]


def backbone_config(config: Mapping[str, Any]) -> BackboneConfig:
    """Our config from the content of a Hugging Face ``config.json``.

    Raises:
        CheckpointError: the model type, a value or a variant is not supported; all such fields are named.
    """
    row = family(config.get("model_type"))
    problems = [
        f"{key} is {config[key]!r}; {advice}"
        for key, (allowed, advice) in REFUSED.items()
        if config.get(key) not in allowed
    ]
    given = {name: config.get(where.key) for name, where in row.fields.items()}
    values = {name: row.fields[name].default if value is None else value for name, value in given.items()}
    if not isinstance(values["sep_token_id"], int):
        # Absent, or a list of end tokens of which none is the separator for sure.
        values["sep_token_id"] = config.get("sep_token_id")
    for name, where in row.fields.items():
        problems += _value_problems(name, values[name], where.key)
    dropout = config.get(row.dropout_key) if row.dropout_key else None
    if dropout is not None:
        problems += _value_problems("hidden_dropout", dropout, str(row.dropout_key))
    if values.get("relative_attention_num_buckets", 32) != 32:
        problems.append("relative_attention_num_buckets must be 32, which MPNet's code assumes")
    if problems:
        raise CheckpointError("; ".join(problems))
    return BackboneConfig(
        model_type=config["model_type"],
        **{**row.constants, **values, "embedding_size": _embedding_size(values)},
        classifier_dropout=_head_dropout(row, dropout, values["hidden_dropout"]),
        position_offset=values["pad_token_id"] + 1 if row.position_offset is None else row.position_offset,
    )


def _embedding_size(values: Mapping[str, Any]) -> int | None:
    size = values.get("embedding_size")
    return None if size is None or size == values["hidden_size"] else int(size)


def _head_dropout(row: Family, given: float | None, hidden_dropout: float) -> float:
    if given is not None:
        return float(given)
    return hidden_dropout if row.dropout_default is None else row.dropout_default


def _value_problems(name: str, value: object, key: str) -> list[str]:
    if name == "hidden_act":
        return [] if value in ACTIVATIONS else [f"{key} is {value!r}; {nearest(str(value), ACTIVATIONS)}"]
    if name in _FLOATS:
        is_share = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
        return [] if is_share else [f"{key} is {value!r}; it must be a number in [0, 1)"]
    if name in ("sep_token_id", "embedding_size") and value is None:
        return []
    smallest = 0 if name in _MAY_BE_ZERO else 1
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= smallest
    return [] if is_count else [f"{key} is {value!r}; it must be a whole number of at least {smallest}"]


def backbone_problems(backbone: BackboneConfig) -> list[str]:
    """One sentence for each value of our config that no encoder of its family can have."""
    row = family(backbone.model_type)
    problems = [p for name in row.fields for p in _value_problems(name, getattr(backbone, name), name)]
    if backbone.head_act not in ACTIVATIONS:
        problems.append(f"head_act is {backbone.head_act!r}; {nearest(backbone.head_act, ACTIVATIONS)}")
    return problems


def huggingface_config(backbone: BackboneConfig, *, finds_spans: bool = False) -> dict[str, Any]:
    """The Hugging Face ``config.json`` of a classifier, or of what finds spans, without its labels."""
    row = family(backbone.model_type)
    values = {where.key: getattr(backbone, name) for name, where in row.fields.items()}
    if "embedding_size" in row.fields and backbone.embedding_size is None:
        values["embedding_size"] = backbone.hidden_size
    if row.dropout_key is not None:
        values[row.dropout_key] = backbone.classifier_dropout
    return {
        "architectures": [f"{row.stem}{SPAN_SUFFIX if finds_spans else 'ForSequenceClassification'}"],
        "model_type": backbone.model_type,
        **values,
    }


def module_names(backbone: BackboneConfig, *, finds_spans: bool = False) -> dict[str, tuple[str, ...]]:
    """Our modules and theirs, layer numbers and prefix filled in: the table that both directions use."""
    row = family(backbone.model_type)
    names: dict[str, tuple[str, ...]] = {}
    for ours, theirs in row.modules.items():
        layers = range(backbone.num_hidden_layers) if "#" in ours else range(1)
        for layer in layers:
            filled = tuple(row.prefix + name.replace("#", str(layer)) for name in theirs)
            names[ours.replace("#", str(layer))] = filled
    return {**names, **(SPAN_HEAD if finds_spans else row.head)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Translated:
    """Weights under our names, and what could not be translated."""

    tensors: dict[str, Tensor]
    ignored: tuple[str, ...]
    """Their names of weights that a classifier does not need."""
    unknown: tuple[str, ...]
    """Their names that the table does not know."""
    incomplete: tuple[str, ...]
    """Their names that are missing from a stack of query, key and value, or whose shapes differ there."""


def from_huggingface(
    backbone: BackboneConfig, tensors: Mapping[str, Tensor], *, finds_spans: bool = False
) -> Translated:
    """Rename and stack the weights of a Hugging Face checkpoint, with or without its prefix and head."""
    row = family(backbone.model_type)
    names = module_names(backbone, finds_spans=finds_spans)
    places = {their: (our, part) for our, theirs in names.items() for part, their in enumerate(theirs)}
    stacks: dict[str, dict[int, Tensor]] = {}
    ignored, unknown = [], []
    ignorable = [re.compile(pattern) for pattern in (*IGNORED, *row.ignored)]
    for name, tensor in tensors.items():
        module, _, suffix = _modern(name).rpartition(".")
        place = places.get(module) or places.get(row.prefix + module)
        if place is not None and suffix in ("weight", "bias"):
            stacks.setdefault(f"{place[0]}.{suffix}", {})[place[1]] = tensor
        elif any(pattern.fullmatch(_modern(name).removeprefix(row.prefix)) for pattern in ignorable):
            ignored.append(name)
        else:
            unknown.append(name)
    whole, incomplete = _stack(names, stacks)
    return Translated(
        tensors=whole, ignored=tuple(ignored), unknown=tuple(unknown), incomplete=tuple(incomplete)
    )


def _stack(
    names: Mapping[str, tuple[str, ...]], stacks: Mapping[str, Mapping[int, Tensor]]
) -> tuple[dict[str, Tensor], list[str]]:
    whole: dict[str, Tensor] = {}
    incomplete: list[str] = []
    for our, parts in stacks.items():
        module, _, suffix = our.rpartition(".")
        missing = [f"{their}.{suffix}" for part, their in enumerate(names[module]) if part not in parts]
        shapes = {tensor.shape for tensor in parts.values()}
        if missing or len(shapes) > 1 or (len(parts) > 1 and shapes == {torch.Size()}):
            incomplete += missing or [f"{their}.{suffix}" for their in names[module]]
        else:
            whole[our] = parts[0] if len(parts) == 1 else torch.cat([parts[part] for part in sorted(parts)])
    return whole, incomplete


def _modern(name: str) -> str:
    for old, new in LEGACY_SUFFIXES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def to_huggingface(
    backbone: BackboneConfig, tensors: Mapping[str, Tensor], *, finds_spans: bool = False
) -> dict[str, Tensor]:
    """The reverse: the backbone and the final head under their names; pruner and exit heads are left out."""
    names = module_names(backbone, finds_spans=finds_spans)
    renamed = {}
    for name, tensor in tensors.items():
        module, _, suffix = name.rpartition(".")
        if module in names:
            parts = tensor.chunk(len(names[module]))
            for their, part in zip(names[module], parts, strict=True):
                renamed[f"{their}.{suffix}"] = part.contiguous()
    return renamed

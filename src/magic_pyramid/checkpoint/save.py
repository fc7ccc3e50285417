"""Write a model folder: ours, or an ordinary Hugging Face checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from magic_pyramid.backbones import huggingface_config
from magic_pyramid.backbones import to_huggingface as huggingface_names
from magic_pyramid.checkpoint.folder import replacing_files
from magic_pyramid.checkpoint.storage import Storage, write_tensors
from magic_pyramid.config import FORMAT_VERSION, ModelConfig
from magic_pyramid.errors import CheckpointError
from magic_pyramid.folder_info import CONFIG_FILE, INFO_KEYS
from magic_pyramid.model import PyramidModel

MODEL_TYPE = "magic_pyramid"
ARCHITECTURE = "MagicPyramidForSequenceClassification"
"""What transformers' Auto classes load; there is none that finds spans."""
WEIGHTS_FILE = "model.safetensors"

PROBLEM_TYPES: Mapping[str, str] = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""Our problem types and Hugging Face's words for them, which has none for spans."""


class SavesTokenizer(Protocol):
    """What saving needs of a text encoder."""

    def save_pretrained(self, folder: Path, /) -> object:
        """Write the tokenizer's files."""


def save_model(
    model: PyramidModel,
    folder: str | Path,
    *,
    encoder: SavesTokenizer | None,
    info: Mapping[str, Any],
    readme: str | None,
    storage: Storage = "fp32",
) -> None:
    """Write our model folder, all of it or nothing.

    Args:
        model: the model.
        folder: where to; made if it does not exist. Files of other names in it stay.
        encoder: writes the tokenizer files; None leaves those that are there.
        info: free JSON objects under ``INFO_KEYS``; other keys are not written.
        readme: text of README.md; None leaves the one that is there.
        storage: how matrices are stored; they are fp32 again when loaded.

    Raises:
        CheckpointError: something cannot be written.
    """
    with replacing_files(Path(folder)) as staging:
        if encoder is not None:
            encoder.save_pretrained(staging)
        if readme is not None:
            (staging / "README.md").write_text(readme, encoding="utf-8")
        write_tensors(model.state_dict(), staging / WEIGHTS_FILE, storage=storage)
        write_config(staging, model.config, info=info)


def write_config(folder: Path, config: ModelConfig, *, info: Mapping[str, Any]) -> None:
    """Write ``config.json``.

    Raises:
        CheckpointError: the info is not plain JSON.
    """
    (folder / CONFIG_FILE).write_text(_json(config_json(config, info=info)), encoding="utf-8")


def config_json(config: ModelConfig, *, info: Mapping[str, Any]) -> dict[str, Any]:
    """Content of ``config.json``, in words that transformers understands where it has them."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": [ARCHITECTURE] if config.span is None else [],
        "format_version": FORMAT_VERSION,
        **_labels_json(config),
        MODEL_TYPE: config.to_dict(),
        **{key: dict(info.get(key) or {}) for key in INFO_KEYS},
    }


def to_huggingface(model: PyramidModel, folder: str | Path, *, encoder: SavesTokenizer | None) -> None:
    """Write the dense encoder and its final head as an ordinary checkpoint of the backbone's family.

    Pruner and exit heads have no place there and are left out.

    Raises:
        CheckpointError: the final head is not the family's own, or something cannot be written.
    """
    config = model.config
    if config.final_head != "cls":
        raise CheckpointError(
            f"final_head is {config.final_head!r}, which Hugging Face classifiers do not have; "
            "only 'cls' can be written"
        )
    finds_spans = config.span is not None
    content = _json({**huggingface_config(config.backbone, finds_spans=finds_spans), **_labels_json(config)})
    tensors = huggingface_names(config.backbone, model.state_dict(), finds_spans=finds_spans)
    with replacing_files(Path(folder)) as staging:
        if encoder is not None:
            encoder.save_pretrained(staging)
        write_tensors(tensors, staging / WEIGHTS_FILE, storage="fp32")
        (staging / CONFIG_FILE).write_text(content, encoding="utf-8")


def _labels_json(config: ModelConfig) -> dict[str, Any]:
    if config.span is not None:
        return {}
    return {
        "id2label": {str(index): label for index, label in enumerate(config.labels)},
        "label2id": {label: index for index, label in enumerate(config.labels)},
        "problem_type": PROBLEM_TYPES[config.problem_type],
    }


def _json(data: Mapping[str, Any]) -> str:
    try:
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{CONFIG_FILE}: {', '.join(INFO_KEYS)} must be plain JSON ({error})") from None

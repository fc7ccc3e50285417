"""Encoders of Hugging Face that we read and write: reversible tables as data, and two functions each way."""

from magic_pyramid.backbones.families import FAMILIES
from magic_pyramid.backbones.translate import (
    SPAN_SUFFIX,
    Translated,
    backbone_config,
    backbone_problems,
    from_huggingface,
    huggingface_config,
    module_names,
    to_huggingface,
)

__all__ = [
    "FAMILIES",
    "SPAN_SUFFIX",
    "Translated",
    "backbone_config",
    "backbone_problems",
    "from_huggingface",
    "huggingface_config",
    "module_names",
    "to_huggingface",
]

"""The model folder: read ours and Hugging Face's, write ours and theirs, give a model a new config."""

from magic_pyramid.checkpoint.folder import finish_save
from magic_pyramid.checkpoint.load import LoadedModel, load_model
from magic_pyramid.checkpoint.reconfigure import Reconfigured, with_config
from magic_pyramid.checkpoint.save import config_json, save_model, to_huggingface
from magic_pyramid.checkpoint.storage import Storage, expand, read_tensors

__all__ = [
    "LoadedModel",
    "Reconfigured",
    "Storage",
    "config_json",
    "expand",
    "finish_save",
    "load_model",
    "read_tensors",
    "save_model",
    "to_huggingface",
    "with_config",
]

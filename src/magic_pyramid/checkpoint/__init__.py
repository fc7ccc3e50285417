"""The model folder: read ours and Hugging Face's, write ours and theirs, give a model a new config."""

from magic_pyramid.checkpoint.folder import finish_save, replacing_files
from magic_pyramid.checkpoint.load import LoadedModel, load_model
from magic_pyramid.checkpoint.reconfigure import Reconfigured, with_config
from magic_pyramid.checkpoint.save import config_json, save_model, to_huggingface, write_config
from magic_pyramid.checkpoint.seen_rows import carry_seen_rows, read_seen_rows, write_seen_rows
from magic_pyramid.checkpoint.storage import Storage, expand, read_tensors
from magic_pyramid.checkpoint.temperatures import fold_stored, fold_temperatures

__all__ = [
    "LoadedModel",
    "Reconfigured",
    "Storage",
    "carry_seen_rows",
    "config_json",
    "expand",
    "finish_save",
    "fold_stored",
    "fold_temperatures",
    "load_model",
    "read_seen_rows",
    "read_tensors",
    "replacing_files",
    "save_model",
    "to_huggingface",
    "with_config",
    "write_config",
    "write_seen_rows",
]

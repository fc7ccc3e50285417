"""Which rows a model has seen in training: 8 bytes a row, in a file beside the weights."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from magic_pyramid.checkpoint.folder import replacing_files
from magic_pyramid.errors import CheckpointError

SEEN_FILE = "seen_rows.safetensors"
Seen = Mapping[str, np.ndarray]
"""Fingerprints by split: `train`, and `validation`, which chose among the weights."""


def write_seen_rows(folder: Path, seen: Seen, *, earlier: Seen | None) -> None:
    """Write the fingerprints of a training, with those of the model it began from.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    earlier = earlier or {}
    joined = {
        split: np.unique(
            np.concatenate([rows.get(split, np.zeros(0, np.uint64)) for rows in (seen, earlier)])
        )
        for split in ("train", "validation")
    }
    with replacing_files(folder) as staging:
        save_file(joined, staging / SEEN_FILE)


def read_seen_rows(folder: Path) -> Seen | None:
    """Fingerprints of the rows a folder was trained on; None where it does not say.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / SEEN_FILE
    if not path.is_file():
        return None
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy the whole folder again") from None


def carry_seen_rows(source: Path | None, folder: Path) -> None:
    """Take the file along when a model is saved elsewhere; that of a model that lay there before goes.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    if source is None or source.resolve() == folder.resolve():
        return
    if (source / SEEN_FILE).is_file():
        with replacing_files(folder) as staging:
            shutil.copyfile(source / SEEN_FILE, staging / SEEN_FILE)
    else:
        (folder / SEEN_FILE).unlink(missing_ok=True)

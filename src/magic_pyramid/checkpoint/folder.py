"""Replace the files of a folder in one step: after a kill it holds all the old files or all the new ones.

The steps, which together are a redo log inside the folder:

1. every new file is written below ``.saving`` and flushed to disk; a kill leaves the old files untouched;
2. ``.saving`` is renamed to ``.saved``: this one rename decides whether the old or the new files count;
3. each file below ``.saved`` is renamed over the old one, then ``.saved`` is removed; whoever opens the
   folder after a kill here calls ``finish_save``, which does the rest of this step.

Files that the save does not write stay where they are. (Swapping two folders is not one rename on every
system, would move the user's own files and fails where the folder is a mount point.)
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from magic_pyramid.errors import CheckpointError

UNFINISHED = ".saving"
DECIDED = ".saved"


@contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """Give a folder to write into; on leaving, its files replace those of the same names in ``folder``.

    Raises:
        CheckpointError: a file cannot be written; the old ones are as they were.
    """
    staging = folder / UNFINISHED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        finish_save(folder)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        yield staging
        for path in sorted(staging.rglob("*")):
            _flush(path)
        _flush(staging)
        staging.replace(folder / DECIDED)
        _flush(folder)
    except Exception as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, OSError):
            raise CheckpointError(
                f"{folder} cannot be written ({error}); free some space or choose another folder"
            ) from error
        raise
    finish_save(folder)


def finish_save(folder: Path) -> None:
    """Complete a save that was interrupted after it was decided; otherwise do nothing.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    decided = folder / DECIDED
    if not decided.is_dir():
        return
    try:
        for source in sorted(path for path in decided.rglob("*") if not path.is_dir()):
            target = folder / source.relative_to(decided)
            target.parent.mkdir(parents=True, exist_ok=True)
            # Another process that opened the folder may have moved the file first.
            with suppress(FileNotFoundError):
                source.replace(target)
        _flush(folder)
        shutil.rmtree(decided, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(
            f"{folder} holds an interrupted save that cannot be finished ({error}); "
            "make the folder writable once"
        ) from error


def _flush(path: Path) -> None:
    """Force a file, or a folder's list of names, onto the disk."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

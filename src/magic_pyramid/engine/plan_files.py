"""What every exported folder has: a plan in JSON with a version, checksums of its files, and a precision."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from magic_pyramid.errors import CheckpointError

Precision = Literal["fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@contextmanager
def reading_plan(path: Path, *, newest: int) -> Iterator[dict[str, Any]]:
    """Give the content of a plan; what goes wrong while it is taken apart is the file's fault.

    Raises:
        CheckpointError: the plan is missing, no JSON object, newer than the newest known version, or lacks a
            field or has one of another kind.
    """
    data = _read_object(path)
    _check_version(data.get("plan_version"), path, newest=newest)
    try:
        yield data
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if type(error) is KeyError else str(error)
        raise CheckpointError(f"{path} cannot be read ({reason}); export the model again") from None


def check_sha256(folder: Path, sha256: Mapping[str, str], *, plan: str) -> None:
    """Whether files are still the ones that were exported.

    Raises:
        CheckpointError: one is missing or differs from the checksum that the plan, a file's name, has of it.
    """
    for file, wanted in sha256.items():
        path = folder / file
        try:
            found = file_sha256(path)
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read ({error.strerror}); copy the whole folder again"
            ) from None
        if found != wanted:
            raise CheckpointError(
                f"{path} is damaged or not the file that was exported: its checksum is not the one in {plan}"
                "; copy the whole folder again"
            )


def file_sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_version(version: object, path: Path, *, newest: int) -> None:
    """Whether this release can read a plan of a version.

    Raises:
        CheckpointError: it is no version, or newer than the newest known.
    """
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CheckpointError(f"{path}: plan_version is {version!r}; it must be a whole number of at least 1")
    if version > newest:
        raise CheckpointError(
            f"{path}: plan_version is {version}, written by a newer release; this one reads up to "
            f"{newest}: pip install --upgrade magic-pyramid"
        )


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of an exported folder.

    Raises:
        CheckpointError: it is missing or no JSON object.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); give a folder that `magic-pyramid export` wrote"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); copy the whole folder again") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds {type(data).__name__}; it must hold an object")
    return data

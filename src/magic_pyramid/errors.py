"""The closed family of errors: what was wrong, what was got, what was wanted, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class MagicPyramidError(Exception):
    """Base of every error this library raises on purpose."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500


class ConfigError(MagicPyramidError, ValueError):
    """A setting is impossible, unknown or contradicts another one."""

    exit_code = 2
    http_status = 422


class InputError(MagicPyramidError, ValueError):
    """Texts, labels or files given by the user cannot be used as they are."""

    exit_code = 2
    http_status = 422


class CheckpointError(MagicPyramidError):
    """A model folder is missing, damaged, foreign, newer, or does not fit its config."""

    exit_code = 3
    http_status = 503


OF_TRAIN = (
    *("accelerate", "datasets", "filelock", "huggingface_hub", "matplotlib", "torch", "transformers", "yaml"),
)
"""Libraries that the extra named train installs."""


class MissingExtraError(MagicPyramidError, ImportError):
    """An optional library is not installed."""

    exit_code = 4
    http_status = 501

    @classmethod
    def of(cls, feature: str, *, library: str, extra: str) -> "MissingExtraError":
        """Name the feature, the library it needs, and the line that installs it."""
        return cls(f"{feature} needs {library}: pip install 'magic-pyramid[{extra}]'")

    @classmethod
    def for_import(cls, feature: str, error: ModuleNotFoundError) -> "MissingExtraError | None":
        """What to say of an import that failed; None: no extra has the module, so it is another error."""
        if error.name not in OF_TRAIN:
            return None
        return cls.of(feature, library=error.name, extra="train")


class OverloadedError(MagicPyramidError):
    """More work was offered than the queue accepts."""

    http_status = 429


def nearest(name: str, known: Iterable[str]) -> str:
    """End of an error sentence: the nearest known name, or all of them when none is near."""
    names = [str(candidate) for candidate in known]
    close = get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}? (known: {', '.join(names)})"
    return f"known: {', '.join(names)}"

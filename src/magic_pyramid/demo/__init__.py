"""The packaged demo model, its test texts, and the table that `magic-pyramid demo` prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from magic_pyramid.data import Example, load_data

_FOLDER = Path(__file__).parent
_UNCHANGED: dict[str, Any] = {}
SETTINGS: dict[str, dict[str, Any]] = {
    "bert": {"exit_threshold": None, "prune_scale": 0.0},
    "ltp": {"exit_threshold": None},
    "exits": {"prune_scale": 0.0},
    "magic_pyramid": _UNCHANGED,
}
"""Speed knobs of each row; what is not named stays where calibration put it."""


class Evaluates(Protocol):
    """What the table needs of a classifier."""

    def evaluate(self, examples: Sequence[Example], **settings: Any) -> dict[str, Any]:
        """One row of numbers."""


def demo_model_path() -> Path:
    """Folder of the packaged demo model."""
    return _FOLDER / "model"


def demo_data() -> dict[str, list[Example]]:
    """The packaged test texts with their labels, by the name of the set they come from."""
    return {
        path.name: load_data(path, split="test").splits["test"]
        for path in sorted((_FOLDER / "data").iterdir())
    }


def demo_rows(classifier: Evaluates, examples: Sequence[Example], *, repeats: int = 5) -> dict[str, Any]:
    """Evaluate every setting of the same weights: ``{"rows": [...]}``, one row a setting."""
    rows = [
        {"setting": name, **classifier.evaluate(examples, repeats=repeats, **knobs)}
        for name, knobs in SETTINGS.items()
    ]
    return {"rows": rows}

"""The packaged demo model, its test texts, and the table that `magic-pyramid demo` prints."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from magic_pyramid.certify import SPEEDS
from magic_pyramid.data import Example, load_data
from magic_pyramid.engine.interface import DENSE, Setting

_FOLDER = Path(__file__).parent


class Compares(Protocol):
    """What the table needs of a classifier."""

    def setting(self, **knobs: Any) -> Setting:
        """A speed knob; what is not named stays where calibration put it."""

    def compare(
        self,
        examples: Sequence[Example],
        *,
        settings: dict[str, Setting],
        repeats: int,
        say: Callable[[str], None],
    ) -> dict[str, dict[str, Any]]:
        """A row of numbers for each setting."""


def demo_model_path() -> Path:
    """Folder of the packaged demo model."""
    return _FOLDER / "model"


def demo_data() -> dict[str, list[Example]]:
    """The packaged test texts with their labels, by the name of the set they come from."""
    return {
        path.name: load_data(path, split="test").splits["test"]
        for path in sorted((_FOLDER / "data").iterdir())
    }


def demo_rows(
    classifier: Compares,
    examples: Sequence[Example],
    *,
    repeats: int = 5,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Evaluate settings of the same weights: ``{"rows": [...]}``, one row a setting.

    Beside the dense model these are each half of the default setting alone, and the named speeds.
    ``say`` is told what has been done, for people who wait.
    """
    settings = {
        "dense": DENSE,
        "tokens only": classifier.setting(exit_threshold=None),
        "exits only": classifier.setting(prune_scale=0.0),
        **{name: classifier.setting(speed=name) for name in SPEEDS},
    }
    rows = classifier.compare(examples, settings=settings, repeats=repeats, say=say)
    return {"rows": [{"setting": name, **row} for name, row in rows.items()]}

"""Where words find room in a picture that other things already occupy."""

from collections.abc import Sequence
from dataclasses import dataclass

LINE = 12.0
"""Height of a line of small words, in points."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle that something occupies; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> bool:
        """Whether the two share a point."""
        return not (
            self.right < other.left
            or other.right < self.left
            or self.bottom < other.top
            or other.bottom < self.top
        )

    def is_within(self, other: "Box") -> bool:
        """Whether no part sticks out."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


def dots(points: Sequence[tuple[float, float]], radius: float) -> list[Box]:
    """What round marks occupy."""
    return [Box(x - radius, y - radius, x + radius, y + radius) for x, y in points]


def first_free(candidates: Sequence[Box], taken: Sequence[Box], *, page: Box) -> Box:
    """The first candidate that lies on the page and on nothing else; the first of all where none does."""
    free = (box for box in candidates if box.is_within(page) and not any(box.overlap(it) for it in taken))
    return next(free, candidates[0])

"""A page measured in points, y downwards: the few strokes that the PNG pictures are made of."""

from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import TextToPath
from PIL import Image

from magic_pyramid.report.palette import INK, PAPER

DPI = 160
"""Pixels per inch of a saved picture."""
COLORS = 256
"""Colours of a saved PNG: a picture of few strokes looks the same, in a third of the bytes."""
MISSING = "▯"
"""Stands for a character that no installed font can draw."""

_FIRST = "DejaVu Sans"
_FALLBACKS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "PingFang SC",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Noto Sans",
)


class Canvas:
    """One figure with one coordinate system: points, (0, 0) at the top left."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=DPI, facecolor=PAPER)
        FigureCanvasAgg(self.figure)
        self.axes: Axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)
        self.axes.axis("off")

    def text(
        self, x: float, y: float, words: str, *, size: float = 9, color: str = INK, **options: Any
    ) -> None:
        """Write words; baseline-centred and never read as a formula."""
        options = {"ha": "left", "va": "center_baseline", **options}
        bold = options.pop("bold", False)
        self.axes.text(
            x, y, drawable(words), color=color, parse_math=False,
            fontproperties=font(size, bold=bold), **options,
        )  # fmt: skip

    def line(self, xs: list[float], ys: list[float], color: str, width: float = 1.0, **options: Any) -> None:
        """Draw a polyline."""
        self.axes.plot(xs, ys, color=color, linewidth=width, **{"solid_capstyle": "round", **options})

    def box(
        self, x: float, y: float, width: float, height: float, *, radius: float = 3, **options: Any
    ) -> None:
        """Draw a rectangle with round corners; its fill and edge are given as matplotlib names them."""
        radius = min(radius, width / 2, height / 2)
        style = f"round,pad=0,rounding_size={radius}"
        self.axes.add_patch(
            FancyBboxPatch((x, y), width, height, boxstyle=style, **{"linewidth": 0, **options})
        )

    def save(self, path: str | Path) -> Path:
        """Write the file; the suffix decides the format."""
        path = Path(path)
        self.figure.savefig(path, dpi=DPI, facecolor=PAPER)
        if path.suffix.lower() == ".png":
            with Image.open(path) as drawn:
                few = drawn.convert("RGB").quantize(COLORS)
            few.save(path, optimize=True)
        return path


def text_width(words: str, size: float, *, bold: bool = False) -> float:
    """Width of one line of text in points."""
    return float(TextToPath().get_text_width_height_descent(drawable(words), font(size, bold=bold), False)[0])


def drawable(words: str) -> str:
    """The words with a placeholder for each character that no font here can draw."""
    known = _characters()
    return "".join(character if ord(character) in known else MISSING for character in words)


def font(size: float, *, bold: bool = False) -> FontProperties:
    """The font of every picture at a size in points."""
    return FontProperties(family=_families(), size=size, weight="bold" if bold else "normal")


@cache
def _families() -> list[str]:
    installed = {entry.name for entry in fontManager.ttflist}
    return [_FIRST, *(name for name in _FALLBACKS if name in installed)]


@cache
def _characters() -> frozenset[int]:
    fonts = (get_font(findfont(FontProperties(family=[name]))) for name in _families())
    return frozenset(code for face in fonts for code in face.get_charmap())

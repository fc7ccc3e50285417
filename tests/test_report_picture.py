from pathlib import Path

import matplotlib.image
import matplotlib.pyplot
import pytest

from magic_pyramid.errors import InputError
from magic_pyramid.report import attention, picture
from magic_pyramid.report.attention import draw_attention
from magic_pyramid.report.canvas import DPI, Canvas, drawable, text_width
from magic_pyramid.report.picture import WIDTH, draw_pyramid
from report_traces import long_tokens, make_trace, many_traces


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, float, float]]:
    """Everything written on a canvas: words, left end, right end, height (horizontal text only)."""
    written: list[tuple[str, float, float, float]] = []
    original = Canvas.text

    def record(self: Canvas, x: float, y: float, words: str, *, size: float = 9, **options: object) -> None:
        width = text_width(words, size, bold=bool(options.get("bold")))
        left = x - {"left": 0.0, "center": 0.5, "right": 1.0}[str(options.get("ha", "left"))] * width
        if "rotation" not in options:
            written.append((words, left, left + width, y))
        original(self, x, y, words, size=size, **options)

    monkeypatch.setattr(Canvas, "text", record)
    return written


@pytest.mark.parametrize("name", list(many_traces()))
def test_every_trace_becomes_a_picture_without_overlapping_words(
    name: str, tmp_path: Path, texts: list[tuple[str, float, float, float]]
) -> None:
    pixels = matplotlib.image.imread(draw_pyramid(many_traces()[name], tmp_path / "pyramid.png"))
    assert pixels.shape[1] == pytest.approx(WIDTH / 72 * DPI, abs=1)
    assert pixels.shape[0] > 300
    assert pixels[..., :3].std() > 0.02
    assert matplotlib.pyplot.get_fignums() == []
    for words, left, right, y in texts:
        assert left >= 0, words
        assert right <= WIDTH, words
        for other, other_left, other_right, other_y in texts:
            if y == other_y and left < other_left:
                assert right <= other_left + 1, (words, other, right, other_left, other_right)


def test_the_picture_says_what_happened(tmp_path: Path, texts: list[tuple[str, float, float, float]]) -> None:
    draw_pyramid(many_traces()["short"], tmp_path / "pyramid.png")
    words = [entry[0] for entry in texts]
    assert {
        "positive",
        "92.0 %",
        "left here: positive 92.0 %",
        "7 layers not run",
        "τ 0.2",
        "15 → 12",
    } <= set(words)
    assert words.count("lovely") == 5


def test_labels_are_spread_without_changing_their_order() -> None:
    places = picture._spread([10.0, 11.0, 12.0, 99.0], gap=16, low=0, high=100)
    assert places == sorted(places)
    assert min(b - a for a, b in zip(places, places[1:], strict=False)) >= 16
    assert places[-1] <= 100


def test_characters_without_a_glyph_get_a_placeholder() -> None:
    assert drawable("a\U000f0000b") == "a▯b"


@pytest.mark.parametrize(("length", "labelled"), [(1, True), (14, True), (300, False)])
def test_attention_pictures_are_drawn_at_every_length(length: int, labelled: bool, tmp_path: Path) -> None:
    trace = make_trace(long_tokens(length) if length > 1 else ["[CLS]"], attention=True, leave_after=1)
    pixels = matplotlib.image.imread(draw_attention(trace, 0, tmp_path / "attention.png"))
    assert min(pixels.shape[:2]) > 300
    assert (560 / length >= attention.SMALLEST_LABELLED) == labelled


def test_attention_without_pruning_has_no_threshold_line(
    tmp_path: Path, texts: list[tuple[str, float, float, float]]
) -> None:
    trace = make_trace(long_tokens(14), attention=True, prunes=False)
    draw_attention(trace, 0, tmp_path / "attention.png")
    assert not any("threshold" in words for words, *_ in texts)
    assert any(words == "1 = average" for words, *_ in texts)


def test_attention_of_a_layer_that_did_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layer 9 did not run for this text; choose 0 to 4"):
        draw_attention(many_traces()["short"], 9, tmp_path / "attention.png")


def test_attention_that_was_not_recorded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the trace has no attention of layer 0"):
        draw_attention(many_traces()["long"], 0, tmp_path / "attention.png")
